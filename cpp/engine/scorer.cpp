#include "scorer.h"

#include "batch.h"
#include "errors.h"
#include "logits.h"
#include "parallel.h"
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace darwin_neg {

namespace {

constexpr int64_t k_logits_bytes = 128 << 20;  // of the logits that are held at once
constexpr size_t k_texts_at_once = 16;

[[noreturn]] void throw_stopped() {
    throw Error("scoring was cancelled");
}

// One context, filled with texts and decoded batch by batch into `out`.
class Pass {
public:
    Pass(const Model & model, const ScoreParts & parts, size_t n_texts, size_t longest, std::atomic<bool> & stop,
         Scores & out)
        : model_(model),
          parts_(parts),
          n_texts_(static_cast<uint32_t>(std::min(n_texts, k_texts_at_once))),
          rows_at_once_(
              static_cast<uint32_t>(std::clamp<int64_t>(k_logits_bytes / (int64_t{4} * model.n_vocab()), 32, 1024))),
          // a group of texts fills one batch, or is a single longer text
          n_ctx_(std::max(static_cast<uint32_t>(longest), rows_at_once_)),
          context_(model.make_context({n_ctx_, rows_at_once_, std::min(rows_at_once_, model.params().n_ubatch),
                                       n_texts_, /*n_outputs*/ 0, parts.hidden})),
          batch_(static_cast<int32_t>(llama_n_batch(context_.get()))),
          stop_(stop),
          out_(out) {
        llama_set_abort_callback(
            context_.get(), [](void * flag) { return static_cast<std::atomic<bool> *>(flag)->load(); }, &stop_);
    }

    void add(const std::vector<llama_token> & text) {
        if (placed_ == n_texts_ || held_ + text.size() > n_ctx_) {
            flush();
            llama_memory_clear(llama_get_memory(context_.get()), true);
            held_   = 0;
            placed_ = 0;
        }
        for (size_t pos = 0; pos < text.size(); ++pos) {
            if (batch_.full()) {
                flush();
            }
            batch_.add(text[pos], static_cast<llama_pos>(pos), static_cast<llama_seq_id>(placed_), true);
            next_.push_back(pos + 1 < text.size() ? text[pos + 1] : LLAMA_TOKEN_NULL);
        }
        held_ += text.size();
        ++placed_;
    }

    void flush() {
        if (stop_) {
            throw_stopped();
        }
        if (batch_.empty()) {
            return;
        }
        const int32_t rc = llama_decode(context_.get(), batch_.get());
        if (stop_) {
            throw_stopped();
        }
        if (rc != 0) {
            throw Error(model_.decode_error(rc));
        }
        take_rows();
        batch_.clear();
        next_.clear();
    }

private:
    void take_rows() {
        const int32_t count = batch_.size();
        const bool has_head = model_.neg().present;
        const auto n_embd   = static_cast<size_t>(out_.n_embd);
        const auto n_vocab  = static_cast<size_t>(out_.n_vocab);
        const auto n_top    = static_cast<size_t>(parts_.n_top);
        const auto first    = static_cast<size_t>(out_.n_tokens);
        out_.n_tokens += count;
        const auto total = static_cast<size_t>(out_.n_tokens);
        out_.true_entropy.resize(total);
        out_.logprobs.resize(total);
        out_.top_ids.resize(total * n_top);
        out_.top_logprobs.resize(total * n_top);
        out_.predicted_entropy.resize(has_head ? total : 0);
        out_.hidden.resize(parts_.hidden ? total * n_embd : 0);
        out_.logits.resize(parts_.logits ? total * n_vocab : 0);
        // the context is read here, by one thread, and only its rows are shared
        std::vector<Row> rows;
        for (int32_t i = 0; i < count; ++i) {
            rows.push_back(read_row(context_.get(), i, has_head));
            const size_t at = first + static_cast<size_t>(i);
            if (has_head) {
                out_.predicted_entropy[at] = rows.back().entropy;
            }
            if (parts_.hidden) {
                const float * h = llama_get_embeddings_ith(context_.get(), i);
                std::copy(h, h + n_embd, &out_.hidden[at * n_embd]);
            }
        }
        parallel_for(count, model_.params().n_threads, [&](int32_t i) {
            const float * row    = rows[static_cast<size_t>(i)].logits;
            const RowStats stats = row_stats(row, out_.n_vocab);
            const auto logprob = [&](llama_token token) { return static_cast<float>(row[token] - stats.log_sum_exp); };
            const llama_token next = next_[static_cast<size_t>(i)];
            const size_t at        = first + static_cast<size_t>(i);
            out_.true_entropy[at]  = static_cast<float>(stats.entropy);
            out_.logprobs[at]      = next != LLAMA_TOKEN_NULL ? logprob(next) : NAN;
            if (n_top > 0) {
                const std::vector<int32_t> top = row_top(row, out_.n_vocab, parts_.n_top);
                std::copy(top.begin(), top.end(), &out_.top_ids[at * n_top]);
                std::transform(top.begin(), top.end(), &out_.top_logprobs[at * n_top], logprob);
            }
            if (parts_.logits) {
                std::copy(row, row + n_vocab, &out_.logits[at * n_vocab]);
            }
        });
    }

    const Model & model_;
    const ScoreParts parts_;
    const uint32_t n_texts_;
    const uint32_t rows_at_once_;
    const uint32_t n_ctx_;
    LlamaContextPtr context_;
    Batch batch_;
    std::vector<llama_token> next_;  // of each token in the batch: the one that follows it in its text
    std::atomic<bool> & stop_;
    Scores & out_;
    size_t held_     = 0;  // tokens in the context
    uint32_t placed_ = 0;  // texts in the context
};

}  // namespace

// Registers a call for as long as it runs.
class Scorer::Call {
public:
    Call(Scorer & scorer, std::atomic<bool> & stop) : scorer_(scorer), stop_(stop) {
        const Lock lock(scorer_.mutex_);
        if (scorer_.closing_) {
            throw Error("the model is closed");
        }
        scorer_.running_.insert(&stop_);
    }
    ~Call() {
        const Lock lock(scorer_.mutex_);
        scorer_.running_.erase(&stop_);
        scorer_.ended_.notify_all();
    }
    Call(const Call &)             = delete;
    Call & operator=(const Call &) = delete;

private:
    Scorer & scorer_;
    std::atomic<bool> & stop_;
};

void Scorer::check_texts(const std::vector<std::vector<llama_token>> & texts) const {
    for (const auto & tokens : texts) {
        if (tokens.empty()) {
            throw RequestError("prompt is empty; give at least one token");
        }
        if (tokens.size() > model_.n_ctx()) {
            throw ContextFullError("prompt has " + std::to_string(tokens.size()) + " tokens, the context holds " +
                                   std::to_string(model_.n_ctx()) + "; shorten the text or raise n_ctx");
        }
        for (const llama_token token : tokens) {
            if (token < 0 || token >= model_.n_vocab()) {
                throw RequestError("token " + std::to_string(token) + " is outside the vocabulary of " +
                                   std::to_string(model_.n_vocab()));
            }
        }
    }
}

Scores Scorer::score(const std::vector<std::vector<llama_token>> & texts, const ScoreParts & parts,
                     std::atomic<bool> & stop) {
    check_texts(texts);
    if (parts.n_top < 0 || parts.n_top > model_.n_vocab()) {
        throw RequestError("top must be between 0 and the vocabulary's " + std::to_string(model_.n_vocab()) + ", got " +
                           std::to_string(parts.n_top));
    }
    Scores out;
    out.n_embd  = llama_model_n_embd(model_.get());
    out.n_vocab = model_.n_vocab();
    if (texts.empty()) {
        return out;
    }
    const Call call(*this, stop);
    const auto longest = std::max_element(texts.begin(), texts.end(),
                                          [](const auto & a, const auto & b) { return a.size() < b.size(); });
    Pass pass(model_, parts, texts.size(), longest->size(), stop, out);
    for (const auto & text : texts) {
        pass.add(text);
    }
    pass.flush();
    return out;
}

void Scorer::cancel_all() {
    const Lock lock(mutex_);
    for (std::atomic<bool> * stop : running_) {
        *stop = true;
    }
}

void Scorer::close() {
    Lock lock(mutex_);
    closing_ = true;
    for (std::atomic<bool> * stop : running_) {
        *stop = true;
    }
    while (!running_.empty()) {
        if (!ended_.wait_for(lock, std::chrono::seconds(3))) {
            model_.servers().disconnect();  // what another machine computes cannot be stopped
        }
    }
}

}  // namespace darwin_neg
