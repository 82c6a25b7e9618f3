#pragma once

#include "sequences.h"

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <vector>

namespace darwin_neg {

using Tokens = std::vector<llama_token>;

// How many tokens two texts have in common at their beginning.
int32_t common_length(const Tokens & a, const Tokens & b);

// What a model's memory can do with the state of a text.
struct MemoryKind {
    bool whole_only = false;  // recurrent parts: a state continues where it ends, and nowhere before
    int32_t window  = 0;      // tokens that sliding-window layers look back; 0: everything

    // all_kept: the memory of sliding-window layers keeps what the window has passed too.
    static MemoryKind of(const llama_model * model, bool all_kept);

    // Whether the state of a text can be used for others only where it was kept on purpose.
    bool needs_checkpoints() const { return whole_only || window > 0; }
};

// Beginnings of texts that stay evaluated after their request has ended, so that a prompt which begins the same pays
// only for what is new. Each sits in a sequence of the context; what has not been used for longest is moved to host
// memory, within its limit, and then forgotten. Tokens are compared, never hashes alone.
class PrefixCache {
public:
    // Sequences from `first_seq` on are the cache's own. n_entries = 0: nothing is kept.
    PrefixCache(llama_context * context, const Sequences & sequences, MemoryKind kind, llama_seq_id first_seq,
                int32_t n_entries, size_t host_bytes);

    bool enabled() const { return n_entries_ > 0; }
    const MemoryKind & kind() const { return kind_; }

    // How many of the first tokens of `wanted` the state of `held` in sequence `seq` can stand for, at most `limit`.
    int32_t usable(const Tokens & held, llama_seq_id seq, const Tokens & wanted, int32_t limit) const;

    // The number of tokens that `take` would give.
    int32_t longest(const Tokens & wanted, int32_t limit) const;

    // Copies the first n tokens of sequence `from`, which holds `held`, into `to`. Returns n, or 0 if it cannot be cut.
    int32_t copy(const Tokens & held, llama_seq_id from, int32_t n, llama_seq_id to) const;

    // Lengths that a text shares with what is kept, whether or not they can be used.
    std::vector<int32_t> forks(const Tokens & text) const;

    // Says whether somebody waits who would use a text.
    using Wanted = std::function<bool(const Tokens &)>;

    // Puts the longest beginning of `text` that is known into `seq`, which must be empty, and returns its number of
    // tokens. The caller has the memory to hold it, once others that are kept have given way.
    int32_t take(const Tokens & text, int32_t limit, llama_seq_id seq, const Wanted & wanted);

    // Keeps the state of `tokens`, which is exactly what `seq` holds.
    void keep(Tokens tokens, llama_seq_id seq, const Wanted & wanted);

    // Gives up what has not been used for longest to make room in the context. Returns false if there is nothing.
    bool drop_one(const Wanted & wanted);

    // How many of a text's first tokens those who run or wait have in common with it.
    using Shared = std::function<int32_t(const Tokens &)>;

    // Moves to host memory what nobody shares: attention goes over all cells in use, only to skip those of others.
    // Models whose states need checkpoints are left as they are: little of them is attention, and a state is large.
    void set_aside(const Shared & shared);

    // Forgets what is in the context.
    void clear() noexcept;

    // The longest kept text that `tokens` begin with, or that begins with them (no tokens: the one used last), and its
    // state as llama.cpp writes it. Empty if nothing fits.
    struct State {
        Tokens tokens;
        std::vector<uint8_t> bytes;
    };
    State state_of(const Tokens & tokens) const;

    // Adds a state that was written by a context like this one. It does not count towards the limit, and stays. Throws
    // RequestError if the context cannot read it.
    void add(State state);

    int64_t n_kept() const { return static_cast<int64_t>(entries_.size()); }
    int64_t host_bytes_used() const;

private:
    struct Entry {
        Tokens tokens;
        llama_seq_id seq;
        int64_t last_used;
    };
    struct Stored {
        State state;
        int64_t last_used;
        bool stays;
    };

    std::list<Entry>::iterator victim(const Wanted & wanted);
    // Returns whether host memory holds now what the entry stands for.
    bool move_to_host(const Entry & entry);
    void forget(std::list<Entry>::iterator entry) noexcept;
    bool restore_stored(std::list<Stored>::iterator stored, int32_t n, llama_seq_id seq, const Wanted & wanted);
    void keep_to_limit(size_t more);
    int32_t usable_of_stored(const Tokens & held, const Tokens & wanted, int32_t limit) const;
    std::vector<uint8_t> read_state(llama_seq_id seq) const;
    bool restore(const State & state, int32_t n, llama_seq_id seq) const;

    llama_context * context_;
    Sequences sequences_;
    MemoryKind kind_;
    int32_t n_entries_;
    size_t host_limit_;
    int64_t clock_ = 0;
    std::vector<llama_seq_id> free_;
    std::list<Entry> entries_;
    std::list<Stored> stored_;
};

}  // namespace darwin_neg
