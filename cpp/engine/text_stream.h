#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace darwin_neg {

// Length of the longest prefix of `bytes` that does not end inside a UTF-8 character. Bytes that can never become valid
// count as complete: they will be shown as U+FFFD.
size_t utf8_complete_prefix(const std::string & bytes);

// Replaces every maximal ill-formed byte sequence by U+FFFD (Unicode 15, 3.9, "substitution of maximal subparts").
std::string utf8_sanitize(const std::string & bytes);

// Turns the byte pieces of a sample's tokens into text that may be shown: nothing that could still become a stop
// string, no half of a character. Tokens come out in order, each with the text that became certain with it.
class TextStream {
public:
    explicit TextStream(std::vector<std::string> stops);

    // Adds one token's bytes. Returns true when a stop string is now complete; the text then ends before it and no
    // further token may be added.
    bool add(const std::string & piece);

    // No more tokens will come: what was held back is released, an unfinished character as U+FFFD.
    void finish();

    // The pieces that have become certain since the last call, one per token, in order.
    std::vector<std::string> take();

    const std::optional<std::string> & matched_stop() const { return matched_; }

private:
    void release(size_t limit);

    std::vector<std::string> stops_;
    size_t longest_stop_ = 0;
    std::optional<std::string> matched_;
    std::string pending_;                // bytes not yet released
    std::deque<size_t> ends_;            // of the tokens not yet released: end offset in pending_
    std::vector<std::string> released_;  // taken by take()
};

}  // namespace darwin_neg
