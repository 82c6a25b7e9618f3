#include "llama-neg-rank.h"
#include "llama-neg.h"

#include "llama-impl.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

// true if the device behind buft supports every op of the graph; defined in llama-sampler.cpp, external by the patch
bool llama_sampler_backend_support(llama_sampler * smpl, ggml_backend_buffer_type_t buft);

//
// gate
//

struct llama_sampler_neg_gate {
    const llama_neg_gate_params params;

    float entropy = NAN; // of the row about to be sampled

    std::vector<size_t> kept; // reused, so that an active row allocates nothing

    bool is_active() const { return entropy > params.threshold; } // false for NaN
};

static const char * llama_sampler_neg_gate_name(const llama_sampler * /*smpl*/) {
    return "neg-gate";
}

static bool better(const llama_token_data & a, const llama_token_data & b) {
    return llama_neg_ranks_before(a.logit, a.id, b.logit, b.id);
}

static void llama_sampler_neg_gate_apply(llama_sampler * smpl, llama_token_data_array * cur_p) {
    auto * ctx = (llama_sampler_neg_gate *) smpl->ctx;
    if (!ctx->is_active()) {
        return;
    }
    const size_t k = (size_t) ctx->params.top_k;
    if (cur_p->size > k) {
        // a heap of the k best so far, the worst of them in front: most candidates cost one comparison
        auto & kept = ctx->kept;
        const auto by_rank = [cur_p](size_t a, size_t b) { return better(cur_p->data[a], cur_p->data[b]); };
        kept.clear();
        for (size_t i = 0; i < cur_p->size; ++i) {
            if (kept.size() < k) {
                kept.push_back(i);
                std::push_heap(kept.begin(), kept.end(), by_rank);
            } else if (by_rank(i, kept.front())) {
                std::pop_heap(kept.begin(), kept.end(), by_rank);
                kept.back() = i;
                std::push_heap(kept.begin(), kept.end(), by_rank);
            }
        }
        // in the order they had, so that what follows sees the same order as after the in-graph form
        std::sort(kept.begin(), kept.end());
        for (size_t i = 0; i < k; ++i) {
            cur_p->data[i] = cur_p->data[kept[i]];
        }
        cur_p->size     = k;
        cur_p->selected = -1;
    }
    if (ctx->params.temp_scale != 1.0f) {
        for (size_t i = 0; i < cur_p->size; ++i) {
            cur_p->data[i].logit /= ctx->params.temp_scale;
        }
    }
}

static void llama_sampler_neg_gate_reset(llama_sampler * smpl) {
    ((llama_sampler_neg_gate *) smpl->ctx)->entropy = NAN;
}

static llama_sampler * llama_sampler_neg_gate_clone(const llama_sampler * smpl) {
    const auto * ctx = (const llama_sampler_neg_gate *) smpl->ctx;
    auto * result = llama_sampler_init_neg_gate(ctx->params);
    ((llama_sampler_neg_gate *) result->ctx)->entropy = ctx->entropy;
    return result;
}

static void llama_sampler_neg_gate_free(llama_sampler * smpl) {
    delete (llama_sampler_neg_gate *) smpl->ctx;
}

static bool llama_sampler_neg_gate_backend_init(llama_sampler * smpl, ggml_backend_buffer_type_t buft,
                                                uint32_t /*n_outputs_max_per_seq*/) {
    return llama_sampler_backend_support(smpl, buft);
}

// The in-graph form. Threshold and k are constants of the graph, which is why they cannot change after creation.
//
// The mask is built from comparisons with the k-th largest value, not from the indices of top_k: which of several equal
// logits top_k returns differs between backends, the value of the k-th does not. Nothing here multiplies a mask with
// -inf, which would give NaN.
static void llama_sampler_neg_gate_backend_apply(llama_sampler * smpl, ggml_context * ctx, ggml_cgraph * /*gf*/,
                                                 llama_sampler_data * data) {
    const auto & params = ((const llama_sampler_neg_gate *) smpl->ctx)->params;
    if (data->neg == nullptr || data->logits == nullptr) {
        return; // this context evaluates no head
    }
    ggml_tensor * x = data->logits;
    const int64_t n = x->ne[0];
    const int64_t k = std::min<int64_t>(params.top_k, n);

    // 1 where active, else 0 (also for NaN); [1]
    ggml_tensor * gate = ggml_step(ctx, ggml_scale_bias(ctx, data->neg, 1.0f, -params.threshold));
    ggml_tensor * open = ggml_scale_bias(ctx, gate, -1.0f, 1.0f);

    if (k < n) {
        // the k-th largest value: [1]
        ggml_tensor * ids  = ggml_top_k(ctx, x, (int) k);                                           // [k]
        ggml_tensor * best = ggml_get_rows(ctx, ggml_reshape_2d(ctx, x, 1, n), ids);                // [1, k]
        best = ggml_reshape_1d(ctx, best, k);
        ggml_tensor * order = ggml_argsort(ctx, best, GGML_SORT_ORDER_ASC);                         // [k]
        ggml_tensor * last  = ggml_view_1d(ctx, order, 1, 0);
        ggml_tensor * kth   = ggml_get_rows(ctx, ggml_reshape_2d(ctx, best, 1, k), last);           // [1, 1]
        kth = ggml_reshape_1d(ctx, kth, 1);

        // x - kth is NaN where both are -inf; step(NaN) is 0, so such a token counts as equal, which it is
        ggml_tensor * diff  = ggml_sub(ctx, x, kth);
        ggml_tensor * above = ggml_step(ctx, diff);
        ggml_tensor * below = ggml_step(ctx, ggml_neg(ctx, diff));
        ggml_tensor * equal = ggml_scale_bias(ctx, ggml_add(ctx, above, below), -1.0f, 1.0f);

        // of the equal ones the first (k - number above) are kept; counts are exact in F32 up to 2^24
        ggml_tensor * room = ggml_scale_bias(ctx, ggml_sum_rows(ctx, above), -1.0f, (float) k + 0.5f); // [1]
        ggml_tensor * rank = ggml_cumsum(ctx, equal);
        ggml_tensor * first = ggml_step(ctx, ggml_add(ctx, ggml_neg(ctx, rank), room));
        ggml_tensor * keep  = ggml_add(ctx, above, ggml_mul(ctx, equal, first));

        // log(1) = 0 keeps, log(0) = -inf drops; where inactive everything is kept
        ggml_tensor * kept_or_open = ggml_step(ctx, ggml_add(ctx, keep, open));
        x = ggml_add(ctx, x, ggml_log(ctx, kept_or_open));
    }
    if (params.temp_scale != 1.0f) {
        x = ggml_div(ctx, x, ggml_add(ctx, ggml_scale(ctx, gate, params.temp_scale), open));
    }
    data->logits = x;
}

static void llama_sampler_neg_gate_copy_state(const llama_sampler * src, llama_sampler * dst) {
    ((llama_sampler_neg_gate *) dst->ctx)->entropy = ((const llama_sampler_neg_gate *) src->ctx)->entropy;
}

static llama_sampler_i llama_sampler_neg_gate_i = {
    /* .name              = */ llama_sampler_neg_gate_name,
    /* .accept            = */ nullptr,
    /* .apply             = */ llama_sampler_neg_gate_apply,
    /* .reset             = */ llama_sampler_neg_gate_reset,
    /* .clone             = */ llama_sampler_neg_gate_clone,
    /* .free              = */ llama_sampler_neg_gate_free,
    /* .backend_init      = */ llama_sampler_neg_gate_backend_init,
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ llama_sampler_neg_gate_backend_apply,
    /* .backend_set_input = */ nullptr,
    /* .backend_reset     = */ nullptr,
    /* .copy_state        = */ llama_sampler_neg_gate_copy_state,
};

llama_sampler * llama_sampler_init_neg_gate(llama_neg_gate_params params) {
    params.top_k = std::max(params.top_k, 1);
    return llama_sampler_init(&llama_sampler_neg_gate_i, new llama_sampler_neg_gate { params, NAN, {} });
}

//
// draw
//

struct llama_sampler_neg_draw {
    const float    threshold;
    const uint32_t seed;

    float        entropy = NAN;
    std::mt19937 rng;

    bool is_active() const { return entropy > threshold; }
};

static const char * llama_sampler_neg_draw_name(const llama_sampler * /*smpl*/) {
    return "neg-draw";
}

static void llama_sampler_neg_draw_apply(llama_sampler * smpl, llama_token_data_array * cur_p) {
    auto * ctx = (llama_sampler_neg_draw *) smpl->ctx;
    if (!ctx->is_active() || cur_p->size <= 1) {
        return;
    }
    float largest = -INFINITY;
    for (size_t i = 0; i < cur_p->size; ++i) {
        largest = std::max(largest, cur_p->data[i].logit);
    }
    if (!(largest > -INFINITY)) {
        return; // nothing may be chosen; whoever selects reports it
    }
    double sum = 0.0;
    for (size_t i = 0; i < cur_p->size; ++i) {
        sum += std::exp((double) cur_p->data[i].logit - largest);
    }
    const double target = std::uniform_real_distribution<double>(0.0, sum)(ctx->rng);
    double run    = 0.0;
    size_t chosen = 0;
    for (size_t i = 0; i < cur_p->size; ++i) {
        const double p = std::exp((double) cur_p->data[i].logit - largest);
        if (p > 0.0) {
            chosen = i; // the last possible one stands in should rounding leave the sum short of the target
        }
        run += p;
        if (run > target) {
            break;
        }
    }
    cur_p->data[0]  = cur_p->data[chosen];
    cur_p->size     = 1;
    cur_p->selected = -1;
    cur_p->sorted   = true;
}

static void llama_sampler_neg_draw_reset(llama_sampler * smpl) {
    auto * ctx = (llama_sampler_neg_draw *) smpl->ctx;
    ctx->entropy = NAN;
    ctx->rng.seed(ctx->seed);
}

static void llama_sampler_neg_draw_copy_state(const llama_sampler * src, llama_sampler * dst) {
    const auto * from = (const llama_sampler_neg_draw *) src->ctx;
    auto       * to   = (llama_sampler_neg_draw *) dst->ctx;
    to->entropy = from->entropy;
    to->rng     = from->rng;
}

static llama_sampler * llama_sampler_neg_draw_clone(const llama_sampler * smpl) {
    const auto * ctx = (const llama_sampler_neg_draw *) smpl->ctx;
    auto * result = llama_sampler_init_neg_draw(ctx->threshold, ctx->seed);
    llama_sampler_neg_draw_copy_state(smpl, result);
    return result;
}

static void llama_sampler_neg_draw_free(llama_sampler * smpl) {
    delete (llama_sampler_neg_draw *) smpl->ctx;
}

static llama_sampler_i llama_sampler_neg_draw_i = {
    /* .name              = */ llama_sampler_neg_draw_name,
    /* .accept            = */ nullptr,
    /* .apply             = */ llama_sampler_neg_draw_apply,
    /* .reset             = */ llama_sampler_neg_draw_reset,
    /* .clone             = */ llama_sampler_neg_draw_clone,
    /* .free              = */ llama_sampler_neg_draw_free,
    /* .backend_init      = */ nullptr, // on the host, also when what comes before it runs in the graph
    /* .backend_accept    = */ nullptr,
    /* .backend_apply     = */ nullptr,
    /* .backend_set_input = */ nullptr,
    /* .backend_reset     = */ nullptr,
    /* .copy_state        = */ llama_sampler_neg_draw_copy_state,
};

llama_sampler * llama_sampler_init_neg_draw(float threshold, uint32_t seed) {
    auto * ctx = new llama_sampler_neg_draw { threshold, seed, NAN, std::mt19937(seed) };
    return llama_sampler_init(&llama_sampler_neg_draw_i, ctx);
}

//
// both
//

// calls f on every stage of a chain, or on the sampler itself when it is none
template <typename F>
static void for_each_stage(llama_sampler * smpl, F && f) {
    if (llama_sampler_chain_get(smpl, -1) == nullptr) {
        f(smpl);
        return;
    }
    for (int32_t i = 0; i < llama_sampler_chain_n(smpl); ++i) {
        f(llama_sampler_chain_get(smpl, i));
    }
}

void llama_sampler_neg_set(llama_sampler * smpl, float entropy) {
    if (!smpl) {
        return;
    }
    for_each_stage(smpl, [entropy](llama_sampler * stage) {
        if (stage->iface == &llama_sampler_neg_gate_i) {
            ((llama_sampler_neg_gate *) stage->ctx)->entropy = entropy;
        } else if (stage->iface == &llama_sampler_neg_draw_i) {
            ((llama_sampler_neg_draw *) stage->ctx)->entropy = entropy;
        }
    });
}

bool llama_sampler_neg_is_active(const llama_sampler * smpl) {
    bool active = false;
    if (smpl) {
        for_each_stage(const_cast<llama_sampler *>(smpl), [&active](const llama_sampler * stage) {
            if (stage->iface == &llama_sampler_neg_gate_i) {
                active = active || ((const llama_sampler_neg_gate *) stage->ctx)->is_active();
            } else if (stage->iface == &llama_sampler_neg_draw_i) {
                active = active || ((const llama_sampler_neg_draw *) stage->ctx)->is_active();
            }
        });
    }
    return active;
}
