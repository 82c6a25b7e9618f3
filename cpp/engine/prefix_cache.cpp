#include "prefix_cache.h"

#include "errors.h"

#include <algorithm>
#include <string>
#include <utility>

namespace darwin_neg {

namespace {

// Less is not worth the bookkeeping.
constexpr size_t k_min_tokens = 8;
// Cells of others that may stay among those of a running text, for each entry: too few to be felt.
constexpr int32_t k_max_idle = 256;

}  // namespace

int32_t common_length(const Tokens & a, const Tokens & b) {
    const auto n = static_cast<Tokens::difference_type>(std::min(a.size(), b.size()));
    return static_cast<int32_t>(std::mismatch(a.begin(), a.begin() + n, b.begin()).first - a.begin());
}

MemoryKind MemoryKind::of(const llama_model * model, bool all_kept) {
    return {llama_model_is_recurrent(model) || llama_model_is_hybrid(model), all_kept ? 0 : llama_model_n_swa(model)};
}

PrefixCache::PrefixCache(llama_context * context, const Sequences & sequences, MemoryKind kind, llama_seq_id first_seq,
                         int32_t n_entries, size_t host_bytes)
    : context_(context), sequences_(sequences), kind_(kind), n_entries_(n_entries), host_limit_(host_bytes) {
    free_.reserve(static_cast<size_t>(n_entries));
    for (int32_t i = n_entries - 1; i >= 0; --i) {
        free_.push_back(first_seq + i);
    }
}

int32_t PrefixCache::usable(const Tokens & held, llama_seq_id seq, const Tokens & wanted, int32_t limit) const {
    const int32_t n = std::min(common_length(held, wanted), limit);
    if (n == static_cast<int32_t>(held.size())) {
        return n;
    }
    if (kind_.whole_only || (kind_.window > 0 && sequences_.first_position(seq) > std::max(0, n - kind_.window))) {
        return 0;
    }
    return n;
}

int32_t PrefixCache::usable_of_stored(const Tokens & held, const Tokens & wanted, int32_t limit) const {
    const int32_t n = std::min(common_length(held, wanted), limit);
    return n == static_cast<int32_t>(held.size()) || !kind_.needs_checkpoints() ? n : 0;
}

int32_t PrefixCache::longest(const Tokens & wanted, int32_t limit) const {
    int32_t n = 0;
    for (const Entry & entry : entries_) {
        n = std::max(n, usable(entry.tokens, entry.seq, wanted, limit));
    }
    for (const Stored & stored : stored_) {
        n = std::max(n, usable_of_stored(stored.state.tokens, wanted, limit));
    }
    return n;
}

int32_t PrefixCache::take(const Tokens & text, int32_t limit, llama_seq_id seq, const Wanted & wanted) {
    Entry * best = nullptr;
    int32_t n    = 0;
    for (Entry & entry : entries_) {
        const int32_t usable_here = usable(entry.tokens, entry.seq, text, limit);
        if (usable_here > n) {
            best = &entry;
            n    = usable_here;
        }
    }
    auto best_stored = stored_.end();
    for (auto stored = stored_.begin(); stored != stored_.end(); ++stored) {
        const int32_t usable_here = usable_of_stored(stored->state.tokens, text, limit);
        if (usable_here > n) {
            best_stored = stored;
            n           = usable_here;
        }
    }
    if (best_stored != stored_.end()) {
        return restore_stored(best_stored, n, seq, wanted) ? n : 0;
    }
    if (best == nullptr) {
        return 0;
    }
    best->last_used = ++clock_;
    return copy(best->tokens, best->seq, n, seq);
}

// What else is kept in the context gives way to it.
bool PrefixCache::restore_stored(std::list<Stored>::iterator stored, int32_t n, llama_seq_id seq,
                                 const Wanted & wanted) {
    std::list<Stored> taken;  // out of reach of what moves to host memory meanwhile
    taken.splice(taken.begin(), stored_, stored);
    bool restored = restore(taken.front().state, n, seq);
    while (!restored && drop_one(wanted)) {
        restored = restore(taken.front().state, n, seq);
    }
    taken.front().last_used = ++clock_;
    keep_to_limit(taken.front().stays ? 0 : taken.front().state.bytes.size());
    stored_.splice(stored_.end(), taken);
    return restored;
}

int32_t PrefixCache::copy(const Tokens & held, llama_seq_id from, int32_t n, llama_seq_id to) const {
    sequences_.copy(from, to);
    if (n < static_cast<int32_t>(held.size()) && !sequences_.cut(to, n)) {
        sequences_.drop(to);
        return 0;
    }
    return n;
}

std::vector<int32_t> PrefixCache::forks(const Tokens & text) const {
    std::vector<int32_t> lengths;
    for (const Entry & entry : entries_) {
        lengths.push_back(common_length(entry.tokens, text));
    }
    for (const Stored & stored : stored_) {
        lengths.push_back(common_length(stored.state.tokens, text));
    }
    return lengths;
}

void PrefixCache::keep(Tokens tokens, llama_seq_id seq, const Wanted & wanted) {
    if (!enabled() || tokens.size() < k_min_tokens) {
        return;
    }
    for (auto entry = entries_.begin(); entry != entries_.end();) {
        const auto n        = static_cast<size_t>(common_length(entry->tokens, tokens));
        const bool same     = n == tokens.size() && n == entry->tokens.size();
        const bool can_cut  = !kind_.needs_checkpoints();
        const auto examined = entry++;
        if (same || (can_cut && n == tokens.size())) {
            examined->last_used = ++clock_;
            return;
        }
        if (can_cut && n == examined->tokens.size()) {
            forget(examined);
        }
    }
    if (free_.empty()) {
        const auto oldest = victim(wanted);
        move_to_host(*oldest);
        forget(oldest);
    }
    entries_.push_back({std::move(tokens), free_.back(), ++clock_});
    free_.pop_back();
    sequences_.copy(seq, entries_.back().seq);
}

std::list<PrefixCache::Entry>::iterator PrefixCache::victim(const Wanted & wanted) {
    auto out         = entries_.end();
    bool out_is_kept = true;
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
        const bool is_wanted = wanted(entry->tokens);
        if (out == entries_.end() || (out_is_kept && !is_wanted) ||
            (out_is_kept == is_wanted && entry->last_used < out->last_used)) {
            out         = entry;
            out_is_kept = is_wanted;
        }
    }
    return out;
}

bool PrefixCache::drop_one(const Wanted & wanted) {
    if (entries_.empty()) {
        return false;
    }
    const auto oldest = victim(wanted);
    move_to_host(*oldest);
    forget(oldest);
    return true;
}

void PrefixCache::set_aside(const Shared & shared) {
    if (kind_.needs_checkpoints()) {
        return;
    }
    for (auto entry = entries_.begin(); entry != entries_.end();) {
        const auto examined = entry++;
        const auto n        = static_cast<int32_t>(examined->tokens.size());
        if (n > k_max_idle && n - shared(examined->tokens) > k_max_idle && move_to_host(*examined)) {
            forget(examined);
        }
    }
}

void PrefixCache::forget(std::list<Entry>::iterator entry) noexcept {
    sequences_.drop(entry->seq);
    free_.push_back(entry->seq);  // the capacity was reserved
    entries_.erase(entry);
}

void PrefixCache::clear() noexcept {
    while (!entries_.empty()) {
        forget(entries_.begin());
    }
}

int64_t PrefixCache::host_bytes_used() const {
    int64_t bytes = 0;
    for (const Stored & stored : stored_) {
        bytes += static_cast<int64_t>(stored.state.bytes.size());
    }
    return bytes;
}

// What a longer text beside it stands for is not worth a copy.
bool PrefixCache::move_to_host(const Entry & entry) {
    if (host_limit_ == 0) {
        return false;
    }
    const auto begins_with_it = [&](const Tokens & other) {
        return common_length(other, entry.tokens) == static_cast<int32_t>(entry.tokens.size());
    };
    for (const Entry & other : entries_) {
        if (&other != &entry && begins_with_it(other.tokens)) {
            return false;
        }
    }
    for (Stored & stored : stored_) {
        if (stored.state.tokens == entry.tokens ||
            (!kind_.needs_checkpoints() && begins_with_it(stored.state.tokens))) {
            stored.last_used = ++clock_;
            return true;
        }
    }
    if (llama_state_seq_get_size(context_, entry.seq) > host_limit_) {
        return false;
    }
    State state{entry.tokens, read_state(entry.seq)};
    stored_.remove_if([&](const Stored & stored) {
        const auto n = static_cast<int32_t>(stored.state.tokens.size());
        return !stored.stays && !kind_.needs_checkpoints() && common_length(stored.state.tokens, entry.tokens) == n;
    });
    keep_to_limit(state.bytes.size());
    stored_.push_back({std::move(state), ++clock_, false});
    return true;
}

// Forgets what was used least recently until `more` bytes fit into host memory.
void PrefixCache::keep_to_limit(size_t more) {
    size_t used = more;
    for (const Stored & stored : stored_) {
        used += stored.stays ? 0 : stored.state.bytes.size();
    }
    while (used > host_limit_) {
        const auto oldest = std::min_element(stored_.begin(), stored_.end(), [](const Stored & a, const Stored & b) {
            return std::make_pair(a.stays, a.last_used) < std::make_pair(b.stays, b.last_used);
        });
        if (oldest == stored_.end() || oldest->stays) {
            return;
        }
        used -= oldest->state.bytes.size();
        stored_.erase(oldest);
    }
}

std::vector<uint8_t> PrefixCache::read_state(llama_seq_id seq) const {
    std::vector<uint8_t> bytes(llama_state_seq_get_size(context_, seq));
    bytes.resize(llama_state_seq_get_data(context_, bytes.data(), bytes.size(), seq));
    return bytes;
}

bool PrefixCache::restore(const State & state, int32_t n, llama_seq_id seq) const {
    const size_t read = llama_state_seq_set_data(context_, state.bytes.data(), state.bytes.size(), seq);
    if (read == state.bytes.size() && (n == static_cast<int32_t>(state.tokens.size()) || sequences_.cut(seq, n))) {
        return true;
    }
    sequences_.drop(seq);
    return false;
}

PrefixCache::State PrefixCache::state_of(const Tokens & tokens) const {
    const bool any     = tokens.empty();
    const Entry * best = nullptr;
    int32_t most       = 0;
    for (const Entry & entry : entries_) {
        const int32_t n = common_length(entry.tokens, tokens);
        const bool fits = n == static_cast<int32_t>(entry.tokens.size()) || n == static_cast<int32_t>(tokens.size());
        if (any ? best == nullptr || entry.last_used > best->last_used
                : fits && (n > most || (n == most && best != nullptr && entry.tokens.size() < best->tokens.size()))) {
            best = &entry;
            most = n;
        }
    }
    for (const Stored & stored : stored_) {
        const int32_t n = common_length(stored.state.tokens, tokens);
        if (!any && n == static_cast<int32_t>(stored.state.tokens.size()) && n > most) {
            return stored.state;
        }
    }
    return best == nullptr ? State{} : State{best->tokens, read_state(best->seq)};
}

void PrefixCache::add(State state) {
    if (!enabled()) {
        throw RequestError(
            "prefix_cache is 0, so no prefix can be loaded; open the model with prefix_cache of at least 1");
    }
    const Wanted nobody = [](const Tokens &) { return false; };
    if (free_.empty()) {
        drop_one(nobody);
    }
    const auto n          = static_cast<int32_t>(state.tokens.size());
    const llama_seq_id at = free_.back();
    while (!restore(state, n, at)) {
        if (!drop_one(nobody)) {
            throw RequestError(
                "the state of " + std::to_string(n) +
                " tokens cannot be read into this context; it needs the same type_k, type_v and flash_attn "
                "as when it was saved, and free room in n_ctx");
        }
    }
    entries_.push_back({state.tokens, at, ++clock_});
    free_.erase(std::find(free_.begin(), free_.end(), at));
    stored_.remove_if([&](const Stored & stored) { return stored.state.tokens == state.tokens; });
    stored_.push_back({std::move(state), clock_, true});
}

}  // namespace darwin_neg
