#include "llama-devices.h"

#include "llama-model.h"

#include "ggml-backend.h"

#include <cstdio>
#include <cstring>

const char * llama_model_device(const llama_model * model, int32_t il) {
    const auto n_layer = (int32_t) model->hparams.n_layer();
    return ggml_backend_dev_name(il < n_layer ? model->dev_layer(il) : model->dev_output());
}

const char * llama_model_neg_device(const llama_model * model) {
    if (!model->neg.present()) {
        return "";
    }
    const ggml_backend_buffer_type_t type   = ggml_backend_buffer_get_type(model->neg.down_w->buffer);
    ggml_backend_dev_t               device = ggml_backend_buft_get_device(type);
    if (!device) { // a file that is mapped into memory
        device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    }
    return ggml_backend_dev_name(device);
}

bool llama_lost_server(llama_context * ctx, char * message, size_t size) {
    typedef bool (*server_lost_t)(const char * endpoint, char * why, size_t size);

    bool waited = false;
    for (const llama_device & device : llama_get_model(ctx)->devices) {
        const ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device.dev);
        if (!reg || strcmp(ggml_backend_reg_name(reg), "RPC") != 0) {
            continue;
        }
        const auto server_lost =
            (server_lost_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_rpc_server_lost");
        if (!waited) {
            llama_synchronize(ctx); // a lost connection is noticed by those who wait for an answer
            waited = true;
        }
        const char * endpoint = ggml_backend_dev_description(device.dev);
        char         why[256];
        if (server_lost && server_lost(endpoint, why, sizeof(why))) {
            snprintf(message, size, "the RPC server %s is gone (%s); load the model again when it is back", endpoint,
                     why);
            return true;
        }
    }
    return false;
}
