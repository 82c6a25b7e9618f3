#include "engine.h"

#include "errors.h"
#include "logits.h"

#include <algorithm>

namespace darwin_neg {

namespace {

struct BatchDeleter {
    void operator()(llama_batch * batch) const {
        llama_batch_free(*batch);
        delete batch;
    }
};

}  // namespace

Engine::Engine(ModelParams params, const std::string & chat_template)
    : model_(std::move(params)), chat_template_(model_, chat_template), scheduler_(model_) {}

Evaluation Engine::evaluate(const std::vector<llama_token> & tokens, bool hidden, bool logits) const {
    const auto n = static_cast<int32_t>(tokens.size());
    if (n == 0) {
        throw RequestError("tokens is empty; give at least one token");
    }
    if (tokens.size() > model_.n_ctx()) {
        throw ContextFullError("tokens has " + std::to_string(n) + " entries, the context holds " + std::to_string(model_.n_ctx()) +
                               "; shorten the text or raise n_ctx");
    }
    for (const llama_token token : tokens) {
        if (token < 0 || token >= model_.n_vocab()) {
            throw RequestError("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(model_.n_vocab()));
        }
    }
    const ModelParams & params    = model_.params();
    const LlamaContextPtr context = model_.make_context(static_cast<uint32_t>(n), params.n_batch, params.n_ubatch, 1, hidden);

    Evaluation out;
    out.n_tokens = n;
    out.n_embd   = llama_model_n_embd(model_.get());
    out.n_vocab  = model_.n_vocab();

    const auto n_batch = static_cast<int32_t>(llama_n_batch(context.get()));
    const std::unique_ptr<llama_batch, BatchDeleter> batch(new llama_batch(llama_batch_init(n_batch, 0, 1)));
    for (int32_t from = 0; from < n; from += n_batch) {
        const int32_t count = std::min(n_batch, n - from);
        batch->n_tokens     = count;
        for (int32_t i = 0; i < count; ++i) {
            batch->token[i]     = tokens[from + i];
            batch->pos[i]       = from + i;
            batch->n_seq_id[i]  = 1;
            batch->seq_id[i][0] = 0;
            batch->logits[i]    = 1;
        }
        const int32_t rc = llama_decode(context.get(), *batch);
        if (rc != 0) {
            throw Error("llama_decode failed with code " + std::to_string(rc) + "; see the log of llama.cpp");
        }
        for (int32_t i = 0; i < count; ++i) {
            const float * row = llama_get_logits_ith(context.get(), i);
            out.true_entropy.push_back(static_cast<float>(row_entropy(row, out.n_vocab)));
            if (model_.neg().present) {
                out.predicted_entropy.push_back(llama_get_neg_ith(context.get(), i));
            }
            if (logits) {
                out.logits.insert(out.logits.end(), row, row + out.n_vocab);
            }
            if (hidden) {
                const float * h = llama_get_embeddings_ith(context.get(), i);
                out.hidden.insert(out.hidden.end(), h, h + out.n_embd);
            }
        }
    }
    return out;
}

}  // namespace darwin_neg
