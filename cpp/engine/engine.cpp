#include "engine.h"

#include "errors.h"
#include "logits.h"
#include "parallel.h"

#include <algorithm>

namespace darwin_neg {

namespace {

// of logits that evaluate() holds at once
constexpr int64_t k_logits_bytes = 128 << 20;
constexpr size_t k_texts_at_once = 16;

struct BatchDeleter {
    void operator()(llama_batch * batch) const {
        llama_batch_free(*batch);
        delete batch;
    }
};

}  // namespace

Engine::Engine(ModelParams params, const std::string & chat_template)
    : model_(std::move(params)), chat_template_(model_, chat_template), scheduler_(model_) {}

void Engine::check_texts(const std::vector<std::vector<llama_token>> & texts) const {
    for (const auto & tokens : texts) {
        if (tokens.empty()) {
            throw RequestError("tokens is empty; give at least one token");
        }
        if (tokens.size() > model_.n_ctx()) {
            throw ContextFullError("tokens has " + std::to_string(tokens.size()) + " entries, the context holds " +
                                   std::to_string(model_.n_ctx()) + "; shorten the text or raise n_ctx");
        }
        for (const llama_token token : tokens) {
            if (token < 0 || token >= model_.n_vocab()) {
                throw RequestError("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(model_.n_vocab()));
            }
        }
    }
}

Evaluation Engine::evaluate(const std::vector<std::vector<llama_token>> & texts, bool hidden, bool logits) const {
    check_texts(texts);
    Evaluation out;
    out.n_embd  = llama_model_n_embd(model_.get());
    out.n_vocab = model_.n_vocab();
    if (texts.empty()) {
        return out;
    }
    size_t longest = 0;
    for (const auto & tokens : texts) {
        longest = std::max(longest, tokens.size());
    }
    const auto rows    = static_cast<uint32_t>(std::clamp<int64_t>(k_logits_bytes / (4 * out.n_vocab), 32, 1024));
    const auto n_texts = static_cast<uint32_t>(std::min<size_t>(texts.size(), k_texts_at_once));
    // a group of texts fills one batch, or is a single longer text
    const auto n_ctx              = std::max<uint32_t>(static_cast<uint32_t>(longest), rows);
    const LlamaContextPtr context = model_.make_context(n_ctx, rows, std::min(rows, model_.params().n_ubatch), n_texts, hidden);
    const auto n_batch            = static_cast<int32_t>(llama_n_batch(context.get()));
    const std::unique_ptr<llama_batch, BatchDeleter> batch(new llama_batch(llama_batch_init(n_batch, 0, 1)));
    batch->n_tokens = 0;

    const auto flush = [&] {
        if (batch->n_tokens > 0) {
            decode_all_rows(context.get(), *batch, hidden, logits, out);
            batch->n_tokens = 0;
        }
    };
    size_t held     = 0;  // tokens in the context
    uint32_t placed = 0;  // texts in the context
    for (const auto & tokens : texts) {
        if (placed == n_texts || held + tokens.size() > n_ctx) {
            flush();
            llama_memory_clear(llama_get_memory(context.get()), true);
            held   = 0;
            placed = 0;
        }
        for (size_t pos = 0; pos < tokens.size(); ++pos) {
            if (batch->n_tokens == n_batch) {
                flush();
            }
            const int32_t i     = batch->n_tokens++;
            batch->token[i]     = tokens[pos];
            batch->pos[i]       = static_cast<llama_pos>(pos);
            batch->n_seq_id[i]  = 1;
            batch->seq_id[i][0] = static_cast<llama_seq_id>(placed);
            batch->logits[i]    = 1;
        }
        held += tokens.size();
        ++placed;
    }
    flush();
    return out;
}

void Engine::decode_all_rows(llama_context * context, const llama_batch & batch, bool hidden, bool logits, Evaluation & out) const {
    const int32_t rc = llama_decode(context, batch);
    if (rc != 0) {
        throw Error("llama_decode failed with code " + std::to_string(rc) + "; see the log of llama.cpp");
    }
    const int32_t count = batch.n_tokens;
    const auto first    = static_cast<size_t>(out.n_tokens);
    out.n_tokens += count;
    const auto total = static_cast<size_t>(out.n_tokens);
    out.true_entropy.resize(total);
    out.predicted_entropy.resize(model_.neg().present ? total : 0);
    out.hidden.resize(hidden ? total * out.n_embd : 0);
    out.logits.resize(logits ? total * out.n_vocab : 0);
    // the first look puts all rows in order, which only one thread may do
    llama_get_logits_ith(context, 0);
    parallel_for(count, model_.params().n_threads, [&](int32_t i) {
        const float * row           = llama_get_logits_ith(context, i);
        out.true_entropy[first + i] = static_cast<float>(row_entropy(row, out.n_vocab));
        if (model_.neg().present) {
            out.predicted_entropy[first + i] = llama_get_neg_ith(context, i);
        }
        if (logits) {
            std::copy(row, row + out.n_vocab, out.logits.begin() + static_cast<std::ptrdiff_t>((first + i) * out.n_vocab));
        }
        if (hidden) {
            const float * h = llama_get_embeddings_ith(context, i);
            std::copy(h, h + out.n_embd, out.hidden.begin() + static_cast<std::ptrdiff_t>((first + i) * out.n_embd));
        }
    });
}

}  // namespace darwin_neg
