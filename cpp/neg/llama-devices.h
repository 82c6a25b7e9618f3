#pragma once

// Which devices hold a model, and whether those of other machines (ggml's RPC backend) still answer.

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Name of the device that computes layer il, 0 <= il <= llama_model_n_layer(); the last one is the output layer.
LLAMA_API const char * llama_model_device(const struct llama_model * model, int32_t il);

// Name of the device that holds the NEG head; "" when the model has none.
LLAMA_API const char * llama_model_neg_device(const struct llama_model * model);

// Whether the connection to an RPC server that holds a part of the model is lost. It stays lost, and what the context
// computed meanwhile is wrong. Waits for what is being computed where there are such servers. Writes one line.
LLAMA_API bool llama_lost_server(struct llama_context * ctx, char * message, size_t size);

#ifdef __cplusplus
}
#endif
