#include "places.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

namespace darwin_neg {

namespace {

// What is worth keeping or waiting for, in tokens of a prompt.
constexpr int32_t k_min_gain = 32;
// Points that are closer to each other are worth one of them only.
constexpr int32_t k_min_apart = 4;
// Points kept in one prompt for the sake of others, each of which takes a sequence.
constexpr size_t k_max_forks = 2;

}  // namespace

Places::Places(llama_context * context, const Sequences & sequences, MemoryKind kind, const Size & size)
    : sequences_(sequences),
      prefixes_(context, sequences_, kind, size.n_parallel + 1, size.n_prefixes, size.prefix_bytes),
      n_parallel_(size.n_parallel),
      n_cells_(size.n_cells) {
    free_.reserve(static_cast<size_t>(n_parallel_));
    clear();
}

void Places::clear() noexcept {
    sequences_.clear();  // first: after a failure in the middle of a change, the memory may not bear to be read
    prefixes_.clear();
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
            if (!request->started && another_decodes_its_beginning(*request, queue)) {
                break;
            }
            if (!place(*sample, queue, n_finished)) {
                return;  // nobody overtakes a request that waits for memory
            }
        }
        if (!request->has_unplaced()) {
            drop_held_and_keep(*request, queue);
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
        prefixes_.set_aside(shared_by(queue));
        sample.n_past   = take_prefix(sample, queue);
        sample.n_shared = 0;
        sample.phase    = Sample::Phase::prefill;
        plan_checkpoints(sample, queue);
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
    sample.intact   = true;
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
    if (prefixes_.drop_one(wanted_by(queue))) {
        return {true, nullptr, false};
    }
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

void Places::drop_and_keep(Sample & sample, const Queue & queue) {
    const Request & request = sample.request;
    // what a decode that failed has left behind follows the tokens that are known, where states can be cut
    const bool intact = sample.intact && !(sample.rolled_back && prefixes_.kind().whole_only);
    const bool known  = intact || (sample.seq >= 0 && !prefixes_.kind().needs_checkpoints() &&
                                  sequences_.cut(sample.seq, sample.n_past));
    // of several samples of a prompt, the prompt is kept
    if (sample.seq >= 0 && known && request.samples.size() == 1) {
        prefixes_.keep(request.tokens(sample, sample.n_past), sample.seq, wanted_by(queue));
    }
    drop(sample);
}

void Places::drop_held_and_keep(const Request & request, const Queue & queue) {
    if (holder_ == &request) {
        prefixes_.keep(request.prompt, n_parallel_, wanted_by(queue));
    }
    drop_held(request);
}

// Somebody who has not begun and whose prompt would be helped by a text.
PrefixCache::Wanted Places::wanted_by(const Queue & queue) const {
    return [&](const Tokens & text) {
        return std::any_of(queue.begin(), queue.end(), [&](const auto & request) {
            if (request->started || request->samples.front()->phase != Sample::Phase::waiting) {
                return false;
            }
            const int32_t n = common_length(text, request->prompt);
            return n >= k_min_gain && (!prefixes_.kind().whole_only || n == static_cast<int32_t>(text.size()));
        });
    };
}

PrefixCache::Shared Places::shared_by(const Queue & queue) {
    return [&](const Tokens & text) {
        int32_t most = 0;
        for (const auto & request : queue) {
            const int32_t n = common_length(text, request->prompt);
            most            = std::max(most, n);
            if (n < static_cast<int32_t>(request->prompt.size())) {
                continue;  // what its samples have generated comes after that
            }
            for (const auto & sample : request->samples) {
                most = std::max(most, common_length(text, request->tokens(*sample, request->n_tokens(*sample))));
            }
        }
        return most;
    };
}

Places::Source Places::running_source(const PrefixCache & prefixes, const Tokens & wanted, const Queue & queue) {
    Source best      = {nullptr, 0};
    const auto limit = static_cast<int32_t>(wanted.size()) - 1;
    for (const auto & request : queue) {
        if (request->prompt.empty() || request->prompt.front() != wanted.front()) {
            continue;
        }
        for (const auto & sample : request->samples) {
            if (sample->seq < 0 || sample->n_past == 0 || !sample->intact || sample->rolled_back) {
                continue;
            }
            const int32_t n = prefixes.usable(request->tokens(*sample, sample->n_past), sample->seq, wanted, limit);
            if (n > best.n_tokens) {
                best = {sample.get(), n};
            }
        }
    }
    return best;
}

// The sample has a sequence, which is empty. Returns how many of its tokens that holds now. One token at least is left
// to decode: the next is drawn from its row.
int32_t Places::take_prefix(Sample & sample, const Queue & queue) {
    Request & request = sample.request;
    int32_t n         = 0;
    if (prefixes_.enabled()) {
        const int32_t limit = request.n_tokens(sample) - 1;
        const Tokens wanted = request.tokens(sample, limit + 1);
        const Source source = running_source(prefixes_, wanted, queue);
        if (source.sample != nullptr && source.n_tokens > prefixes_.longest(wanted, limit)) {
            const Sample & from = *source.sample;
            n = prefixes_.copy(from.request.tokens(from, from.n_past), from.seq, source.n_tokens, sample.seq);
        } else {
            n = prefixes_.take(wanted, limit, sample.seq, wanted_by(queue));
        }
    }
    if (request.n_cached < 0) {
        request.n_cached = n;
        n_reused_ += n;
    }
    return n;
}

// Where the states of others can be used only at certain points, those are: the ones that the request names, and where
// prompts that wait, or whose states are kept, go another way.
void Places::plan_checkpoints(Sample & sample, const Queue & queue) const {
    Request & request = sample.request;
    if (!prefixes_.enabled() || !prefixes_.kind().needs_checkpoints() || request.started || sample.index > 0) {
        request.checkpoints.clear();
        return;
    }
    std::map<int32_t, int64_t> gains;  // tokens that others will not have to decode, by length
    const auto add_fork = [&](int32_t common) {
        // of an equal prompt all but the token whose row is drawn from
        const int32_t length = std::min(common, static_cast<int32_t>(request.prompt.size()) - 1);
        if (length >= sample.n_past + k_min_gain) {
            gains[length] += length - sample.n_past;
        }
    };
    for (const auto & other : queue) {
        if (other.get() != &request && !other->started && other->samples.front()->phase == Sample::Phase::waiting) {
            add_fork(common_length(other->prompt, request.prompt));
        }
    }
    for (const int32_t length : prefixes_.forks(request.prompt)) {
        add_fork(length);
    }
    std::vector<std::pair<int64_t, int32_t>> best;
    best.reserve(gains.size());
    for (const auto & [length, gain] : gains) {
        best.emplace_back(gain, length);
    }
    std::sort(best.rbegin(), best.rend());
    // Forks first, since others wait for them; then what the request names, from the end.
    std::set<int32_t> points;
    const auto add = [&](int32_t point) {
        const auto after = points.lower_bound(point);
        const bool apart = (after == points.begin() || point >= *std::prev(after) + k_min_apart) &&
                           (after == points.end() || *after >= point + k_min_apart);
        if (apart && point >= sample.n_past + k_min_gain && point < static_cast<int32_t>(request.prompt.size())) {
            points.insert(point);
        }
    };
    for (size_t i = 0; i < std::min(best.size(), k_max_forks); ++i) {
        add(best[i].second);
    }
    std::for_each(request.checkpoints.rbegin(), request.checkpoints.rend(), add);
    request.checkpoints.assign(points.begin(), points.end());
}

int32_t Places::next_stop(const Sample & sample) const {
    const Request & request = sample.request;
    const auto next         = std::upper_bound(request.checkpoints.begin(), request.checkpoints.end(), sample.n_past);
    return next == request.checkpoints.end() ? request.n_tokens(sample) : *next;
}

void Places::checkpoint(const Sample & sample, const Queue & queue) {
    const Request & request = sample.request;
    if (std::binary_search(request.checkpoints.begin(), request.checkpoints.end(), sample.n_past)) {
        prefixes_.keep(request.tokens(sample, sample.n_past), sample.seq, wanted_by(queue));
    }
}

// Whether a prompt that is being decoded will soon hold more of this one's beginning than is known now.
bool Places::another_decodes_its_beginning(const Request & request, const Queue & queue) const {
    if (!prefixes_.enabled()) {
        return false;
    }
    const auto limit = static_cast<int32_t>(request.prompt.size()) - 1;
    int32_t soon     = 0;
    for (const auto & other : queue) {
        const Sample & leader = *other->samples.front();
        if (other.get() == &request || other->started || leader.phase != Sample::Phase::prefill) {
            continue;
        }
        int32_t n = std::min(common_length(other->prompt, request.prompt), limit);
        if (prefixes_.kind().needs_checkpoints()) {
            const auto after = std::upper_bound(other->checkpoints.begin(), other->checkpoints.end(), n);
            n                = after == other->checkpoints.begin() ? 0 : *std::prev(after);
        }
        if (n > leader.n_past) {
            soon = std::max(soon, n);
        }
    }
    if (soon < k_min_gain) {
        return false;
    }
    const int32_t now =
        std::max(prefixes_.longest(request.prompt, limit), running_source(prefixes_, request.prompt, queue).n_tokens);
    return soon >= now + k_min_gain;
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
