#pragma once

#include "model.h"
#include "mutex.h"

#include <atomic>
#include <cstdint>
#include <set>
#include <vector>

namespace darwin_neg {

// Every position of some texts, one text after the other, run with the tokens given ("teacher-forced").
struct Scores {
    int32_t n_tokens = 0;  // of all texts
    int32_t n_embd   = 0;
    int32_t n_vocab  = 0;
    std::vector<float> predicted_entropy;  // [n_tokens], nats; empty without a NEG head
    std::vector<float> true_entropy;       // [n_tokens], nats, of the model's own next-token distribution
    std::vector<float> logprobs;           // [n_tokens], of the text's next token, nats; NaN at the end of a text
    std::vector<int32_t> top_ids;          // [n_tokens, n_top], the likeliest next tokens
    std::vector<float> top_logprobs;       // [n_tokens, n_top]
    std::vector<float> hidden;             // [n_tokens, n_embd], the LM head's input; empty unless asked for
    std::vector<float> logits;             // [n_tokens, n_vocab]; empty unless asked for
};

struct ScoreParts {
    bool hidden   = false;
    bool logits   = false;
    int32_t n_top = 0;  // at most n_vocab
};

// Scores given texts, each call on the calling thread and in a context of its own. Several threads may call at once.
class Scorer {
public:
    // The model must outlive the scorer.
    explicit Scorer(const Model & model) : model_(model) {}

    // Several texts share a batch. Of the logits no more rows are held at once than fit into a fixed amount of memory,
    // unless they are asked for. Setting `stop` from another thread ends the call within one decode step, as
    // cancel_all() and close() do. Throws RequestError, ContextFullError, or Error when stopped.
    Scores score(const std::vector<std::vector<llama_token>> & texts, const ScoreParts & parts,
                 std::atomic<bool> & stop) EXCLUDES(mutex_);

    void cancel_all() EXCLUDES(mutex_);

    // Stops all calls and returns when they have ended; later ones are refused.
    void close() EXCLUDES(mutex_);

private:
    class Call;

    void check_texts(const std::vector<std::vector<llama_token>> & texts) const;

    const Model & model_;
    Mutex mutex_;
    CondVar ended_;
    std::set<std::atomic<bool> *> running_ GUARDED_BY(mutex_);  // the `stop` of each call
    bool closing_ GUARDED_BY(mutex_) = false;
};

}  // namespace darwin_neg
