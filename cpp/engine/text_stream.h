#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace darwin_neg {

// Length of the longest prefix of `bytes` that does not end inside a UTF-8 character. Bytes that can never become valid
// count as complete: they will be shown as U+FFFD.
size_t utf8_complete_prefix(const std::string & bytes);

// Replaces every maximal ill-formed byte sequence by U+FFFD (Unicode 15, 3.9, "substitution of maximal subparts").
std::string utf8_sanitize(const std::string & bytes);

// Whether a stop string that begins here ends the text. Not yet: what follows will tell.
enum class StopHere { yes, no, not_yet };

// Asked with all bytes so far, and where in them a stop string begins.
using StopRule = std::function<StopHere(const std::string & bytes, size_t at)>;

// Turns the byte pieces of a sample's tokens into text that may be shown: nothing that could still become a stop
// string, no half of a character. Tokens come out in order, each with the text that became certain with it.
class TextStream {
public:
    // stops: end the text wherever they stand. ruled: end it where `rule` says so.
    explicit TextStream(std::vector<std::string> stops, std::vector<std::string> ruled = {}, StopRule rule = {});

    // Adds one token's bytes. Returns true when a stop string is now complete; the text then ends before it and no
    // further token may be added.
    bool add(const std::string & piece);

    // No more tokens will come: what was held back is released, an unfinished character as U+FFFD.
    void finish();

    // The pieces that have become certain since the last call, one per token, in order.
    std::vector<std::string> take();
    // For each of the pieces of the last take(): whether its token ends inside a character, which the next one
    // continues.
    const std::vector<uint8_t> & ends_inside() const { return taken_inside_; }

    const std::optional<std::string> & matched_stop() const { return matched_; }

private:
    struct Match {
        size_t at;  // in pending_
        const std::string * stop;
    };

    // The first stop string that begins at `from` or later, and ends the text for all that is known.
    std::optional<Match> first_match(size_t from) const;
    void release(size_t limit);

    std::vector<std::string> stops_;  // those under the rule last
    size_t n_free_ = 0;               // how many of them are not under it
    StopRule rule_;
    size_t longest_stop_ = 0;
    std::string bytes_;        // all of them, where there is a rule
    size_t searched_ = 0;      // no stop string that counts begins before this offset of pending_
    bool undecided_  = false;  // one begins right there of which the rule does not know yet whether it counts
    std::optional<std::string> matched_;
    std::string pending_;                // bytes not yet released
    std::deque<size_t> ends_;            // of the tokens not yet released: end offset in pending_
    std::vector<std::string> released_;  // taken by take()
    std::vector<uint8_t> inside_;        // of those
    std::vector<uint8_t> taken_inside_;
};

}  // namespace darwin_neg
