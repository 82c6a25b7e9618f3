#pragma once

#include "sample.h"
#include "sequences.h"

#include "llama.h"

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

namespace darwin_neg {

using Queue = std::list<std::shared_ptr<Request>>;  // not finished, by arrival

// The sequences of a context's memory: which sample holds which, and how much room is left.
//
// A prompt with n samples is decoded by its first sample and then held in sequence `n_parallel`, one more than can
// generate, until its last sample has been placed: each takes a copy (attention cells and recurrent state alike) when a
// place becomes free.
class Places {
public:
    // n_cells: tokens that the memory holds, of all sequences together.
    Places(const Sequences & sequences, int32_t n_parallel, int64_t n_cells);

    // Gives places to waiting samples, first come, first served. n_finished: samples that have finished, ever.
    void admit(const Queue & queue, int64_t n_finished);

    // The request's prompt has been decoded by `leader`: keeps it for the request's other samples.
    void hold_prompt(Sample & leader);

    // Takes back all but the first n tokens of the sample. Returns false where the memory cannot.
    bool cut(Sample & sample, int32_t n);

    // The sample's place is free again.
    void drop(Sample & sample);
    // The request's prompt is held no longer, if it was.
    void drop_held(const Request & request);

    // What to do when the memory turned out to be full.
    struct Room {
        bool made;       // a held prompt, or the place of `preempted`, was given up
        Sample * last;   // not made: the only sequence left, which cannot continue, or null
        bool preempted;  // a sample gave up its place and waits again
    };
    // The youngest sequence gives up its place and is decoded again later.
    Room make_room(const Queue & queue, int64_t n_finished);

    int64_t n_used() const;
    // Cells that hold tokens; `with_pending` adds what the placed sequences will need for their prompts and for their
    // next token.
    int64_t cells_used(const Queue & queue, bool with_pending) const;

    // Forgets everything, in the memory too. The samples' own state is the caller's.
    void clear() noexcept;

private:
    bool place(Sample & sample, const Queue & queue, int64_t n_finished);
    bool another_prompt_in_the_way(const Request & request, const Queue & queue) const;

    Sequences sequences_;
    int32_t n_parallel_;
    int64_t n_cells_;
    std::vector<llama_seq_id> free_;
    const Request * holder_ = nullptr;  // whose prompt sits in sequence n_parallel
};

}  // namespace darwin_neg
