#pragma once

// What the patched files of libllama see of the NEG head. Internal: users include llama-neg.h.

#include "ggml-cpp.h"
#include "gguf.h"

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

struct llama_model;
struct llama_model_loader;
struct llm_graph_context;
struct LLM_TN_IMPL;

struct llama_neg_head {
    // all null, or all set
    struct ggml_tensor * down_w = nullptr; // [n_embd, n_reduced]
    struct ggml_tensor * down_b = nullptr; // [n_reduced]
    struct ggml_tensor * out_w  = nullptr; // [n_reduced, 1]
    struct ggml_tensor * out_b  = nullptr; // [1]

    float       threshold    = 0.0f; // nats
    int32_t     top_k        = 0;
    float       temp_scale   = 1.0f;
    bool        temp_enabled = false;
    std::string source;

    // own storage, used by a side-car only; a head of the model file lives in the model's buffers
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buf;

    bool present() const { return down_w != nullptr; }

    std::vector<struct ggml_tensor *> tensors() const { return { down_w, down_b, out_w, out_b }; }
};

using llama_neg_create_tensor =
    std::function<struct ggml_tensor * (const LLM_TN_IMPL & tn, const std::initializer_list<int64_t> & ne)>;

// Reads and checks the neg.* part of the file being loaded, if there is any, and creates its tensors.
// Throws std::runtime_error, message starting with "neg: ", for a head that is not whole and well-formed.
void llama_neg_load(llama_model & model, llama_model_loader & ml, const llama_neg_create_tensor & create);

// After the data has been read: throws when a weight is not finite.
void llama_neg_check_data(const llama_model & model);

// Adds the head to a graph whose final hidden state and logits are built: sets res->t_neg, [1, n_outputs].
void llama_neg_build(const llama_model & model, const llm_graph_context & llm);

// Writes the neg.* keys of a model that has a head.
void llama_neg_save_keys(const llama_model & model, struct gguf_context * gguf);
