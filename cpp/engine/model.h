#pragma once

#include "rpc_servers.h"

#include "llama-neg.h"
#include "llama.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace darwin_neg {

struct LlamaModelDeleter {
    void operator()(llama_model * model) const { llama_model_free(model); }
};
struct LlamaContextDeleter {
    void operator()(llama_context * context) const { llama_free(context); }
};
struct LlamaLoraDeleter {
    void operator()(llama_adapter_lora * lora) const { llama_adapter_lora_free(lora); }
};
using LlamaModelPtr   = std::unique_ptr<llama_model, LlamaModelDeleter>;
using LlamaContextPtr = std::unique_ptr<llama_context, LlamaContextDeleter>;
using LlamaLoraPtr    = std::unique_ptr<llama_adapter_lora, LlamaLoraDeleter>;

// The value of a key of the model file
using KeyValue = std::variant<bool, int64_t, double, std::string>;

// How a model file is loaded and its context sized. Zero means "choose for me" where 0 makes no sense as a value.
struct ModelParams {
    std::string model_path;
    std::optional<std::string> neg_path;  // side-car; not set: the head in the model file, if any
    uint32_t n_ctx   = 4096;  // tokens of all sequences together, and at most of one; 0: what the model was trained for
    uint32_t n_batch = 512;   // tokens decoded in one step
    uint32_t n_ubatch           = 512;
    uint32_t n_parallel         = 8;            // sequences that generate side by side
    uint32_t prefix_cache       = 4;            // beginnings of texts kept in the context for later prompts; 0: none
    uint64_t prefix_cache_bytes = 256U << 20U;  // host memory for more of them
    int32_t n_threads           = 0;
    int32_t n_threads_batch     = 0;
    int32_t n_gpu_layers        = -1;  // -1: all
    int32_t main_gpu            = 0;
    std::string split_mode      = "layer";
    std::string flash_attn      = "auto";
    std::string type_k          = "f16";
    std::string type_v          = "f16";
    bool use_mmap               = true;
    bool use_mlock              = false;
    std::vector<float> tensor_split;                  // proportions of the model by device; empty: by free memory
    std::optional<std::vector<std::string>> devices;  // names; not set: every GPU; empty: none
    std::vector<std::string> rpc_servers;             // HOST:PORT of other machines that hold parts of the model
    bool offload_kqv = true;
    bool op_offload  = true;
    bool swa_full    = true;  // false: caches of sliding windows hold the window alone
    std::optional<std::string> rope_scaling_type;
    // 0, and a negative number for those of YaRN: the model's
    float rope_freq_base   = 0.0f;
    float rope_freq_scale  = 0.0f;
    float yarn_ext_factor  = -1.0f;
    float yarn_attn_factor = -1.0f;
    float yarn_beta_fast   = -1.0f;
    float yarn_beta_slow   = -1.0f;
    uint32_t yarn_orig_ctx = 0;
    std::vector<std::pair<std::string, float>> lora;                   // path, scale
    std::vector<std::pair<std::string, std::string>> override_tensor;  // pattern of names, buffer type; the first fits
    uint32_t n_cpu_moe = 0;                                            // layers whose experts stay with the CPU
    std::vector<std::pair<std::string, KeyValue>> kv_overrides;
    std::optional<std::string> numa;  // of the whole process

    // Drafts: see Drafter.
    uint32_t mtp              = 0;       // tokens that the model's own MTP block drafts; 0: it is not loaded
    std::string draft         = "none";  // or "ngram": prompt lookup, of at most draft_max tokens
    uint32_t draft_max        = 4;
    uint32_t mtp_max_parallel = 2;  // while more sequences generate, none is drafted for

    // The longest draft; 0: none are made.
    uint32_t n_draft() const { return std::max(mtp, draft == "none" ? 0U : draft_max); }
    // Rows that must fit one decode: those of all drafts, and of a prompt as long as one of them.
    uint32_t n_draft_rows() const { return n_draft() == 0 ? 0 : (mtp_max_parallel + 1) * (n_draft() + 1); }

    // Called with 0..1 while the model is loaded and never after; returning false stops the load.
    std::function<bool(float)> progress;

    // Calls visit(name, value) for every field but `progress`.
    template <typename Params, typename Visit>
    static void visit_fields(Params & params, Visit && visit) {
        visit("model_path", params.model_path);
        visit("neg_path", params.neg_path);
        visit("n_ctx", params.n_ctx);
        visit("n_batch", params.n_batch);
        visit("n_ubatch", params.n_ubatch);
        visit("n_parallel", params.n_parallel);
        visit("prefix_cache", params.prefix_cache);
        visit("prefix_cache_bytes", params.prefix_cache_bytes);
        visit("n_threads", params.n_threads);
        visit("n_threads_batch", params.n_threads_batch);
        visit("n_gpu_layers", params.n_gpu_layers);
        visit("main_gpu", params.main_gpu);
        visit("split_mode", params.split_mode);
        visit("flash_attn", params.flash_attn);
        visit("type_k", params.type_k);
        visit("type_v", params.type_v);
        visit("use_mmap", params.use_mmap);
        visit("use_mlock", params.use_mlock);
        visit("tensor_split", params.tensor_split);
        visit("devices", params.devices);
        visit("rpc_servers", params.rpc_servers);
        visit("offload_kqv", params.offload_kqv);
        visit("op_offload", params.op_offload);
        visit("swa_full", params.swa_full);
        visit("rope_scaling_type", params.rope_scaling_type);
        visit("rope_freq_base", params.rope_freq_base);
        visit("rope_freq_scale", params.rope_freq_scale);
        visit("yarn_ext_factor", params.yarn_ext_factor);
        visit("yarn_attn_factor", params.yarn_attn_factor);
        visit("yarn_beta_fast", params.yarn_beta_fast);
        visit("yarn_beta_slow", params.yarn_beta_slow);
        visit("yarn_orig_ctx", params.yarn_orig_ctx);
        visit("lora", params.lora);
        visit("override_tensor", params.override_tensor);
        visit("n_cpu_moe", params.n_cpu_moe);
        visit("kv_overrides", params.kv_overrides);
        visit("numa", params.numa);
        visit("mtp", params.mtp);
        visit("draft", params.draft);
        visit("draft_max", params.draft_max);
        visit("mtp_max_parallel", params.mtp_max_parallel);
    }
};

// The size of a context, and what it is for.
struct ContextParams {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq;
    uint32_t n_outputs         = 0;        // tokens of a batch that yield logits, at most; 0: all of them
    bool embeddings            = false;    // every output row also yields the LM head's input
    uint32_t n_rollback        = 0;        // tokens of a sequence that a recurrent memory can take back
    llama_context * drafts_for = nullptr;  // the context for which this one drafts with the MTP block
};

// Where the NEG head came from.
enum class NegOrigin { none, model_file, side_car };

// A loaded model: weights, vocabulary and, if it has one, the NEG head. Immutable, so any thread may read it.
class Model {
public:
    // planned: for sizes alone, without reading weights or allocating memory; the vocabulary may be missing.
    enum class Weights { read, planned };

    // Throws ModelFileError or NegHeadError; nothing that ggml would assert on gets that far.
    explicit Model(ModelParams params, Weights weights = Weights::read);

    const ModelParams & params() const { return params_; }
    llama_model * get() const { return model_.get(); }
    const llama_vocab * vocab() const { return vocab_; }
    int32_t n_vocab() const { return n_vocab_; }
    llama_neg_info neg() const { return neg_; }
    NegOrigin neg_origin() const { return neg_origin_; }

    // n_ctx of ModelParams with 0 resolved
    uint32_t n_ctx() const { return n_ctx_; }

    // A context in one unified cache, with the model's adapters.
    LlamaContextPtr make_context(const ContextParams & shape) const;

    std::string description() const;
    std::string architecture() const;
    std::map<std::string, std::string> metadata() const;

    std::vector<llama_token> tokenize(const std::string & text, bool add_special, bool parse_special) const;
    std::string detokenize(const std::vector<llama_token> & tokens, bool special) const;
    std::string piece(llama_token token, bool special) const;

    // Texts that the tokenizer always reads as one token of their own, and whether that is a control token.
    std::vector<std::pair<std::string, bool>> marker_texts() const;

    // What to say of a llama_decode that returned `code`.
    std::string decode_error(int32_t code) const;
    // Throws Error when an RPC server that holds a part of the model is lost.
    void check_servers() const;
    const RpcServers & servers() const { return servers_; }

private:
    void load(const llama_model_params & load);
    void load_adapters();
    void check_drafts() const;

    ModelParams params_;
    RpcServers servers_;  // before the model, which lies on their devices
    LlamaModelPtr model_;
    std::vector<LlamaLoraPtr> loras_;  // after the model, which they are freed before
    const llama_vocab * vocab_ = nullptr;
    int32_t n_vocab_           = 0;
    uint32_t n_ctx_            = 0;
    llama_neg_info neg_        = {};
    NegOrigin neg_origin_      = NegOrigin::none;
};

// llama.cpp's name for a cache type ("f16", "q8_0", ...); throws RequestError for one the KV cache cannot hold.
ggml_type cache_type(const char * argument, const std::string & name);

}  // namespace darwin_neg
