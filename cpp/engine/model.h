#pragma once

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
#include <vector>

namespace darwin_neg {

struct LlamaModelDeleter {
    void operator()(llama_model * model) const { llama_model_free(model); }
};
struct LlamaContextDeleter {
    void operator()(llama_context * context) const { llama_free(context); }
};
using LlamaModelPtr   = std::unique_ptr<llama_model, LlamaModelDeleter>;
using LlamaContextPtr = std::unique_ptr<llama_context, LlamaContextDeleter>;

// How a model file is loaded and its context sized. Zero means "choose for me" where 0 makes no sense as a value.
struct ModelParams {
    std::string model_path;
    std::optional<std::string> neg_path;  // side-car; not set: the head in the model file, if any
    uint32_t n_ctx   = 4096;  // tokens of all sequences together, and at most of one; 0: what the model was trained for
    uint32_t n_batch = 512;   // tokens decoded in one step
    uint32_t n_ubatch       = 512;
    uint32_t n_parallel     = 8;  // sequences that generate side by side
    int32_t n_threads       = 0;
    int32_t n_threads_batch = 0;
    int32_t n_gpu_layers    = -1;  // -1: all
    int32_t main_gpu        = 0;
    std::string split_mode  = "layer";
    std::string flash_attn  = "auto";
    std::string type_k      = "f16";
    std::string type_v      = "f16";
    bool use_mmap           = true;
    bool use_mlock          = false;

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
        visit("mtp", params.mtp);
        visit("draft", params.draft);
        visit("draft_max", params.draft_max);
        visit("mtp_max_parallel", params.mtp_max_parallel);
    }
};

// Where the NEG head came from.
enum class NegOrigin { none, model_file, side_car };

// A loaded model: weights, vocabulary and, if it has one, the NEG head. Immutable, so any thread may read it.
class Model {
public:
    // Throws ModelFileError or NegHeadError; nothing that ggml would assert on gets that far.
    explicit Model(ModelParams params);

    const ModelParams & params() const { return params_; }
    llama_model * get() const { return model_.get(); }
    const llama_vocab * vocab() const { return vocab_; }
    int32_t n_vocab() const { return n_vocab_; }
    llama_neg_info neg() const { return neg_; }
    NegOrigin neg_origin() const { return neg_origin_; }

    // n_ctx of ModelParams with 0 resolved
    uint32_t n_ctx() const { return n_ctx_; }

    // A context for `n_seq` sequences in one unified cache. With `embeddings`, every output row also yields the LM
    // head's input. n_rollback: tokens of a sequence that a recurrent memory can take back.
    // drafts_for: the context for which this one is to draft with the MTP block, or null.
    LlamaContextPtr make_context(uint32_t n_ctx, uint32_t n_batch, uint32_t n_ubatch, uint32_t n_seq, bool embeddings,
                                 uint32_t n_rollback = 0, llama_context * drafts_for = nullptr) const;

    std::string description() const;
    std::string architecture() const;
    std::map<std::string, std::string> metadata() const;

    std::vector<llama_token> tokenize(const std::string & text, bool add_special, bool parse_special) const;
    std::string detokenize(const std::vector<llama_token> & tokens, bool special) const;
    std::string piece(llama_token token, bool special) const;

    // Texts that the tokenizer always reads as one token of their own, and whether that is a control token.
    std::vector<std::pair<std::string, bool>> marker_texts() const;

private:
    void check_drafts() const;

    ModelParams params_;
    LlamaModelPtr model_;
    const llama_vocab * vocab_ = nullptr;
    int32_t n_vocab_           = 0;
    uint32_t n_ctx_            = 0;
    llama_neg_info neg_        = {};
    NegOrigin neg_origin_      = NegOrigin::none;
};

// llama.cpp's name for a cache type ("f16", "q8_0", ...); throws RequestError for one the KV cache cannot hold.
ggml_type cache_type(const char * argument, const std::string & name);

}  // namespace darwin_neg
