#include "engine.h"

#include "errors.h"
#include "logits.h"
#include "parallel.h"

#include <algorithm>
#include <cmath>

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

// The rows of one call of llama_decode, and the token that follows each in its text (-1: none).
struct Engine::Rows {
    explicit Rows(int32_t n) : batch(new llama_batch(llama_batch_init(n, 0, 1))), next(static_cast<size_t>(n)) { batch->n_tokens = 0; }

    void add(const std::vector<llama_token> & text, size_t pos, llama_seq_id sequence) {
        const int32_t i     = batch->n_tokens++;
        batch->token[i]     = text[pos];
        batch->pos[i]       = static_cast<llama_pos>(pos);
        batch->n_seq_id[i]  = 1;
        batch->seq_id[i][0] = sequence;
        batch->logits[i]    = 1;
        next[i]             = pos + 1 < text.size() ? text[pos + 1] : -1;
    }

    std::unique_ptr<llama_batch, BatchDeleter> batch;
    std::vector<llama_token> next;
};

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

Evaluation Engine::evaluate(const std::vector<std::vector<llama_token>> & texts, const EvaluationParts & parts) const {
    check_texts(texts);
    if (parts.n_top < 0 || parts.n_top > model_.n_vocab()) {
        throw RequestError("top must be between 0 and the vocabulary's " + std::to_string(model_.n_vocab()) + ", got " +
                           std::to_string(parts.n_top));
    }
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
    const auto rows    = static_cast<uint32_t>(std::clamp<int64_t>(k_logits_bytes / (int64_t{4} * out.n_vocab), 32, 1024));
    const auto n_texts = static_cast<uint32_t>(std::min<size_t>(texts.size(), k_texts_at_once));
    // a group of texts fills one batch, or is a single longer text
    const auto n_ctx              = std::max<uint32_t>(static_cast<uint32_t>(longest), rows);
    const LlamaContextPtr context = model_.make_context(n_ctx, rows, std::min(rows, model_.params().n_ubatch), n_texts, parts.hidden);
    const auto n_batch            = static_cast<int32_t>(llama_n_batch(context.get()));
    Rows pending(n_batch);

    const auto flush = [&] {
        if (pending.batch->n_tokens > 0) {
            decode_all_rows(context.get(), pending, parts, out);
            pending.batch->n_tokens = 0;
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
            if (pending.batch->n_tokens == n_batch) {
                flush();
            }
            pending.add(tokens, pos, static_cast<llama_seq_id>(placed));
        }
        held += tokens.size();
        ++placed;
    }
    flush();
    return out;
}

void Engine::decode_all_rows(llama_context * context, const Rows & rows, const EvaluationParts & parts, Evaluation & out) const {
    const int32_t rc = llama_decode(context, *rows.batch);
    if (rc != 0) {
        throw Error("llama_decode failed with code " + std::to_string(rc) + "; see the log of llama.cpp");
    }
    const int32_t count = rows.batch->n_tokens;
    const auto first    = static_cast<size_t>(out.n_tokens);
    out.n_tokens += count;
    const auto total    = static_cast<size_t>(out.n_tokens);
    const auto n_embd   = static_cast<size_t>(out.n_embd);
    const auto n_vocab  = static_cast<size_t>(out.n_vocab);
    const auto n_top    = static_cast<size_t>(parts.n_top);
    const bool has_head = model_.neg().present;
    out.true_entropy.resize(total);
    out.logprobs.resize(total);
    out.top_ids.resize(total * n_top);
    out.top_logprobs.resize(total * n_top);
    out.predicted_entropy.resize(has_head ? total : 0);
    out.hidden.resize(parts.hidden ? total * n_embd : 0);
    out.logits.resize(parts.logits ? total * n_vocab : 0);
    // the first look puts all rows in order, which only one thread may do
    llama_get_logits_ith(context, 0);
    parallel_for(count, model_.params().n_threads, [&](int32_t i) {
        const float * row    = llama_get_logits_ith(context, i);
        const RowStats stats = row_stats(row, out.n_vocab);
        const auto logprob   = [&](llama_token token) { return static_cast<float>(row[token] - stats.log_sum_exp); };
        const size_t at      = first + static_cast<size_t>(i);
        out.true_entropy[at] = static_cast<float>(stats.entropy);
        out.logprobs[at]     = rows.next[i] >= 0 ? logprob(rows.next[i]) : NAN;
        if (n_top > 0) {
            const std::vector<int32_t> top = row_top(row, out.n_vocab, parts.n_top);
            std::copy(top.begin(), top.end(), &out.top_ids[at * n_top]);
            std::transform(top.begin(), top.end(), &out.top_logprobs[at * n_top], logprob);
        }
        if (has_head) {
            out.predicted_entropy[at] = llama_get_neg_ith(context, i);
        }
        if (parts.logits) {
            std::copy(row, row + n_vocab, &out.logits[at * n_vocab]);
        }
        if (parts.hidden) {
            const float * h = llama_get_embeddings_ith(context, i);
            std::copy(h, h + n_embd, &out.hidden[at * n_embd]);
        }
    });
}

}  // namespace darwin_neg
