#include "llama-neg-head.h"

#include "llama-neg-format.h"
#include "llama-neg.h"

#include "llama-context.h"
#include "llama-graph.h"
#include "llama-impl.h"
#include "llama-model-loader.h"
#include "llama-model.h"

#include <cinttypes>
#include <cmath>

void llama_neg_load(llama_model & model, llama_model_loader & ml, const llama_neg_create_tensor & create) {
    if (!llama_neg_in_gguf(ml.metadata)) {
        return;
    }
    const int64_t n_embd    = model.hparams.n_embd;
    int64_t       n_reduced = 0;

    const auto tensor_of = [&](const char * name) -> const ggml_tensor * { return ml.get_tensor_meta(name); };

    const llama_neg_keys keys = llama_neg_check_gguf(ml.metadata, n_embd, n_reduced, tensor_of);

    const LLM_TN tn(model.arch);

    llama_neg_head & head = model.neg;
    head.down_w = create(tn(LLM_TENSOR_NEG_PROJ_DOWN),   { n_embd, n_reduced });
    head.down_b = create(tn(LLM_TENSOR_NEG_PROJ_DOWN_B), { n_reduced });
    head.out_w  = create(tn(LLM_TENSOR_NEG_PROJ_OUT),    { n_reduced });
    head.out_b  = create(tn(LLM_TENSOR_NEG_PROJ_OUT_B),  { 1 });

    head.threshold    = keys.threshold;
    head.top_k        = keys.top_k;
    head.temp_scale   = keys.temp_scale;
    head.temp_enabled = keys.temp_enabled;
    head.source       = keys.source;
}

void llama_neg_check_data(const llama_model & model) {
    for (const ggml_tensor * t : model.neg.tensors()) {
        // no data when memory use is only being estimated
        if (t && t->buffer && ggml_backend_buffer_get_size(t->buffer) > 0) {
            llama_neg_check_finite(t);
        }
    }
}

// The head's matrix times every row of h. Products with several rows at once are not F32 on a GPU, whatever precision is
// asked for: Vulkan rounds both factors to F16 from 9 rows on, CUDA to TF32 from 4. With each row a matrix of its own,
// every backend computes in F32, and the scheduler does not move a product with weights of the CPU to a GPU.
static ggml_tensor * llama_neg_project(ggml_context * ctx0, const llama_model & model, ggml_tensor * h) {
    ggml_tensor * down_w = model.neg.down_w;
    // rows of a split matrix lie on several devices, which multiply two-dimensional factors only
    const bool whole = model.split_mode() != LLAMA_SPLIT_MODE_ROW && model.split_mode() != LLAMA_SPLIT_MODE_TENSOR;
    const bool apart = whole && !model.devices.empty() && h->ne[1] > 1 && ggml_is_contiguous(h);
    if (apart) {
        h = ggml_reshape_3d(ctx0, h, h->ne[0], 1, h->ne[1]);
    }
    ggml_tensor * cur = ggml_mul_mat(ctx0, down_w, h);
    ggml_prec_set_acc(cur, GGML_PREC_F32);
    return apart ? ggml_reshape_2d(ctx0, cur, cur->ne[0], cur->ne[2]) : cur;
}

void llama_neg_build(const llama_model & model, const llm_graph_context & llm) {
    const llama_neg_head & head = model.neg;
    if (!head.present() || llm.cparams.training || llm.cparams.ctx_type == LLAMA_CONTEXT_TYPE_MTP) {
        // training: the erf GELU has no backward pass; MTP: its hidden state is not the one the head was trained on
        return;
    }
    ggml_tensor * h      = llm.res->t_embd;
    ggml_tensor * logits = llm.res->t_logits;
    if (!h || !logits) {
        return;
    }
    if (h->ne[0] != head.down_w->ne[0] || h->ne[1] != logits->ne[1]) {
        LLAMA_LOG_WARN("%s: the final hidden state is [%" PRId64 ", %" PRId64 "], not one row of %" PRId64
                " per output: NEG is not evaluated\n", __func__, h->ne[0], h->ne[1], head.down_w->ne[0]);
        return;
    }

    ggml_context * ctx0 = llm.ctx0;

    ggml_tensor * cur = llama_neg_project(ctx0, model, h);
    cur = ggml_add(ctx0, cur, head.down_b);
    cur = ggml_gelu_erf(ctx0, cur);
    // a product and a row sum rather than a matrix product with one row: exact F32 on every backend, and no one-row
    // matrix ends up in a buffer that is split by rows
    cur = ggml_sum_rows(ctx0, ggml_mul(ctx0, cur, head.out_w));
    cur = ggml_add(ctx0, cur, head.out_b);
    cur = ggml_softplus(ctx0, cur);
    llm.cb(cur, "result_neg", -1);

    llm.res->t_neg = cur;
    ggml_build_forward_expand(llm.gf, cur);
}

void llama_neg_save_keys(const llama_model & model, gguf_context * gguf) {
    const llama_neg_head & head = model.neg;
    if (!head.present()) {
        return;
    }
    gguf_set_val_u32 (gguf, "neg.version",      LLAMA_NEG_VERSION);
    gguf_set_val_f32 (gguf, "neg.threshold",    head.threshold);
    gguf_set_val_u32 (gguf, "neg.top_k",        (uint32_t) head.top_k);
    gguf_set_val_f32 (gguf, "neg.temp_scale",   head.temp_scale);
    gguf_set_val_bool(gguf, "neg.temp_enabled", head.temp_enabled);
    gguf_set_val_str (gguf, "neg.source",       head.source.c_str());
}

//
// llama_context: a member, because rows are kept in the order they were computed until somebody asks for one
//

float llama_context::get_neg_ith(int32_t i) {
    output_reorder();

    if (neg.data == nullptr) {
        return NAN;
    }
    try {
        return neg.data[output_resolve_row(i)];
    } catch (const std::exception &) {
        return NAN;
    }
}

//
// C API
//

llama_neg_info llama_model_neg_info(const llama_model * model) {
    llama_neg_info info = {};
    if (model && model->neg.present()) {
        const llama_neg_head & head = model->neg;
        info.present      = true;
        info.n_embd       = (int32_t) head.down_w->ne[0];
        info.n_reduced    = (int32_t) head.down_w->ne[1];
        info.threshold    = head.threshold;
        info.top_k        = head.top_k;
        info.temp_scale   = head.temp_scale;
        info.temp_enabled = head.temp_enabled;
    }
    return info;
}

const char * llama_model_neg_source(const llama_model * model) {
    return model ? model->neg.source.c_str() : "";
}

float llama_get_neg_ith(llama_context * ctx, int32_t i) {
    ctx->synchronize();
    return ctx->get_neg_ith(i);
}
