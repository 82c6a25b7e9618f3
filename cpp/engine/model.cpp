#include "model.h"

#include "errors.h"
#include "load_options.h"
#include "log_sink.h"

#include "common.h"
#include "llama-ext.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <mutex>

namespace darwin_neg {

namespace {

constexpr uint32_t k_max_parallel =
    255;  // llama.cpp's LLAMA_MAX_SEQ is 256, and one sequence holds prompts for later samples

void init_backend_once() {
    static std::once_flag once;
    std::call_once(once, [] {
        install_log_sink();
        llama_backend_init();
    });
}

// Looks at the first bytes ourselves: llama.cpp's own message for a file that is not GGUF does not say which file.
void check_readable_gguf(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw ModelFileError(path + ": cannot be opened; check the path and its permissions");
    }
    std::array<char, 4> magic = {};
    file.read(magic.data(), magic.size());
    if (file.gcount() == 0) {
        throw ModelFileError(path + ": the file is empty (or a folder); give a GGUF model file");
    }
    if (file.gcount() < 4 || std::string(magic.data(), 4) != "GGUF") {
        throw ModelFileError(path + ": not a GGUF file; convert the checkpoint to GGUF first");
    }
}

// The loader reports its reason in the log only. The first line is the cause, later ones repeat that loading failed.
[[noreturn]] void throw_load_error(const std::string & path, const std::vector<std::string> & lines, bool overridden) {
    for (const auto & line : lines) {
        const size_t at = line.find("neg: ");
        if (at != std::string::npos) {
            throw NegHeadError(path + ": " + line.substr(at + 5));
        }
    }
    std::string reason = lines.empty() ? "llama.cpp gave no reason" : lines.front();
    // "llama_model_load: error loading model: tensor ..." -> "tensor ..."
    const std::string marker = "error loading model: ";
    for (const auto & line : lines) {
        const size_t at = line.find(marker);
        if (at != std::string::npos) {
            reason = line.substr(at + marker.size());
            break;
        }
    }
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    if (reason.rfind("LLAMA_SPLIT_MODE_TENSOR not implemented", 0) == 0) {
        throw RequestError(
            "split_mode is 'tensor', which llama.cpp does not have for this model's architecture; use 'layer'");
    }
    throw ModelFileError(path + ": cannot be loaded: " + reason +
                         (overridden ? "; check kv_overrides, or the file may be damaged or of an unsupported kind"
                                     : "; the file may be damaged or of an unsupported kind"));
}

llama_flash_attn_type flash_attn_type(const std::string & name) {
    if (name == "auto") {
        return LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
    if (name == "on") {
        return LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }
    if (name == "off") {
        return LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    throw RequestError("flash_attn must be auto, on or off, got '" + name + "'");
}

// Which overrides of keys the loader uses: it says so in its log alone. One of the wrong type, or of a key that it does
// not read, would have no effect.
class OverrideWatch {
public:
    using Overrides = std::vector<std::pair<std::string, KeyValue>>;

    explicit OverrideWatch(const Overrides & overrides)
        : overrides_(overrides), used_(overrides.size()), scope_([this](const LogLine & line) { see(line.second); }) {}

    void check_types() const {
        if (!wrong_.empty()) {
            throw RequestError("kv_overrides: " + wrong_);
        }
    }

    void check_use() const {
        for (size_t i = 0; i < overrides_.size(); ++i) {
            const std::string & key = overrides_[i].first;
            // the last ones are read by those who sample, from the model's metadata
            if (!used_[i] && key.rfind("general.sampling.", 0) != 0) {
                throw RequestError("kv_overrides: the key '" + key +
                                   "' is not read when this model is loaded, or only as an array; leave it out");
            }
        }
    }

private:
    void see(const std::string & line) {
        const size_t wrong = line.find("Bad metadata override type for ");
        if (wrong != std::string::npos && wrong_.empty()) {
            wrong_ = line.substr(line.find("key ", wrong));
        }
        for (size_t i = 0; i < overrides_.size(); ++i) {
            if (line.find("Using metadata override") != std::string::npos &&
                line.find("'" + overrides_[i].first + "' = ") != std::string::npos) {
                used_[i] = true;
            }
        }
    }

    const Overrides & overrides_;
    std::vector<bool> used_;
    std::string wrong_;  // what llama.cpp says of the first one whose type does not fit
    LineScope scope_;
};

// Architectures whose last layer runs for every token of a prompt, in case an MTP block wants to see them all, unless
// the context masks what that block sees. Others skip the tokens that yield no output by themselves.
bool prunes_when_masked(const std::string & architecture) {
    return architecture == "qwen35" || architecture == "qwen35moe";
}

// Architectures whose MTP block llama.cpp can run. Others may have one, and would run their trunk in its place.
constexpr std::array<const char *, 14> k_mtp_architectures = {
    "qwen35",    "qwen35moe", "qwen3next", "glm4moe", "glm-dsa",    "deepseek2",   "deepseek32",
    "deepseek4", "mimo2",     "step35",    "hy_v3",   "cohere2moe", "bailingmoe3", "nemotron_h_moe"};

constexpr uint32_t k_max_draft = 32;  // a recurrent memory keeps that many more copies of every state

void check_draft_values(const ModelParams & p) {
    const auto check = [](const char * name, uint32_t value, uint32_t low) {
        if (value < low || value > k_max_draft) {
            throw RequestError(std::string(name) + " must be between " + std::to_string(low) + " and " +
                               std::to_string(k_max_draft) + ", got " + std::to_string(value));
        }
    };
    check("mtp", p.mtp, 0);
    check("draft_max", p.draft_max, 1);
    if (p.mtp_max_parallel < 1) {
        throw RequestError("mtp_max_parallel must be at least 1");
    }
    if (p.draft != "none" && p.draft != "ngram") {
        throw RequestError("draft must be none or ngram, got '" + p.draft + "'");
    }
}

bool on_progress(float fraction, void * user_data) {
    return (*static_cast<std::function<bool(float)> *>(user_data))(fraction);
}

}  // namespace

ggml_type cache_type(const char * argument, const std::string & name) {
    constexpr std::array<ggml_type, 9> allowed = {GGML_TYPE_F32,    GGML_TYPE_F16,  GGML_TYPE_BF16,
                                                  GGML_TYPE_Q8_0,   GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                                                  GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1};
    std::string names;
    for (const ggml_type type : allowed) {
        if (name == ggml_type_name(type)) {
            return type;
        }
        names += std::string(names.empty() ? "" : ", ") + ggml_type_name(type);
    }
    throw RequestError(std::string(argument) + " must be one of " + names + ", got '" + name + "'");
}

Model::Model(ModelParams params, Weights weights) : params_(std::move(params)) {
    init_backend_once();
    if (params_.n_parallel < 1 || params_.n_parallel > k_max_parallel) {
        throw RequestError("n_parallel must be between 1 and " + std::to_string(k_max_parallel) + ", got " +
                           std::to_string(params_.n_parallel));
    }
    if (params_.n_batch < 1 || params_.n_ubatch < 1) {
        throw RequestError("n_batch and n_ubatch must be at least 1");
    }
    // a step decodes one token of every running sequence, and llama.cpp wants room for an output of every sequence it
    // has
    params_.prefix_cache     = std::min(params_.prefix_cache, k_max_parallel - params_.n_parallel);
    params_.mtp_max_parallel = std::min(params_.mtp_max_parallel, params_.n_parallel);
    params_.n_batch =
        std::max({params_.n_batch, params_.n_parallel + 1 + params_.prefix_cache, params_.n_draft_rows()});
    params_.n_ubatch = std::min(params_.n_ubatch, params_.n_batch);
    if (params_.n_threads <= 0) {
        params_.n_threads = common_cpu_get_num_math();
    }
    if (params_.n_threads_batch <= 0) {
        params_.n_threads_batch = params_.n_threads;
    }
    cache_type("type_k", params_.type_k);
    cache_type("type_v", params_.type_v);
    flash_attn_type(params_.flash_attn);
    check_draft_values(params_);

    if (params_.rope_scaling_type) {
        rope_scaling_type(*params_.rope_scaling_type);
    }
    if (params_.numa) {
        init_numa(*params_.numa);
    }
    servers_ = RpcServers(params_.rpc_servers);
    const LoadOptions options(params_, servers_.devices());
    llama_model_params load = options.get();
    if (params_.progress) {
        load.progress_callback           = on_progress;
        load.progress_callback_user_data = &params_.progress;
    }
    if (weights == Weights::planned) {
        load.no_alloc  = true;
        load.load_mode = LLAMA_LOAD_MODE_NONE;  // a mapped file needs no memory of its own
    }

    check_readable_gguf(params_.model_path);
    if (params_.neg_path) {
        check_readable_gguf(*params_.neg_path);
    }
    this->load(load);
    params_.progress = nullptr;  // it may refer to what ends with the load
    if (!llama_model_has_decoder(model_.get()) || llama_model_has_encoder(model_.get()) ||
        llama_model_is_diffusion(model_.get())) {
        throw ModelFileError(params_.model_path + ": architecture '" + architecture() +
                             "' does not generate text token by token; give a decoder-only language model");
    }
    vocab_   = llama_model_get_vocab(model_.get());
    n_vocab_ = llama_vocab_n_tokens(vocab_);
    if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE && weights == Weights::read) {
        throw ModelFileError(params_.model_path + ": the file has no vocabulary; convert it again with its tokenizer");
    }
    n_ctx_ = params_.n_ctx == 0 ? static_cast<uint32_t>(llama_model_n_ctx_train(model_.get())) : params_.n_ctx;
    load_adapters();
    check_drafts();

    neg_        = llama_model_neg_info(model_.get());
    neg_origin_ = neg_.present ? NegOrigin::model_file : NegOrigin::none;
    if (params_.neg_path) {
        std::array<char, 1024> message = {};
        if (llama_model_load_neg(model_.get(), params_.neg_path->c_str(), message.data(), message.size()) != 0) {
            std::string line = message.data();
            if (line.rfind("neg: ", 0) == 0) {
                line.erase(0, 5);
            }
            throw NegHeadError(line.find(*params_.neg_path) == std::string::npos ? *params_.neg_path + ": " + line
                                                                                 : line);
        }
        neg_        = llama_model_neg_info(model_.get());
        neg_origin_ = NegOrigin::side_car;
    }
    check_servers();
}

void Model::load(const llama_model_params & load) {
    const ErrorLineScope errors;
    OverrideWatch overrides(params_.kv_overrides);
    try {
        model_.reset(llama_model_load_from_file(params_.model_path.c_str(), load));
    } catch (const std::exception & e) {
        throw ModelFileError(params_.model_path + ": cannot be loaded: " + e.what());
    }
    overrides.check_types();
    check_servers();  // a load may seem to work without one
    if (!model_) {
        throw_load_error(params_.model_path, errors.lines(), !params_.kv_overrides.empty());
    }
    overrides.check_use();
}

void Model::load_adapters() {
    for (const auto & [path, scale] : params_.lora) {
        check_readable_gguf(path);
        const ErrorLineScope errors;
        loras_.emplace_back(llama_adapter_lora_init(model_.get(), path.c_str()));
        if (!loras_.back()) {
            const auto lines         = errors.lines();
            std::string reason       = lines.empty() ? "llama.cpp gave no reason" : lines.front();
            const std::string marker = "failed to apply lora adapter: ";
            const size_t at          = reason.find(marker);
            throw ModelFileError(path + ": the LoRA adapter cannot be loaded: " +
                                 one_line(at == std::string::npos ? reason : reason.substr(at + marker.size())));
        }
    }
}

// What common_speculative and the graph of an MTP block would assert on.
void Model::check_drafts() const {
    if (params_.n_draft() == 0) {
        return;
    }
    if (params_.mtp > 0) {
        const int32_t n_blocks = llama_model_n_layer_nextn(model_.get());
        if (n_blocks != 1) {
            throw RequestError(params_.model_path + ": has " +
                               (n_blocks == 0 ? "no MTP block" : std::to_string(n_blocks) + " MTP blocks") +
                               ", drafts are made with exactly one; leave mtp=" + std::to_string(params_.mtp) + " out");
        }
        const std::string name = architecture();
        if (std::find(k_mtp_architectures.begin(), k_mtp_architectures.end(), name) == k_mtp_architectures.end()) {
            throw RequestError(params_.model_path + ": llama.cpp has no graph for the MTP block of architecture '" +
                               name + "'; leave mtp=" + std::to_string(params_.mtp) + " out");
        }
    }
    const uint32_t needed = params_.n_draft_rows();
    const uint32_t n      = std::min(params_.n_ubatch, n_ctx_);
    if (n < needed) {
        throw RequestError((params_.n_ubatch < needed ? "n_ubatch" : "n_ctx") + std::string(" must be at least ") +
                           std::to_string(needed) + " for drafts of " + std::to_string(params_.n_draft()) +
                           " tokens in " + std::to_string(params_.mtp_max_parallel) + " sequences, got " +
                           std::to_string(n) + "; raise it, or lower mtp_max_parallel");
    }
}

LlamaContextPtr Model::make_context(const ContextParams & shape) const {
    llama_context_params p = llama_context_default_params();
    // llama.cpp cuts the batch to the context, and asserts on a batch smaller than the number of sequences
    p.n_ctx           = std::max(shape.n_ctx, shape.n_seq);
    p.n_batch         = shape.n_batch;
    p.n_ubatch        = shape.n_ubatch;
    p.n_seq_max       = shape.n_seq;
    p.n_outputs_max   = shape.n_outputs == 0 ? 0 : std::max(shape.n_outputs, shape.n_seq);  // which llama.cpp asserts
    p.n_threads       = params_.n_threads;
    p.n_threads_batch = params_.n_threads_batch;
    p.flash_attn_type = flash_attn_type(params_.flash_attn);
    p.type_k          = cache_type("type_k", params_.type_k);
    p.type_v          = cache_type("type_v", params_.type_v);
    p.kv_unified      = true;
    p.offload_kqv     = params_.offload_kqv;
    p.op_offload      = params_.op_offload;
    p.swa_full        = params_.swa_full;
    if (params_.rope_scaling_type) {
        p.rope_scaling_type = rope_scaling_type(*params_.rope_scaling_type);
    }
    p.rope_freq_base   = params_.rope_freq_base;
    p.rope_freq_scale  = params_.rope_freq_scale;
    p.yarn_ext_factor  = params_.yarn_ext_factor;
    p.yarn_attn_factor = params_.yarn_attn_factor;
    p.yarn_beta_fast   = params_.yarn_beta_fast;
    p.yarn_beta_slow   = params_.yarn_beta_slow;
    p.yarn_orig_ctx    = params_.yarn_orig_ctx;
    p.embeddings       = shape.embeddings;
    p.no_perf          = true;
    p.n_rs_seq         = shape.n_rollback;
    if (shape.drafts_for != nullptr) {
        p.ctx_type  = LLAMA_CONTEXT_TYPE_MTP;
        p.ctx_other = shape.drafts_for;
    }
    if (shape.embeddings) {
        p.pooling_type = LLAMA_POOLING_TYPE_NONE;
    }
    const ErrorLineScope errors;
    LlamaContextPtr context;
    try {
        context.reset(llama_init_from_model(model_.get(), p));
    } catch (const std::exception & e) {
        throw ModelFileError(params_.model_path + ": no context of " + std::to_string(shape.n_ctx) +
                             " tokens: " + e.what());
    }
    check_servers();
    if (!context) {
        const auto lines = errors.lines();
        throw ModelFileError(params_.model_path + ": no context of " + std::to_string(shape.n_ctx) +
                             " tokens could be made: " + (lines.empty() ? "out of memory?" : lines.front()) +
                             "; try a smaller n_ctx or n_parallel, or another type_k/type_v");
    }
    if (llama_get_memory(context.get()) == nullptr) {
        throw ModelFileError(params_.model_path + ": architecture '" + architecture() +
                             "' has no decoder memory; give a language model");
    }
    std::vector<llama_adapter_lora *> adapters;
    std::vector<float> scales;
    for (size_t i = 0; i < loras_.size(); ++i) {
        adapters.push_back(loras_[i].get());
        scales.push_back(params_.lora[i].second);
    }
    llama_set_adapters_lora(context.get(), adapters.data(), adapters.size(), scales.data());
    if (!shape.embeddings && shape.drafts_for == nullptr && prunes_when_masked(architecture())) {
        // whoever drafts with the model's MTP block wants the hidden state of every token, and switches this off
        llama_set_embeddings_nextn(context.get(), false, /*masked*/ true);
    }
    return context;
}

std::string Model::decode_error(int32_t code) const {
    const std::string lost = servers_.lost();
    return lost.empty() ? "llama_decode failed with code " + std::to_string(code) + "; see the log of llama.cpp" : lost;
}

void Model::check_servers() const {
    const std::string lost = servers_.lost();
    if (!lost.empty()) {
        throw Error(lost);
    }
}

std::string Model::description() const {
    std::array<char, 256> text = {};
    llama_model_desc(model_.get(), text.data(), text.size());
    return text.data();
}

std::string Model::architecture() const {
    std::array<char, 128> text = {};
    llama_model_meta_val_str(model_.get(), "general.architecture", text.data(), text.size());
    return text.data();
}

std::map<std::string, std::string> Model::metadata() const {
    std::map<std::string, std::string> out;
    const auto read = [](auto && getter) {
        std::string text(256, '\0');
        int32_t n = getter(text.data(), text.size());
        if (n >= static_cast<int32_t>(text.size())) {
            text.resize(static_cast<size_t>(n) + 1);
            n = getter(text.data(), text.size());
        }
        text.resize(n < 0 ? 0 : static_cast<size_t>(n));
        return text;
    };
    for (int32_t i = 0; i < llama_model_meta_count(model_.get()); ++i) {
        const std::string key =
            read([&](char * buf, size_t size) { return llama_model_meta_key_by_index(model_.get(), i, buf, size); });
        out[key] = read(
            [&](char * buf, size_t size) { return llama_model_meta_val_str_by_index(model_.get(), i, buf, size); });
    }
    for (const auto & [key, value] : params_.kv_overrides) {
        out[key] = text_of(value);
    }
    return out;
}

std::vector<llama_token> Model::tokenize(const std::string & text, bool add_special, bool parse_special) const {
    return common_tokenize(vocab_, text, add_special, parse_special);
}

std::string Model::detokenize(const std::vector<llama_token> & tokens, bool special) const {
    for (const llama_token token : tokens) {
        if (token < 0 || token >= n_vocab_) {
            throw RequestError("token " + std::to_string(token) + " is outside the vocabulary of " +
                               std::to_string(n_vocab_));
        }
    }
    return common_detokenize(vocab_, tokens, special);
}

std::string Model::piece(llama_token token, bool special) const {
    return common_token_to_piece(vocab_, token, special);
}

std::vector<std::pair<std::string, bool>> Model::marker_texts() const {
    constexpr int k_control = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN;
    std::vector<std::pair<std::string, bool>> texts;
    for (llama_token token = 0; token < n_vocab_; ++token) {
        const int attributes = llama_vocab_get_attr(vocab_, token);
        if ((attributes & (k_control | LLAMA_TOKEN_ATTR_USER_DEFINED)) != 0) {
            texts.emplace_back(llama_vocab_get_text(vocab_, token), (attributes & k_control) != 0);
        }
    }
    return texts;
}

}  // namespace darwin_neg
