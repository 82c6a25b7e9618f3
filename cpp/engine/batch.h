#pragma once

#include "llama.h"

#include <cstdint>

namespace darwin_neg {

// A llama_batch with an owner, filled token by token.
class Batch {
public:
    explicit Batch(int32_t capacity) : batch_(llama_batch_init(capacity, 0, 1)), capacity_(capacity) {}
    ~Batch() { llama_batch_free(batch_); }
    Batch(const Batch &)             = delete;
    Batch & operator=(const Batch &) = delete;

    int32_t size() const { return batch_.n_tokens; }
    bool empty() const { return batch_.n_tokens == 0; }
    bool full() const { return batch_.n_tokens == capacity_; }
    void clear() { batch_.n_tokens = 0; }

    // Adds a token of one sequence and returns its index, which is also its output row's. The batch must not be full.
    int32_t add(llama_token token, llama_pos pos, llama_seq_id seq, bool output) {
        const int32_t i     = batch_.n_tokens++;
        batch_.token[i]     = token;
        batch_.pos[i]       = pos;
        batch_.n_seq_id[i]  = 1;
        batch_.seq_id[i][0] = seq;
        batch_.logits[i]    = output ? 1 : 0;
        return i;
    }

    // For llama_decode, which does not keep it.
    const llama_batch & get() const { return batch_; }

private:
    llama_batch batch_;
    int32_t capacity_;
};

}  // namespace darwin_neg
