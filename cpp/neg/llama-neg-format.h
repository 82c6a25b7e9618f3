#pragma once

// The neg.* part of a GGUF file: names, and the checks that the one-file and the side-car form share.

#include "ggml.h"
#include "gguf.h"

#include <cstdint>
#include <functional>
#include <string>

#define LLAMA_NEG_DOWN_W "neg.proj_down.w"
#define LLAMA_NEG_DOWN_B "neg.proj_down.b"
#define LLAMA_NEG_OUT_W  "neg.proj_out.w"
#define LLAMA_NEG_OUT_B  "neg.proj_out.b"

static constexpr uint32_t LLAMA_NEG_VERSION     = 1;
static constexpr int64_t  LLAMA_NEG_MAX_REDUCED = 65536;

struct llama_neg_keys {
    float       threshold    = 0.0f;
    int32_t     top_k        = 0;
    float       temp_scale   = 1.0f;
    bool        temp_enabled = false;
    std::string source;
};

// whether the file has any neg.* key or tensor
bool llama_neg_in_gguf(const struct gguf_context * gguf);

// Throws std::runtime_error("neg: <what>: <remedy>") unless keys and the four tensors are all there with usable types,
// values and shapes for hidden size n_embd. n_reduced is set.
llama_neg_keys llama_neg_check_gguf(const struct gguf_context * gguf, int64_t n_embd, int64_t & n_reduced,
                                    const std::function<const struct ggml_tensor *(const char *)> & tensor_of);

// Throws unless every element is finite.
void llama_neg_check_finite(const struct ggml_tensor * tensor);

// Optional string key; empty when absent.
std::string llama_neg_str(const struct gguf_context * gguf, const char * key);
