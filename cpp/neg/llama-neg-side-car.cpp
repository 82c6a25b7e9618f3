#include "llama-neg-format.h"
#include "llama-neg-head.h"
#include "llama-neg.h"

#include "llama-impl.h"
#include "llama-mmap.h"
#include "llama-model.h"

#include "ggml-backend.h"
#include "hash/hash.h"

#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// SHA-256 of the output norm as little-endian F32: cheap, and different for every backbone that was trained at all
static std::string norm_sha256(const llama_model & model) {
    const ggml_tensor * norm = model.output_norm;
    if (!norm || ggml_is_quantized(norm->type)) {
        return "";
    }
    std::vector<uint8_t> raw(ggml_nbytes(norm));
    ggml_backend_tensor_get(norm, raw.data(), 0, raw.size());
    const int64_t n = ggml_nelements(norm);
    std::vector<float> f32(n);
    switch (norm->type) {
        case GGML_TYPE_F32:  memcpy(f32.data(), raw.data(), raw.size());                               break;
        case GGML_TYPE_F16:  ggml_fp16_to_fp32_row((const ggml_fp16_t *) raw.data(), f32.data(), n); break;
        case GGML_TYPE_BF16: ggml_bf16_to_fp32_row((const ggml_bf16_t *) raw.data(), f32.data(), n); break;
        default:             return "";
    }
    return hash_sha256_hex(f32.data(), f32.size() * sizeof(float));
}

static void check_backbone(const llama_model & model, const gguf_context * gguf) {
    const char * remedy = "; use the head that was trained on this backbone";

    const int64_t id = gguf_find_key(gguf, "neg.n_embd");
    if (id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_UINT32) {
        const uint32_t n_embd = gguf_get_val_u32(gguf, id);
        if (n_embd != model.hparams.n_embd) {
            throw std::runtime_error("neg: neg.n_embd: the head is for hidden size " + std::to_string(n_embd) +
                                     ", the model has " + std::to_string(model.hparams.n_embd) + remedy);
        }
    }
    const std::string arch = llama_neg_str(gguf, "neg.base_arch");
    if (!arch.empty() && arch != model.arch_name()) {
        throw std::runtime_error("neg: neg.base_arch: the head is for a backbone of architecture " + arch +
                                 ", the model is " + model.arch_name() + remedy);
    }
    const std::string want = llama_neg_str(gguf, "neg.base_norm_sha256");
    const std::string have = want.empty() ? "" : norm_sha256(model);
    if (!have.empty() && want != have) {
        throw std::runtime_error(std::string("neg: neg.base_norm_sha256: the head was made for another backbone ") +
                                 "(its output norm differs)" + remedy);
    }
}

static void load_side_car(llama_model & model, const char * path) {
    ggml_context * meta_raw = nullptr;
    const gguf_init_params params = { /*.no_alloc =*/ true, /*.ctx =*/ &meta_raw };

    gguf_context_ptr gguf(gguf_init_from_file(path, params));
    ggml_context_ptr meta(meta_raw);
    if (!gguf || !meta) {
        throw std::runtime_error(
            "neg: cannot be read as GGUF (missing, damaged or of a different type); write the side-car again");
    }
    if (!llama_neg_in_gguf(gguf.get())) {
        throw std::runtime_error(
            "neg: the file has no neg.* keys or tensors; give a NEG side-car, or a model with a head");
    }
    check_backbone(model, gguf.get());

    const auto tensor_of = [&](const char * name) -> const ggml_tensor * { return ggml_get_tensor(meta.get(), name); };

    int64_t n_reduced = 0;
    const llama_neg_keys keys = llama_neg_check_gguf(gguf.get(), model.hparams.n_embd, n_reduced, tensor_of);

    llama_file file(path, "rb");

    llama_neg_head head;
    const size_t mem_size = 4 * ggml_tensor_overhead();
    head.ctx.reset(ggml_init({ mem_size, /*.mem_buffer =*/ nullptr, /*.no_alloc =*/ true }));

    const auto own = [&](const char * name) {
        ggml_tensor * t = ggml_dup_tensor(head.ctx.get(), ggml_get_tensor(meta.get(), name));
        ggml_set_name(t, name);
        return t;
    };
    head.down_w = own(LLAMA_NEG_DOWN_W);
    head.down_b = own(LLAMA_NEG_DOWN_B);
    head.out_w  = own(LLAMA_NEG_OUT_W);
    head.out_b  = own(LLAMA_NEG_OUT_B);

    // on the device of the LM head, whose input the head shares
    ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(model.dev_output());
    head.buf.reset(ggml_backend_alloc_ctx_tensors_from_buft(head.ctx.get(), buft));
    if (!head.buf) {
        throw std::runtime_error(
            "neg: no memory for the head on the device of the output layer; free some or use fewer GPU layers");
    }
    ggml_backend_buffer_set_usage(head.buf.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);

    for (ggml_tensor * t : head.tensors()) {
        const int64_t id    = gguf_find_tensor(gguf.get(), ggml_get_name(t));
        const size_t offset = gguf_get_data_offset(gguf.get()) + gguf_get_tensor_offset(gguf.get(), id);
        std::vector<uint8_t> data(ggml_nbytes(t));
        if (offset > file.size() || data.size() > file.size() - offset) {
            throw std::runtime_error("neg: " + std::string(ggml_get_name(t)) +
                                     ": the file ends before the tensor's data; write the side-car again");
        }
        file.seek(offset, SEEK_SET);
        file.read_raw(data.data(), data.size());
        ggml_backend_tensor_set(t, data.data(), 0, data.size());
        llama_neg_check_finite(t);
    }

    head.threshold    = keys.threshold;
    head.top_k        = keys.top_k;
    head.temp_scale   = keys.temp_scale;
    head.temp_enabled = keys.temp_enabled;
    head.source       = keys.source;

    if (model.neg.present()) {
        LLAMA_LOG_INFO("%s: the head of %s replaces the one in the model file\n", __func__, path);
    }
    model.neg = std::move(head);
}

int32_t llama_model_load_neg(llama_model * model, const char * path, char * err, size_t err_size) {
    try {
        load_side_car(*model, path);
        return 0;
    } catch (const std::exception & e) {
        // "neg: <what>" -> "neg: <file>: <what>"
        const char * what = e.what();
        if (strncmp(what, "neg: ", 5) == 0) {
            what += 5;
        }
        snprintf(err, err_size, "neg: %s: %s", path, what);
        return -1;
    }
}
