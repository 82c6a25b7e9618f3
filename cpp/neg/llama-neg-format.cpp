#include "llama-neg-format.h"

#include "llama-impl.h"

#include "ggml-backend.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

static const char * const REMEDY = "attach the head again with `darwin-neg neg attach`";

[[noreturn]] static void neg_fail(const std::string & what) {
    throw std::runtime_error("neg: " + what + "; " + REMEDY);
}

bool llama_neg_in_gguf(const gguf_context * gguf) {
    for (int64_t i = 0; i < gguf_get_n_kv(gguf); ++i) {
        if (strncmp(gguf_get_key(gguf, i), "neg.", 4) == 0) {
            return true;
        }
    }
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        if (strncmp(gguf_get_tensor_name(gguf, i), "neg.", 4) == 0) {
            return true;
        }
    }
    return false;
}

static int64_t require_key(const gguf_context * gguf, const char * key, gguf_type type) {
    const int64_t id = gguf_find_key(gguf, key);
    if (id < 0) {
        neg_fail(std::string(key) + ": the key is missing");
    }
    if (gguf_get_kv_type(gguf, id) != type) {
        neg_fail(std::string(key) + ": the key has type " + gguf_type_name(gguf_get_kv_type(gguf, id)) +
                 ", expected " + gguf_type_name(type));
    }
    return id;
}

std::string llama_neg_str(const gguf_context * gguf, const char * key) {
    const int64_t id = gguf_find_key(gguf, key);
    return id >= 0 && gguf_get_kv_type(gguf, id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf, id) : "";
}

static std::string shape_str(const ggml_tensor * t) {
    std::string out = "[";
    for (int i = 0; i < ggml_n_dims(t); ++i) {
        out += (i ? ", " : "") + std::to_string(t->ne[i]);
    }
    return out + "]";
}

static void check_tensor(const ggml_tensor * t, const char * name, std::initializer_list<int64_t> want,
                         bool half_allowed) {
    if (t == nullptr) {
        neg_fail(std::string(name) + ": the tensor is missing");
    }
    const bool half = t->type == GGML_TYPE_F16 || t->type == GGML_TYPE_BF16;
    if (t->type != GGML_TYPE_F32 && !(half && half_allowed)) {
        neg_fail(std::string(name) + ": the tensor has type " + ggml_type_name(t->type) + ", expected f32");
    }
    bool ok = true;
    int  i  = 0;
    std::string want_str = "[";
    for (const int64_t ne : want) {
        ok = ok && t->ne[i] == ne;
        want_str += (i ? ", " : "") + std::to_string(ne);
        ++i;
    }
    for (; i < GGML_MAX_DIMS; ++i) {
        ok = ok && t->ne[i] == 1;
    }
    if (!ok) {
        neg_fail(std::string(name) + ": the tensor has shape " + shape_str(t) + ", expected " + want_str +
                 "] for this model");
    }
}

llama_neg_keys llama_neg_check_gguf(const gguf_context * gguf, int64_t n_embd, int64_t & n_reduced,
                                    const std::function<const ggml_tensor *(const char *)> & tensor_of) {
    llama_neg_keys keys;

    const uint32_t version = gguf_get_val_u32(gguf, require_key(gguf, "neg.version", GGUF_TYPE_UINT32));
    if (version != LLAMA_NEG_VERSION) {
        throw std::runtime_error("neg: neg.version: is " + std::to_string(version) + ", this build reads version " +
                                 std::to_string(LLAMA_NEG_VERSION) + "; update darwin-neg-cpp");
    }
    keys.threshold = gguf_get_val_f32(gguf, require_key(gguf, "neg.threshold", GGUF_TYPE_FLOAT32));
    if (std::isnan(keys.threshold) || keys.threshold < 0.0f) {
        neg_fail("neg.threshold: is " + std::to_string(keys.threshold) + ", expected a number of nats >= 0");
    }
    const uint32_t top_k = gguf_get_val_u32(gguf, require_key(gguf, "neg.top_k", GGUF_TYPE_UINT32));
    if (top_k < 1 || top_k > INT32_MAX) {
        neg_fail("neg.top_k: is " + std::to_string(top_k) + ", expected at least 1");
    }
    keys.top_k      = (int32_t) top_k;
    keys.temp_scale = gguf_get_val_f32(gguf, require_key(gguf, "neg.temp_scale", GGUF_TYPE_FLOAT32));
    if (!std::isfinite(keys.temp_scale) || keys.temp_scale <= 0.0f) {
        neg_fail("neg.temp_scale: is " + std::to_string(keys.temp_scale) + ", expected a finite number > 0");
    }
    keys.temp_enabled = gguf_get_val_bool(gguf, require_key(gguf, "neg.temp_enabled", GGUF_TYPE_BOOL));
    keys.source       = llama_neg_str(gguf, "neg.source");

    const ggml_tensor * down_w = tensor_of(LLAMA_NEG_DOWN_W);
    if (down_w == nullptr) {
        neg_fail(LLAMA_NEG_DOWN_W ": the tensor is missing");
    }
    n_reduced = down_w->ne[1];
    if (n_reduced < 1 || n_reduced > LLAMA_NEG_MAX_REDUCED) {
        neg_fail(LLAMA_NEG_DOWN_W ": the hidden layer has " + std::to_string(n_reduced) + " units, expected 1 to " +
                 std::to_string(LLAMA_NEG_MAX_REDUCED));
    }
    check_tensor(down_w,                      LLAMA_NEG_DOWN_W, { n_embd, n_reduced }, true);
    check_tensor(tensor_of(LLAMA_NEG_DOWN_B), LLAMA_NEG_DOWN_B, { n_reduced },         false);
    check_tensor(tensor_of(LLAMA_NEG_OUT_W),  LLAMA_NEG_OUT_W,  { n_reduced },         false);
    check_tensor(tensor_of(LLAMA_NEG_OUT_B),  LLAMA_NEG_OUT_B,  { 1 },                 false);
    return keys;
}

void llama_neg_check_finite(const ggml_tensor * tensor) {
    std::vector<uint8_t> raw(ggml_nbytes(tensor));
    ggml_backend_tensor_get(tensor, raw.data(), 0, raw.size());
    const int64_t n = ggml_nelements(tensor);
    for (int64_t i = 0; i < n; ++i) {
        float x = 0.0f;
        switch (tensor->type) {
            case GGML_TYPE_F16:  x = ggml_fp16_to_fp32(((const ggml_fp16_t *) raw.data())[i]); break;
            case GGML_TYPE_BF16: x = ggml_bf16_to_fp32(((const ggml_bf16_t *) raw.data())[i]); break;
            default:             x = ((const float *) raw.data())[i];                          break;
        }
        if (!std::isfinite(x)) {
            neg_fail(std::string(ggml_get_name(tensor)) + ": element " + std::to_string(i) + " is not a finite number");
        }
    }
}
