#pragma once

#include "prefix_cache.h"
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
//
// What has been decoded is kept for later prompts that begin the same (see PrefixCache), for as long as nobody who runs
// needs the room. A prompt that begins like one which is being decoded waits until it can take over the common part.
class Places {
public:
    struct Size {
        int32_t n_parallel;
        int64_t n_cells;      // tokens that the memory holds, of all sequences together
        int32_t n_prefixes;   // sequences of the prefix cache
        size_t prefix_bytes;  // and the host memory that it may take
        int32_t n_sequences() const { return n_parallel + 1 + n_prefixes; }
    };
    // context: whose memory is the first of `sequences`.
    Places(llama_context * context, const Sequences & sequences, MemoryKind kind, const Size & size);

    // Gives places to waiting samples, first come, first served. n_finished: samples that have finished, ever.
    void admit(const Queue & queue, int64_t n_finished);

    // The request's prompt has been decoded by `leader`: keeps it for the request's other samples.
    void hold_prompt(Sample & leader);

    // Takes back all but the first n tokens of the sample. Returns false where the memory cannot.
    bool cut(Sample & sample, int32_t n);

    // The sample's place is free again.
    void drop(Sample & sample);
    // The same, and what it held is kept for others. queue: those that may want it.
    void drop_and_keep(Sample & sample, const Queue & queue);
    // The request's prompt is held no longer, if it was.
    void drop_held(const Request & request);
    void drop_held_and_keep(const Request & request, const Queue & queue);

    // How many of its tokens the sample may decode before its state has to be kept, or the prompt ends.
    int32_t next_stop(const Sample & sample) const;
    // Keeps the sample's state if it has come to such a point.
    void checkpoint(const Sample & sample, const Queue & queue);

    PrefixCache & prefixes() { return prefixes_; }
    const PrefixCache & prefixes() const { return prefixes_; }
    // Nothing that is kept can be trusted any more.
    void forget_prefixes() noexcept { prefixes_.clear(); }

    // What to do when the memory turned out to be full.
    struct Room {
        bool made;       // a kept prefix, a held prompt, or the place of `preempted`, was given up
        Sample * last;   // not made: the only sequence left, which cannot continue, or null
        bool preempted;  // a sample gave up its place and waits again
    };
    // The youngest sequence gives up its place and is decoded again later.
    Room make_room(const Queue & queue, int64_t n_finished);

    int64_t n_used() const;
    // Prompt tokens that did not have to be decoded, since the start.
    int64_t n_reused() const { return n_reused_; }
    // Cells that hold tokens; `with_pending` adds what the placed sequences will need for their prompts and for their
    // next token.
    int64_t cells_used(const Queue & queue, bool with_pending) const;

    // Forgets everything, in the memory too. The samples' own state is the caller's.
    void clear() noexcept;

private:
    bool place(Sample & sample, const Queue & queue, int64_t n_finished);
    bool another_prompt_in_the_way(const Request & request, const Queue & queue) const;

    // A placed sample whose state stands for the first n_tokens of a text; null for none.
    struct Source {
        const Sample * sample;
        int32_t n_tokens;
    };
    static Source running_source(const PrefixCache & prefixes, const Tokens & wanted, const Queue & queue);
    bool another_decodes_its_beginning(const Request & request, const Queue & queue) const;
    int32_t take_prefix(Sample & sample, const Queue & queue);
    void plan_checkpoints(Sample & sample, const Queue & queue) const;
    PrefixCache::Wanted wanted_by(const Queue & queue) const;
    static PrefixCache::Shared shared_by(const Queue & queue);

    Sequences sequences_;
    PrefixCache prefixes_;
    int32_t n_parallel_;
    int64_t n_cells_;
    int64_t n_reused_ = 0;
    std::vector<llama_seq_id> free_;
    const Request * holder_ = nullptr;  // whose prompt sits in sequence n_parallel
};

}  // namespace darwin_neg
