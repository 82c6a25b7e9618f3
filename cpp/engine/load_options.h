#pragma once

#include "llama.h"
#include "model.h"

#include <string>
#include <vector>

namespace darwin_neg {

// What llama_model_params points to, made from ModelParams. It must live until the model is loaded.
class LoadOptions {
public:
    // remote: devices of other machines, which are used before those of this one. Throws RequestError for a value that
    // names nothing of this machine, or that llama.cpp would abort on.
    LoadOptions(const ModelParams & params, const std::vector<ggml_backend_dev_t> & remote);

    llama_model_params get() const;

private:
    void choose_devices(const ModelParams & params, const std::vector<ggml_backend_dev_t> & remote);
    void split_tensors(const ModelParams & params);
    void place_tensors(const ModelParams & params);
    void override_keys(const ModelParams & params);

    llama_model_params load_ = llama_model_default_params();
    std::vector<ggml_backend_dev_t> devices_;  // those that will be used, and a null pointer
    std::vector<float> tensor_split_;
    std::vector<std::string> patterns_;
    std::vector<llama_model_tensor_buft_override> tensors_;
    std::vector<llama_model_kv_override> keys_;
};

// llama.cpp's value for a name; each throws RequestError.
llama_split_mode split_mode(const std::string & name);
llama_rope_scaling_type rope_scaling_type(const std::string & name);

// Sets how memory and threads are spread over the nodes of a NUMA machine. A process does that once: throws
// RequestError for another strategy than the first one.
void init_numa(const std::string & strategy);

// A value as llama.cpp writes it in a model's metadata.
std::string text_of(const KeyValue & value);

}  // namespace darwin_neg
