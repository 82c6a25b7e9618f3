#include "places.h"

#include <algorithm>

namespace darwin_neg {

Places::Places(const Sequences & sequences, int32_t n_parallel, int64_t n_cells)
    : sequences_(sequences), n_parallel_(n_parallel), n_cells_(n_cells) {
    free_.reserve(static_cast<size_t>(n_parallel));
    clear();
}

void Places::clear() noexcept {
    sequences_.clear();
    holder_ = nullptr;
    free_.clear();
    for (llama_seq_id seq = n_parallel_ - 1; seq >= 0; --seq) {
        free_.push_back(seq);  // the capacity was reserved
    }
}

void Places::admit(const Queue & queue, int64_t n_finished) {
    for (const auto & request : queue) {
        for (auto & sample : request->samples) {
            if (sample->phase != Sample::Phase::waiting) {
                continue;
            }
            if (free_.empty()) {
                return;
            }
            if (!request->started && sample->index > 0) {
                break;  // waits for the prompt that sample 0 decodes
            }
            if (!request->started && another_prompt_in_the_way(*request, queue)) {
                break;
            }
            if (!place(*sample, queue, n_finished)) {
                return;  // nobody overtakes a request that waits for memory
            }
        }
        if (!request->has_unplaced()) {
            drop_held(*request);
        }
    }
}

// A request with several samples may only start while no other one still has samples to place: one prompt is held at a
// time.
bool Places::another_prompt_in_the_way(const Request & request, const Queue & queue) const {
    if (request.samples.size() == 1) {
        return false;
    }
    return std::any_of(queue.begin(), queue.end(), [&](const auto & other) {
        return other.get() != &request && other->samples.size() > 1 &&
               (other.get() == holder_ || (!other->started && other->samples.front()->seq >= 0));
    });
}

bool Places::place(Sample & sample, const Queue & queue, int64_t n_finished) {
    const Request & request = sample.request;
    const bool copy         = holder_ == &request && sample.generated.size() == 1;
    const bool alone        = free_.size() == static_cast<size_t>(n_parallel_);
    if (!alone) {
        // Everything it has so far must be decoded beside what runs; a copy of the held prompt takes no cells but the
        // next token's. One that had to give way waits until somebody is done, whatever the count says: the memory may
        // be fuller than the count where an architecture pads or splits its cache.
        const int64_t needed = copy ? 1 : request.n_tokens(sample) + 1;
        if (cells_used(queue, true) + needed > n_cells_ || sample.preempted_at == n_finished) {
            return false;
        }
    }
    sample.seq = free_.back();
    free_.pop_back();
    if (copy) {
        sequences_.copy(n_parallel_, sample.seq);
        sample.n_past   = static_cast<int32_t>(request.prompt.size());
        sample.n_shared = sample.n_past;
        sample.phase    = Sample::Phase::generating;
    } else {
        sample.n_past   = 0;
        sample.n_shared = 0;
        sample.phase    = Sample::Phase::prefill;
    }
    return true;
}

void Places::hold_prompt(Sample & leader) {
    sequences_.copy(leader.seq, n_parallel_);
    holder_         = &leader.request;
    leader.n_shared = leader.n_past;
}

bool Places::cut(Sample & sample, int32_t n) {
    if (!sequences_.cut(sample.seq, n)) {
        return false;
    }
    sample.n_past      = n;
    sample.rolled_back = true;
    return true;
}

void Places::drop(Sample & sample) {
    if (sample.seq < 0) {
        return;
    }
    sequences_.drop(sample.seq);
    free_.push_back(sample.seq);
    sample.seq      = -1;
    sample.n_past   = 0;
    sample.n_shared = 0;
    sample.draft.clear();
    sample.rolled_back = false;
}

void Places::drop_held(const Request & request) {
    if (holder_ == &request) {
        sequences_.drop(n_parallel_);
        holder_ = nullptr;
    }
}

Places::Room Places::make_room(const Queue & queue, int64_t n_finished) {
    Sample * youngest = nullptr;
    int n_placed      = 0;
    for (const auto & request : queue) {
        for (const auto & sample : request->samples) {
            if (sample->seq >= 0) {
                youngest = sample.get();
                ++n_placed;
            }
        }
    }
    if (n_placed > 1) {
        drop(*youngest);
        youngest->phase        = Sample::Phase::waiting;
        youngest->preempted_at = n_finished;
        return {true, nullptr, true};
    }
    if (holder_ != nullptr) {
        drop_held(*holder_);
        return {true, nullptr, false};
    }
    return {false, youngest, false};
}

int64_t Places::n_used() const {
    return n_parallel_ - static_cast<int64_t>(free_.size()) + (holder_ != nullptr ? 1 : 0);
}

int64_t Places::cells_used(const Queue & queue, bool with_pending) const {
    int64_t cells = 0;
    for (const auto & request : queue) {
        bool prompt_held = request.get() == holder_;
        for (const auto & sample : request->samples) {
            if (sample->seq < 0) {
                continue;
            }
            const bool prefill = sample->phase == Sample::Phase::prefill;
            cells += (with_pending && prefill ? request->n_tokens(*sample) : sample->n_past) - sample->n_shared;
            cells += with_pending ? 1 : 0;
            prompt_held = prompt_held || sample->n_shared > 0;
        }
        if (prompt_held) {
            cells += static_cast<int64_t>(request->prompt.size());
        }
    }
    return cells;
}

}  // namespace darwin_neg
