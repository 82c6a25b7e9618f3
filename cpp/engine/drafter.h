#pragma once

#include "batch.h"
#include "model.h"

#include "llama.h"
#include "speculative.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace darwin_neg {

// Guesses the next tokens of sequences, so that one decode can check several of them at once. The guesses come from the
// model's own multi-token-prediction block ("MTP"), which has a context of its own beside the target's, or from what a
// sequence already holds (prompt lookup), or from both: lookup first. They decide how fast tokens come, never which.
//
// A wrong guess is taken back with one llama_memory_seq_rm. A recurrent memory can do that only for the newest
// `ModelParams::n_draft()` tokens of a sequence, only once until its next decode, and only if no other sequences were
// moved about after it in the same decode; the rules of `may_draft` and `level` see to that, and to batches that read
// the weights as few times as possible: llama.cpp cuts a batch where sequences differ in length.
//
// Belongs to the thread that owns the target context.
class Drafter {
public:
    // Null where the options ask for no drafts. target: the context whose batches are observed; it must outlive the
    // drafter. Throws RequestError if its memory cannot take tokens back, ModelFileError if there is no memory for the
    // context of the MTP block.
    static std::unique_ptr<Drafter> make(const Model & model, llama_context * target);

    // The context of the MTP block, or null. What happens to a sequence of the target must happen here too; a sequence
    // may lack its beginning, which makes its drafts poor.
    llama_context * context() const { return context_.get(); }

    // The longest draft.
    int32_t n_max() const { return n_max_; }

    // Whether a step may carry drafts, by the number of sequences that generate and of prompts that are decoded beside
    // them.
    bool may_draft(size_t n_generating, size_t n_prompts) const;

    // A sequence to draft for. tokens: all that it holds, and the newest, which is not decoded yet.
    struct Job {
        llama_seq_id seq;
        std::vector<llama_token> tokens;
        int32_t limit;                   // maximum length of its draft
        std::vector<llama_token> draft;  // the result
    };
    // Fills in the drafts: all of one length, or empty.
    void draft(std::vector<Job> & jobs);

    // The target has decoded `batch`, in which the tokens of a sequence stand together.
    void observe(const Batch & batch);

    // Of the draft of `seq`, which the last batch held, the first n tokens were right; n_tokens: what the sequence
    // holds now.
    void accept(llama_seq_id seq, int32_t n, llama_pos n_tokens);

    // Makes drafts instead of the model: a seam for tests.
    using Script = std::function<std::vector<llama_token>(const Job &)>;
    void use(Script script) { script_ = std::move(script); }

private:
    Drafter(const Model & model, llama_context * target);

    void level(std::vector<Job> & jobs) const;
    void draft_by_model(std::vector<Job> & jobs);
    bool continues_at(llama_seq_id seq, llama_pos pos) const;

    LlamaContextPtr context_;
    common_speculative_ptr speculative_;  // refers to both contexts
    int32_t n_max_;
    size_t max_parallel_;
    bool recurrent_;
    Script script_;
    common_batch observed_;               // the batch in hand, as common_speculative wants it
    std::vector<llama_pos> observed_to_;  // by sequence: the position after what was observed of it; -1: nothing
};

}  // namespace darwin_neg
