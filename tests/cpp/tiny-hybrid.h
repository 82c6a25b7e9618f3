#pragma once

#include "ggml-cpp.h"
#include "gguf.h"
#include "tiny-model.h"

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

// A tiny qwen35 model: a recurrent layer, an attention layer and a multi-token-prediction block. The trunk is a bigram
// table (the output row of the token that follows `t` is the embedding of `t`) to which the layers add what they
// remember; the block looks at the newest token alone, so that its guesses are right most of the time, but not always.
struct TinyHybrid {
    static constexpr int hidden = 64, ffn = 96, heads = 2, head = 32, state = 32, v_heads = 2;

    static void write(const std::string & path, unsigned seed = 0) {
        const ggml_context_ptr ctx(ggml_init({16u << 20, nullptr, false}));
        const gguf_context_ptr gguf(gguf_init_empty());
        std::mt19937 rng(seed);
        const auto normal = [&rng](float scale) {
            std::normal_distribution<float> values(0.0f, scale);
            return [&rng, values](int64_t) mutable { return values(rng); };
        };
        const auto add = [&](const std::string & name, std::vector<int64_t> ne, auto && value) {
            ggml_tensor * t = ggml_new_tensor(ctx.get(), GGML_TYPE_F32, static_cast<int>(ne.size()), ne.data());
            ggml_set_name(t, name.c_str());
            for (int64_t i = 0; i < ggml_nelements(t); ++i) {
                static_cast<float *>(t->data)[i] = value(i);
            }
            gguf_add_tensor(gguf.get(), t);
        };
        const auto matrix = [&](const std::string & name, int64_t from, int64_t to, float scale) {
            add(name, {from, to}, normal(scale / std::sqrt(static_cast<float>(from))));
        };
        const auto ones = [&](const std::string & name, int64_t n) { add(name, {n}, [](int64_t) { return 1.0f; }); };
        const auto attention = [&](const std::string & layer, float scale) {
            matrix(layer + "attn_q.weight", hidden, 2L * heads * head, scale);
            matrix(layer + "attn_k.weight", hidden, head, scale);
            matrix(layer + "attn_v.weight", hidden, head, scale);
            matrix(layer + "attn_output.weight", heads * head, hidden, scale);
            ones(layer + "attn_q_norm.weight", head);
            ones(layer + "attn_k_norm.weight", head);
        };
        const auto rest = [&](const std::string & layer, float scale) {
            ones(layer + "attn_norm.weight", hidden);
            ones(layer + "post_attention_norm.weight", hidden);
            matrix(layer + "ffn_gate.weight", hidden, ffn, scale);
            matrix(layer + "ffn_up.weight", hidden, ffn, scale);
            matrix(layer + "ffn_down.weight", ffn, hidden, scale);
        };
        write_header(gguf.get());
        const auto n_vocab = static_cast<int64_t>(TinyModel::tokens().size());
        std::vector<float> embeddings(static_cast<size_t>(n_vocab * hidden));
        std::generate(embeddings.begin(), embeddings.end(), [next = normal(1.0f)]() mutable { return next(0); });
        add("token_embd.weight", {hidden, n_vocab}, [&](int64_t i) { return embeddings[static_cast<size_t>(i)]; });
        add("output.weight", {hidden, n_vocab}, [&](int64_t i) {  // 37 t + 5 follows t
            const int64_t before = (i / hidden + 256 - 5) * 173 % 256;
            return 0.12f * embeddings[static_cast<size_t>(before * hidden + i % hidden)];
        });
        ones("output_norm.weight", hidden);
        const int64_t wide = state * (2 + v_heads);
        matrix("blk.0.attn_qkv.weight", hidden, wide, 1.5f);
        matrix("blk.0.attn_gate.weight", hidden, state * v_heads, 1.5f);
        matrix("blk.0.ssm_conv1d.weight", 4, wide, 1.5f);
        matrix("blk.0.ssm_alpha.weight", hidden, v_heads, 1.0f);
        matrix("blk.0.ssm_beta.weight", hidden, v_heads, 1.0f);
        add("blk.0.ssm_dt.bias", {v_heads}, [](int64_t) { return 0.0f; });
        add("blk.0.ssm_a", {v_heads}, [](int64_t) { return -0.05f; });
        ones("blk.0.ssm_norm.weight", state);
        matrix("blk.0.ssm_out.weight", state * v_heads, hidden, 1.0f);
        rest("blk.0.", 1.0f);
        attention("blk.1.", 1.0f);
        rest("blk.1.", 1.0f);
        attention("blk.2.", 0.05f);
        rest("blk.2.", 0.05f);
        add("blk.2.nextn.eh_proj.weight", {2 * hidden, hidden},
            [](int64_t i) { return i % (2 * hidden) == i / (2 * hidden) ? 1.0f : 0.0f; });
        for (const char * name : {"enorm", "hnorm", "shared_head_norm"}) {
            ones(std::string("blk.2.nextn.") + name + ".weight", hidden);
        }
        gguf_write_to_file(gguf.get(), path.c_str(), false);
    }

private:
    static void write_header(gguf_context * g) {
        gguf_set_val_str(g, "general.architecture", "qwen35");
        const auto number = [&](const char * key, uint32_t value) {
            gguf_set_val_u32(g, (std::string("qwen35.") + key).c_str(), value);
        };
        number("context_length", 512);
        number("embedding_length", hidden);
        number("block_count", 3);
        number("feed_forward_length", ffn);
        number("attention.head_count", heads);
        number("attention.head_count_kv", 1);
        number("attention.key_length", head);
        number("attention.value_length", head);
        number("rope.dimension_count", 16);
        number("ssm.conv_kernel", 4);
        number("ssm.state_size", state);
        number("ssm.group_count", 1);
        number("ssm.time_step_rank", v_heads);
        number("ssm.inner_size", state * v_heads);
        number("full_attention_interval", 2);
        number("nextn_predict_layers", 1);
        const int32_t sections[] = {3, 3, 2, 0};
        gguf_set_arr_data(g, "qwen35.rope.dimension_sections", GGUF_TYPE_INT32, sections, 4);
        gguf_set_val_f32(g, "qwen35.attention.layer_norm_rms_epsilon", 1e-6f);
        TinyModel::write_vocabulary(g, TinyModel::tokens());
    }
};
