#include "load_options.h"

#include "errors.h"

#include "common.h"
#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <regex>
#include <set>

namespace darwin_neg {

namespace {

constexpr uint32_t k_max_layers = 512;  // LLAMA_MAX_LAYERS

template <typename Value>
Value choice(const char * argument, const std::string & name, const std::map<std::string, Value> & values) {
    const auto found = values.find(name);
    if (found != values.end()) {
        return found->second;
    }
    std::string names;
    for (const auto & [known, value] : values) {
        names += (names.empty() ? "" : ", ") + known;
    }
    throw RequestError(std::string(argument) + " must be one of " + names + ", got '" + name + "'");
}

bool is_gpu(ggml_backend_dev_t device) {
    const auto type = ggml_backend_dev_type(device);
    return type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
}

std::vector<ggml_backend_dev_t> gpus() {
    std::vector<ggml_backend_dev_t> out;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        if (is_gpu(ggml_backend_dev_get(i))) {
            out.push_back(ggml_backend_dev_get(i));
        }
    }
    return out;
}

// What llama.cpp would choose where nothing is said: a GPU that two backends know counts once, and those that share the
// processor's memory count where there are no others.
std::vector<ggml_backend_dev_t> default_gpus() {
    std::vector<ggml_backend_dev_t> out;
    for (const auto type : {GGML_BACKEND_DEVICE_TYPE_GPU, GGML_BACKEND_DEVICE_TYPE_IGPU}) {
        std::set<std::string> ids;
        for (ggml_backend_dev_t device : gpus()) {
            ggml_backend_dev_props props = {};
            ggml_backend_dev_get_props(device, &props);
            if (props.type == type && (props.device_id == nullptr || ids.insert(props.device_id).second)) {
                out.push_back(device);
            }
        }
        if (!out.empty()) {
            break;
        }
    }
    return out;
}

// "it has CUDA0, CUDA1", for an error about devices
std::string known_gpus() {
    std::string names;
    for (ggml_backend_dev_t device : gpus()) {
        names += (names.empty() ? "it has " : ", ") + std::string(ggml_backend_dev_name(device));
    }
    return names.empty() ? "it has none that this build can use" : names;
}

void copy_text(char * to, size_t size, const std::string & text, const std::string & what) {
    if (text.size() >= size || text.find('\0') != std::string::npos) {
        throw RequestError("kv_overrides: " + what + " must be shorter than " + std::to_string(size) +
                           " bytes, without null characters");
    }
    std::memcpy(to, text.c_str(), text.size() + 1);
}

}  // namespace

llama_split_mode split_mode(const std::string & name) {
    return choice<llama_split_mode>("split_mode", name,
                                    {{"none", LLAMA_SPLIT_MODE_NONE},
                                     {"layer", LLAMA_SPLIT_MODE_LAYER},
                                     {"row", LLAMA_SPLIT_MODE_ROW},
                                     {"tensor", LLAMA_SPLIT_MODE_TENSOR}});
}

llama_rope_scaling_type rope_scaling_type(const std::string & name) {
    return choice<llama_rope_scaling_type>("rope_scaling_type", name,
                                           {{"none", LLAMA_ROPE_SCALING_TYPE_NONE},
                                            {"linear", LLAMA_ROPE_SCALING_TYPE_LINEAR},
                                            {"yarn", LLAMA_ROPE_SCALING_TYPE_YARN}});
}

void init_numa(const std::string & strategy) {
    static std::mutex mutex;
    static std::optional<std::string> first;
    const auto value = choice<ggml_numa_strategy>("numa", strategy,
                                                  {{"distribute", GGML_NUMA_STRATEGY_DISTRIBUTE},
                                                   {"isolate", GGML_NUMA_STRATEGY_ISOLATE},
                                                   {"numactl", GGML_NUMA_STRATEGY_NUMACTL}});
    const std::lock_guard<std::mutex> lock(mutex);
    if (!first) {
        llama_numa_init(value);
        first = strategy;
    } else if (*first != strategy) {
        throw RequestError("numa is '" + *first + "' for this process since an earlier model, got '" + strategy +
                           "'; use the same, or another process");
    }
}

std::string text_of(const KeyValue & value) {
    if (const auto * flag = std::get_if<bool>(&value)) {
        return *flag ? "true" : "false";
    }
    if (const auto * number = std::get_if<int64_t>(&value)) {
        return std::to_string(*number);
    }
    if (const auto * number = std::get_if<double>(&value)) {
        return std::to_string(static_cast<float>(*number));
    }
    return std::get<std::string>(value);
}

LoadOptions::LoadOptions(const ModelParams & params, const std::vector<ggml_backend_dev_t> & remote) {
    load_.n_gpu_layers = params.n_gpu_layers;
    load_.load_mtp     = params.mtp > 0;
    load_.main_gpu     = params.main_gpu;
    load_.split_mode   = split_mode(params.split_mode);
    if (params.use_mmap) {
        load_.load_mode = params.use_mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP;
    } else {
        load_.load_mode = params.use_mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE;
    }
    choose_devices(params, remote);
    split_tensors(params);
    place_tensors(params);
    override_keys(params);
}

llama_model_params LoadOptions::get() const {
    return load_;
}

void LoadOptions::choose_devices(const ModelParams & params, const std::vector<ggml_backend_dev_t> & remote) {
    if (!remote.empty() && load_.split_mode == LLAMA_SPLIT_MODE_TENSOR) {
        throw RequestError("split_mode is 'tensor', which rpc_servers does not go with; use 'layer'");
    }
    // first, so that what is computed crosses the network once, and back
    devices_ = remote;
    if (params.devices) {
        for (const auto & name : *params.devices) {
            ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str());
            if (device == nullptr || !is_gpu(device)) {
                throw RequestError("devices must be GPUs of this machine, got '" + name + "'; " + known_gpus());
            }
            if (std::find(devices_.begin(), devices_.end(), device) != devices_.end()) {
                throw RequestError("devices has '" + name + "' twice; name each once");
            }
            devices_.push_back(device);
        }
    } else {
        const auto local = remote.empty() ? gpus() : default_gpus();
        devices_.insert(devices_.end(), local.begin(), local.end());
    }
    if (devices_.size() > llama_max_devices()) {
        throw RequestError("rpc_servers and GPUs are " + std::to_string(devices_.size()) +
                           " devices together, at most " + std::to_string(llama_max_devices()) +
                           " can be used; name those of this machine with devices");
    }
    if (devices_.empty() && load_.split_mode == LLAMA_SPLIT_MODE_TENSOR) {
        throw RequestError("split_mode is 'tensor', which needs a GPU, and none is used; leave it out");
    }
    if (load_.split_mode == LLAMA_SPLIT_MODE_TENSOR && params.flash_attn == "off") {
        throw RequestError("split_mode is 'tensor', which needs flash attention; leave flash_attn out");
    }
    if (load_.split_mode == LLAMA_SPLIT_MODE_NONE && !devices_.empty() &&
        (params.main_gpu < 0 || static_cast<size_t>(params.main_gpu) >= devices_.size())) {
        throw RequestError("main_gpu must be between 0 and " + std::to_string(devices_.size() - 1) + ", got " +
                           std::to_string(params.main_gpu));
    }
    devices_.push_back(nullptr);
    // where none are named, llama.cpp chooses: it knows which names are of the same device
    load_.devices = params.devices || !remote.empty() ? devices_.data() : nullptr;
}

void LoadOptions::split_tensors(const ModelParams & params) {
    const auto & given     = params.tensor_split;
    const size_t n_devices = devices_.size() - 1;
    if (given.empty()) {
        return;
    }
    if (given.size() > n_devices) {
        throw RequestError("tensor_split has " + std::to_string(given.size()) + " numbers for " +
                           std::to_string(n_devices) + " devices; give at most one for each");
    }
    // so that their sum is finite
    const float largest = *std::max_element(given.begin(), given.end());
    for (const float part : given) {
        if (!std::isfinite(part) || part < 0.0f) {
            throw RequestError("tensor_split must be proportions of at least 0, got " + std::to_string(part));
        }
        tensor_split_.push_back(largest > 0.0f ? part / largest : 0.0f);
    }
    tensor_split_.resize(std::max(tensor_split_.size(), llama_max_devices()), 0.0f);
    load_.tensor_split = tensor_split_.data();
}

void LoadOptions::place_tensors(const ModelParams & params) {
    std::vector<ggml_backend_dev_t> devices(devices_.begin(), devices_.end() - 1);
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        devices.push_back(ggml_backend_dev_get(i));
    }
    std::map<std::string, ggml_backend_buffer_type_t> types;
    for (ggml_backend_dev_t device : devices) {
        ggml_backend_buffer_type_t type = ggml_backend_dev_buffer_type(device);
        if (type != nullptr) {
            types.emplace(ggml_backend_buft_name(type), type);
        }
    }
    std::vector<ggml_backend_buffer_type_t> buffers;
    for (const auto & [pattern, type] : params.override_tensor) {
        try {
            (void)std::regex(pattern);
        } catch (const std::regex_error & e) {
            throw RequestError("override_tensor has '" + pattern +
                               "', which is not a regular expression: " + one_line(e.what()));
        }
        patterns_.push_back(pattern);
        buffers.push_back(choice("override_tensor: the buffer type", type, types));
    }
    for (uint32_t layer = 0; layer < std::min(params.n_cpu_moe, k_max_layers); ++layer) {
        patterns_.push_back(llm_ffn_block_regex(static_cast<int>(layer), LLM_FFN_EXPS_REGEX));
        buffers.push_back(ggml_backend_cpu_buffer_type());
    }
    if (patterns_.empty()) {
        return;
    }
    for (size_t i = 0; i < patterns_.size(); ++i) {
        tensors_.push_back({patterns_[i].c_str(), buffers[i]});
    }
    tensors_.push_back({nullptr, nullptr});
    load_.tensor_buft_overrides = tensors_.data();
}

void LoadOptions::override_keys(const ModelParams & params) {
    if (params.kv_overrides.empty()) {
        return;
    }
    for (const auto & [key, value] : params.kv_overrides) {
        llama_model_kv_override out = {};
        copy_text(out.key, sizeof(out.key), key, "the key");
        if (key.empty()) {
            throw RequestError("kv_overrides: a key is empty; name a key of the model file");
        }
        if (const auto * flag = std::get_if<bool>(&value)) {
            out.tag      = LLAMA_KV_OVERRIDE_TYPE_BOOL;
            out.val_bool = *flag;
        } else if (const auto * integer = std::get_if<int64_t>(&value)) {
            out.tag     = LLAMA_KV_OVERRIDE_TYPE_INT;
            out.val_i64 = *integer;
        } else if (const auto * number = std::get_if<double>(&value)) {
            out.tag     = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
            out.val_f64 = *number;
        } else {
            out.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
            copy_text(out.val_str, sizeof(out.val_str), std::get<std::string>(value), "the value of '" + key + "'");
        }
        keys_.push_back(out);
    }
    keys_.push_back({});  // an empty key ends the list
    load_.kv_overrides = keys_.data();
}

}  // namespace darwin_neg
