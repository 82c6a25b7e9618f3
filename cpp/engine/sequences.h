#pragma once

#include "llama.h"

#include <vector>

namespace darwin_neg {

// The sequences of a context's memory. Where a second context goes along with it (that of its drafts), what happens to
// a sequence happens in both.
class Sequences {
public:
    explicit Sequences(llama_context * context) : memories_{llama_get_memory(context)} {}

    void add(llama_context * context) { memories_.push_back(llama_get_memory(context)); }

    // `to` must be empty. Attention cells are shared from then on; a recurrent state is copied when one of the two
    // continues.
    void copy(llama_seq_id from, llama_seq_id to) const {
        for (llama_memory_t memory : memories_) {
            llama_memory_seq_cp(memory, from, to, -1, -1);
        }
    }

    // Removes everything after the first n tokens. Returns false where a memory cannot, which then holds what it held.
    bool cut(llama_seq_id seq, llama_pos n) const {
        bool done = true;
        for (llama_memory_t memory : memories_) {
            done = llama_memory_seq_rm(memory, seq, n, -1) && done;
        }
        return done;
    }

    void drop(llama_seq_id seq) const noexcept {
        for (llama_memory_t memory : memories_) {
            llama_memory_seq_rm(memory, seq, -1, -1);
        }
    }

    void clear() const noexcept {
        for (llama_memory_t memory : memories_) {
            llama_memory_clear(memory, false);
        }
    }

    // Position of the first token that the sequence still holds, -1 if it is empty: later than 0 where a window has
    // moved on.
    llama_pos first_position(llama_seq_id seq) const { return llama_memory_seq_pos_min(memories_.front(), seq); }

private:
    std::vector<llama_memory_t> memories_;
};

}  // namespace darwin_neg
