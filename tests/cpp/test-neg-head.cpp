// The head inside libllama on a tiny random model: values, row order, file forms, saving, and every way a head can be
// wrong.

#include "llama-neg.h"

#include "check.h"
#include "handles.h"
#include "tiny-model.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

static Model load(const std::string & path) {
    return Model(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
}

static Context context(llama_model * model, bool embeddings, uint32_t n_ubatch = 512) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx                = 512;
    p.n_batch              = 512;
    p.n_ubatch             = n_ubatch;
    p.n_seq_max            = 4;
    p.n_threads            = 1;
    p.n_threads_batch      = 1;
    p.kv_unified           = true;
    p.embeddings           = embeddings;
    p.pooling_type         = LLAMA_POOLING_TYPE_NONE;
    return Context(llama_init_from_model(model, p));
}

// three sequences interleaved, some rows without output, several ubatches of which some have no output at all
static void every_output_row_has_its_own_value(llama_model * model, const TinyHead & head) {
    for (const uint32_t n_ubatch : {512u, 8u}) {
        const Context ctx = context(model, true, n_ubatch);
        Batch batch(64);
        for (int pos = 0; pos < 20; ++pos) {
            for (int seq = 0; seq < 3; ++seq) {
                batch.add('a' + (pos * 7 + seq * 3) % 26, pos, seq, pos % 6 == seq || pos == 19);
            }
        }
        CHECK(llama_decode(ctx.get(), batch.get()) == 0);
        double spread_low  = 1e9;
        double spread_high = -1e9;
        for (int i = 0; i < batch.size(); ++i) {
            const float got   = llama_get_neg_ith(ctx.get(), i);
            const double want = reference_entropy(head, llama_get_embeddings_ith(ctx.get(), i));
            CHECK(std::fabs(got - want) < 1e-5);
            spread_low  = std::fmin(spread_low, want);
            spread_high = std::fmax(spread_high, want);
        }
        CHECK(spread_high - spread_low > 0.1);
        CHECK(llama_get_neg_ith(ctx.get(), -1) == llama_get_neg_ith(ctx.get(), batch.size() - 1));
        CHECK(std::isnan(llama_get_neg_ith(ctx.get(), 10'000)));
        CHECK(std::isnan(llama_get_neg_ith(ctx.get(), -10'000)));

        // without embeddings the same rows give the same values, and only the rows asked for have one
        const Context plain = context(model, false, n_ubatch);
        CHECK(llama_decode(plain.get(), batch.get()) == 0);
        for (int i = 0; i < batch.size(); ++i) {
            const float value = llama_get_neg_ith(plain.get(), i);
            CHECK(batch.get().logits[i] ? std::fabs(value - llama_get_neg_ith(ctx.get(), i)) < 1e-5
                                        : std::isnan(value));
        }
    }
}

// The last rows of two sequences decoded together, their gates in the graph: what a gate dropped is -inf.
static void decode_gated_rows(llama_model * model, float threshold, std::array<float, 2> & entropies,
                              std::array<int, 2> & finite) {
    std::array<Sampler, 2> chains;
    for (auto & chain : chains) {
        chain.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(chain.get(), llama_sampler_init_neg_gate({threshold, 5, 1.0f}));
    }
    std::array<llama_sampler_seq_config, 2> config = {{{0, chains[0].get()}, {1, chains[1].get()}}};
    llama_context_params p                         = llama_context_default_params();
    p.n_ctx                                        = 128;
    p.n_seq_max                                    = 2;
    p.n_threads                                    = 1;
    p.n_threads_batch                              = 1;
    p.kv_unified                                   = true;
    p.samplers                                     = config.data();
    p.n_samplers                                   = config.size();
    const Context ctx(llama_init_from_model(model, p));
    CHECK(ctx != nullptr);
    Batch batch(16);
    for (int pos = 0; pos < 5; ++pos) {
        batch.add('a' + pos, pos, 0, pos == 4);
        batch.add('k' + pos, pos, 1, pos == 4);
    }
    CHECK(llama_decode(ctx.get(), batch.get()) == 0);
    for (int row = 0; row < 2; ++row) {
        const int i          = 8 + row;
        const float * logits = llama_get_sampled_logits_ith(ctx.get(), i);
        CHECK(logits != nullptr);
        finite[row] = 0;
        for (uint32_t k = 0; logits && k < llama_get_sampled_logits_count_ith(ctx.get(), i); ++k) {
            finite[row] += std::isfinite(logits[k]);
        }
        entropies[row] = llama_get_neg_ith(ctx.get(), i);
    }
}

static void sampling_in_the_graph_obeys_the_gate(llama_model * model) {
    std::array<float, 2> entropies;
    std::array<int, 2> finite;
    decode_gated_rows(model, 0.0f, entropies, finite);
    CHECK(finite[0] == 5 && finite[1] == 5 && entropies[0] != entropies[1]);
    // only one of the two rows is above this: each gate must look at its own
    decode_gated_rows(model, (entropies[0] + entropies[1]) / 2, entropies, finite);
    const int high = entropies[0] > entropies[1] ? 0 : 1;
    CHECK(finite[high] == 5 && finite[1 - high] > 200);
}

static std::string load_side_car(llama_model * model, const std::string & path) {
    std::array<char, 512> err = {};
    return llama_model_load_neg(model, path.c_str(), err.data(), err.size()) == 0 ? "" : err.data();
}

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    const std::string dir = "test-neg-head-";

    TinyModel tiny;
    tiny.write(dir + "with.gguf", true);
    tiny.write(dir + "plain.gguf", false);
    tiny.write(dir + "side.gguf", true, true);

    const Model with = load(dir + "with.gguf");
    CHECK(with != nullptr);
    const llama_neg_info info = llama_model_neg_info(with.get());
    CHECK(info.present && info.n_embd == TinyModel::hidden && info.n_reduced == TinyModel::reduced && info.top_k == 5);
    CHECK(info.threshold == 0.7f && info.temp_scale == 0.6f && !info.temp_enabled);
    CHECK(std::string(llama_model_neg_source(with.get())) == "test");
    every_output_row_has_its_own_value(with.get(), tiny.head);
    sampling_in_the_graph_obeys_the_gate(with.get());

    // no head: NaN and no stage to set
    Model plain = load(dir + "plain.gguf");
    CHECK(plain != nullptr && !llama_model_neg_info(plain.get()).present);
    {
        const Context ctx = context(plain.get(), false);
        Batch batch(1);
        batch.add('a', 0, 0, true);
        CHECK(llama_decode(ctx.get(), batch.get()) == 0);
        CHECK(std::isnan(llama_get_neg_ith(ctx.get(), 0)));
    }

    // side-car: same values; wrong ones change nothing
    const auto keyed = [&](const char * name, const TinyModel::Keys & keys) {
        tiny.write(dir + name, true, true, {}, keys);
        return load_side_car(plain.get(), dir + name);
    };
    CHECK(keyed("arch.gguf", [](gguf_context * g) {
              gguf_set_val_str(g, "neg.base_arch", "qwen35");
          }).find("architecture") != std::string::npos);
    CHECK(keyed("wide.gguf", [](gguf_context * g) { gguf_set_val_u32(g, "neg.n_embd", 4096); }).find("4096") !=
          std::string::npos);
    CHECK(keyed("norm.gguf", [](gguf_context * g) {
              gguf_set_val_str(g, "neg.base_norm_sha256", "00");
          }).find("another backbone") != std::string::npos);
    CHECK(load_side_car(plain.get(), dir + "nowhere.gguf").find("nowhere") != std::string::npos);
    CHECK(load_side_car(plain.get(), dir + "plain.gguf").find("no neg.*") != std::string::npos);
    CHECK(!llama_model_neg_info(plain.get()).present);
    CHECK(load_side_car(plain.get(), dir + "side.gguf").empty());
    every_output_row_has_its_own_value(plain.get(), tiny.head);

    // each tensor dropped or of another type, in both forms
    for (const char * name : {"neg.proj_down.w", "neg.proj_down.b", "neg.proj_out.w", "neg.proj_out.b"}) {
        for (int way = 0; way < 3; ++way) {
            const TinyModel::Edit edit = [&](ggml_tensor *& t, ggml_context * ctx) {
                if (std::string(ggml_get_name(t)) != name) {
                    return true;
                }
                if (way == 0) {
                    return false;
                }
                if (way == 1) {
                    ggml_tensor * other = ggml_new_tensor(ctx, GGML_TYPE_I32, ggml_n_dims(t), t->ne);
                    ggml_set_name(other, name);
                    std::memset(other->data, 0, ggml_nbytes(other));
                    t = other;
                    return true;
                }
                static_cast<float *>(t->data)[0] = NAN;
                return true;
            };
            TinyModel bad;
            bad.write(dir + "bad.gguf", true, false, edit);
            CHECK(load(dir + "bad.gguf") == nullptr);
            bad.write(dir + "bad-side.gguf", true, true, edit);
            CHECK(load_side_car(plain.get(), dir + "bad-side.gguf").find(name) != std::string::npos);
        }
    }
    for (const TinyModel::Keys & keys : std::vector<TinyModel::Keys>{
             [](gguf_context * g) { gguf_set_val_f32(g, "neg.threshold", NAN); },
             [](gguf_context * g) { gguf_set_val_f32(g, "neg.threshold", -1.0f); },
             [](gguf_context * g) { gguf_remove_key(g, "neg.threshold"); },
             [](gguf_context * g) { gguf_set_val_u32(g, "neg.top_k", 0); },
             [](gguf_context * g) { gguf_set_val_f32(g, "neg.temp_scale", 0.0f); },
             [](gguf_context * g) { gguf_set_val_u32(g, "neg.version", 2); },
         }) {
        TinyModel bad;
        bad.write(dir + "bad.gguf", true, false, {}, keys);
        CHECK(load(dir + "bad.gguf") == nullptr);
    }

    // the model saver keeps the head, also one that came from a side-car
    llama_model_save_to_file(plain.get(), (dir + "saved.gguf").c_str());
    const Model saved = load(dir + "saved.gguf");
    CHECK(saved != nullptr && llama_model_neg_info(saved.get()).present);
    if (saved) {
        every_output_row_has_its_own_value(saved.get(), tiny.head);
    }

    // quantization leaves it alone
    llama_model_quantize_params q = llama_model_quantize_default_params();
    q.ftype                       = LLAMA_FTYPE_MOSTLY_Q8_0;
    q.nthread                     = 1;
    CHECK(llama_model_quantize((dir + "with.gguf").c_str(), (dir + "q8.gguf").c_str(), &q) == 0);
    const Model quantized = load(dir + "q8.gguf");
    CHECK(quantized != nullptr && llama_model_neg_info(quantized.get()).present);
    if (quantized) {
        every_output_row_has_its_own_value(quantized.get(), tiny.head);
    }

    for (const char * name : {"with", "plain", "side", "arch", "wide", "norm", "bad", "bad-side", "saved", "q8"}) {
        std::remove((dir + name + ".gguf").c_str());
    }
    return check_result("neg-head");
}
