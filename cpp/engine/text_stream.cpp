#include "text_stream.h"

#include <algorithm>
#include <utility>

namespace darwin_neg {

namespace {

struct Utf8Step {
    size_t length;    // bytes looked at
    bool valid;       // they form one character
    bool incomplete;  // they are the beginning of one, and the input ends there
};

// One character or one maximal ill-formed subsequence, from Table 3-7 of the Unicode standard.
Utf8Step utf8_step(const std::string & s, size_t at) {
    const auto byte          = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
    const unsigned char lead = byte(at);
    if (lead < 0x80) {
        return {1, true, false};
    }
    size_t want        = 0;
    unsigned char low  = 0x80;
    unsigned char high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
        want = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        want = 3;
        low  = lead == 0xE0 ? 0xA0 : 0x80;
        high = lead == 0xED ? 0x9F : 0xBF;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        want = 4;
        low  = lead == 0xF0 ? 0x90 : 0x80;
        high = lead == 0xF4 ? 0x8F : 0xBF;
    } else {
        return {1, false, false};
    }
    for (size_t i = 1; i < want; ++i) {
        if (at + i == s.size()) {
            return {i, false, true};
        }
        const unsigned char c = byte(at + i);
        if (c < low || c > high) {
            return {i, false, false};
        }
        low  = 0x80;
        high = 0xBF;
    }
    return {want, true, false};
}

}  // namespace

size_t utf8_complete_prefix(const std::string & bytes) {
    // a character is at most four bytes, so only the last three can belong to an unfinished one
    size_t at = bytes.size() > 3 ? bytes.size() - 3 : 0;
    while (at > 0 && (static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80 && bytes.size() - at < 4) {
        --at;
    }
    while (at < bytes.size()) {
        const Utf8Step step = utf8_step(bytes, at);
        if (step.incomplete) {
            return at;
        }
        at += step.length;
    }
    return bytes.size();
}

std::string utf8_sanitize(const std::string & bytes) {
    std::string out;
    out.reserve(bytes.size());
    for (size_t at = 0; at < bytes.size();) {
        const Utf8Step step = utf8_step(bytes, at);
        if (step.valid) {
            out.append(bytes, at, step.length);
        } else {
            out += "\xEF\xBF\xBD";
        }
        at += step.length;
    }
    return out;
}

TextStream::TextStream(std::vector<std::string> stops, std::vector<std::string> ruled, StopRule rule)
    : stops_(std::move(stops)), n_free_(stops_.size()), rule_(std::move(rule)) {
    stops_.insert(stops_.end(), ruled.begin(), ruled.end());
    for (const auto & stop : stops_) {
        longest_stop_ = std::max(longest_stop_, stop.size());
    }
}

std::optional<TextStream::Match> TextStream::first_match(size_t from) const {
    std::optional<Match> out;
    for (const std::string & stop : stops_) {
        const size_t at = pending_.find(stop, from);
        if (at != std::string::npos && (!out || at < out->at)) {
            out = Match{at, &stop};
        }
    }
    return out;
}

bool TextStream::add(const std::string & piece) {
    const size_t old_size = pending_.size();
    pending_ += piece;
    ends_.push_back(pending_.size());
    if (rule_) {
        bytes_ += piece;
    }

    // a match that ended before the new bytes would have been found earlier
    const size_t tail     = old_size >= longest_stop_ ? old_size - longest_stop_ + 1 : 0;
    size_t from           = undecided_ ? searched_ : std::max(searched_, tail);
    undecided_            = false;
    const auto lies_under = [this](const Match & match) { return match.stop >= stops_.data() + n_free_; };
    while (const std::optional<Match> match = first_match(from)) {
        const StopHere here =
            rule_ && lies_under(*match) ? rule_(bytes_, bytes_.size() - pending_.size() + match->at) : StopHere::yes;
        if (here == StopHere::yes) {
            matched_ = *match->stop;
            pending_.resize(match->at);
            for (size_t & end : ends_) {
                end = std::min(end, match->at);
            }
            finish();
            return true;
        }
        if (here == StopHere::not_yet) {
            undecided_ = true;
            from       = match->at;
            break;
        }
        from = match->at + 1;
    }
    searched_ = from;

    size_t hold = 0;  // bytes at the end that may grow into a stop string
    for (const auto & stop : stops_) {
        const size_t most = std::min(stop.size() - 1, pending_.size());
        for (size_t n = most; n > hold; --n) {
            if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
                hold = n;
                break;
            }
        }
    }
    release(undecided_ ? std::min(pending_.size() - hold, searched_) : pending_.size() - hold);
    return false;
}

void TextStream::finish() {
    release(pending_.size());
    // release() keeps an unfinished character back with the last token that it is waiting for
    if (!pending_.empty()) {
        const std::string rest = utf8_sanitize(pending_);
        pending_.clear();
        if (!ends_.empty()) {
            ends_.pop_front();
            released_.push_back(rest);
        } else if (!released_.empty()) {
            released_.back() += rest;
        } else {
            released_.push_back(rest);
        }
    }
    for (; !ends_.empty(); ends_.pop_front()) {
        released_.emplace_back();
    }
}

void TextStream::release(size_t limit) {
    size_t done = 0;  // bytes of pending_ that have gone out
    while (!ends_.empty() && ends_.front() <= limit) {
        const size_t end        = ends_.front();
        const std::string bytes = pending_.substr(done, end - done);
        const size_t whole      = utf8_complete_prefix(bytes);
        if (whole < bytes.size() && ends_.size() == 1) {
            // the last token ends inside a character: keep the token until the rest comes, or the character is given up
            break;
        }
        released_.push_back(utf8_sanitize(bytes.substr(0, whole)));
        inside_.push_back(whole < bytes.size() ? 1 : 0);
        done += whole;
        ends_.pop_front();
    }
    pending_.erase(0, done);
    searched_ -= std::min(searched_, done);
    for (size_t & end : ends_) {
        end -= done;
    }
}

std::vector<std::string> TextStream::take() {
    std::vector<std::string> out;
    out.swap(released_);
    taken_inside_.clear();
    taken_inside_.swap(inside_);
    taken_inside_.resize(out.size());  // what finish() released ends where the text does
    return out;
}

}  // namespace darwin_neg
