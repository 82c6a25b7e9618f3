#pragma once

#include "ggml-cpp.h"
#include "gguf.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

// A tiny random llama model with a byte-level vocabulary and optionally a NEG head, written with ggml's GGUF writer.

struct TinyHead {
    std::vector<float> down_w, down_b, out_w, out_b;  // [reduced, hidden] row by row, [reduced], [reduced], [1]
};

struct TinyModel {
    static constexpr int hidden  = 64;
    static constexpr int reduced = 16;
    static constexpr int layers  = 2;
    static constexpr int heads   = 4;
    static constexpr int ffn     = 96;

    TinyHead head;

    // `edit` may change or drop (return false) each NEG tensor before it is added; `keys` may change the finished
    // header
    using Edit = std::function<bool(ggml_tensor *&, ggml_context *)>;
    using Keys = std::function<void(gguf_context *)>;

    static std::vector<std::string> tokens() {
        std::vector<std::string> out;
        int extra = 256;
        for (int b = 0; b < 256; ++b) {
            const bool kept = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
            const int code  = kept ? b : extra++;
            std::string s;
            if (code < 0x80) {
                s += static_cast<char>(code);
            } else {
                s += static_cast<char>(0xC0 | (code >> 6));
                s += static_cast<char>(0x80 | (code & 0x3F));
            }
            out.push_back(s);
        }
        out.insert(out.end(), {"<s>", "</s>"});
        return out;
    }

    void write(const std::string & path, bool with_head, bool side_car = false, const Edit & edit = {},
               const Keys & keys = {}, unsigned seed = 0) {
        const ggml_context_ptr ctx(ggml_init({16u << 20, nullptr, false}));
        const gguf_context_ptr gguf(gguf_init_empty());
        std::mt19937 rng(seed);
        const auto tensor = [&](const std::string & name, std::vector<int64_t> ne, float scale, float mean = 0.0f) {
            ggml_tensor * t = ggml_new_tensor(ctx.get(), GGML_TYPE_F32, static_cast<int>(ne.size()), ne.data());
            ggml_set_name(t, name.c_str());
            std::normal_distribution<float> normal(mean, scale);
            auto * data = static_cast<float *>(t->data);
            for (int64_t i = 0; i < ggml_nelements(t); ++i) {
                data[i] = normal(rng);
            }
            return t;
        };
        const auto add = [&](const std::string & name, std::vector<int64_t> ne, float scale, float mean = 0.0f) {
            gguf_add_tensor(gguf.get(), tensor(name, std::move(ne), scale, mean));
        };
        const auto vocab = tokens();
        if (side_car) {
            gguf_set_val_str(gguf.get(), "general.architecture", "neg");
        } else {
            write_header(gguf.get(), vocab);
            const float w = 1.5f / std::sqrt(static_cast<float>(hidden));
            add("token_embd.weight", {hidden, static_cast<int64_t>(vocab.size())}, 1.0f);
            for (int i = 0; i < layers; ++i) {
                const std::string p = "blk." + std::to_string(i) + ".";
                add(p + "attn_norm.weight", {hidden}, 0.1f, 1.0f);
                for (const char * part : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
                    add(p + part + ".weight", {hidden, hidden}, w);
                }
                add(p + "ffn_norm.weight", {hidden}, 0.1f, 1.0f);
                add(p + "ffn_gate.weight", {hidden, ffn}, w);
                add(p + "ffn_up.weight", {hidden, ffn}, w);
                add(p + "ffn_down.weight", {ffn, hidden}, w);
            }
            add("output_norm.weight", {hidden}, 0.1f, 1.0f);
            add("output.weight", {hidden, static_cast<int64_t>(vocab.size())}, w);
        }
        if (with_head || side_car) {
            rng.seed(99);  // the same head whatever the backbone
            const auto neg = [&](const char * name, std::vector<int64_t> ne, float scale, std::vector<float> & keep) {
                ggml_tensor * t = tensor(name, std::move(ne), scale);
                keep.assign(static_cast<float *>(t->data), static_cast<float *>(t->data) + ggml_nelements(t));
                if (!edit || edit(t, ctx.get())) {
                    gguf_add_tensor(gguf.get(), t);
                }
            };
            neg("neg.proj_down.w", {hidden, reduced}, 0.2f, head.down_w);
            neg("neg.proj_down.b", {reduced}, 0.1f, head.down_b);
            neg("neg.proj_out.w", {reduced}, 0.7f, head.out_w);
            neg("neg.proj_out.b", {1}, 0.5f, head.out_b);
            gguf_set_val_u32(gguf.get(), "neg.version", 1);
            gguf_set_val_f32(gguf.get(), "neg.threshold", 0.7f);
            gguf_set_val_u32(gguf.get(), "neg.top_k", 5);
            gguf_set_val_f32(gguf.get(), "neg.temp_scale", 0.6f);
            gguf_set_val_bool(gguf.get(), "neg.temp_enabled", false);
            gguf_set_val_str(gguf.get(), "neg.source", "test");
        }
        if (keys) {
            keys(gguf.get());
        }
        gguf_write_to_file(gguf.get(), path.c_str(), false);
    }

private:
    static void write_header(gguf_context * g, const std::vector<std::string> & vocab) {
        gguf_set_val_str(g, "general.architecture", "llama");
        gguf_set_val_u32(g, "llama.context_length", 512);
        gguf_set_val_u32(g, "llama.embedding_length", hidden);
        gguf_set_val_u32(g, "llama.block_count", layers);
        gguf_set_val_u32(g, "llama.feed_forward_length", ffn);
        gguf_set_val_u32(g, "llama.attention.head_count", heads);
        gguf_set_val_u32(g, "llama.rope.dimension_count", hidden / heads);
        gguf_set_val_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
        write_vocabulary(g, vocab);
    }

public:
    static void write_vocabulary(gguf_context * g, const std::vector<std::string> & vocab) {
        gguf_set_val_str(g, "tokenizer.ggml.model", "gpt2");
        gguf_set_val_str(g, "tokenizer.ggml.pre", "gpt-2");
        std::vector<const char *> text;
        std::vector<int32_t> types(vocab.size(), 1);
        for (const auto & token : vocab) {
            text.push_back(token.c_str());
        }
        types[256] = types[257] = 3;  // control
        gguf_set_arr_str(g, "tokenizer.ggml.tokens", text.data(), text.size());
        gguf_set_arr_data(g, "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
        const char * merges[] = {"h e", "l l"};
        gguf_set_arr_str(g, "tokenizer.ggml.merges", merges, 2);
        gguf_set_val_u32(g, "tokenizer.ggml.bos_token_id", 256);
        gguf_set_val_u32(g, "tokenizer.ggml.eos_token_id", 257);
    }
};

// softplus(W_out gelu(W_down h + b_down) + b_out) in double precision, from the definition
inline double reference_entropy(const TinyHead & head, const float * h) {
    double z = head.out_b[0];
    for (int r = 0; r < TinyModel::reduced; ++r) {
        double u = head.down_b[r];
        for (int i = 0; i < TinyModel::hidden; ++i) {
            u += static_cast<double>(head.down_w[static_cast<size_t>(r) * TinyModel::hidden + i]) * h[i];
        }
        z += head.out_w[r] * 0.5 * u * (1.0 + std::erf(u / std::sqrt(2.0)));
    }
    return std::log1p(std::exp(-std::fabs(z))) + std::fmax(z, 0.0);
}
