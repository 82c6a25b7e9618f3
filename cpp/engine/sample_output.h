#pragma once

#include "sampler.h"
#include "text_stream.h"
#include "update.h"

#include <optional>
#include <string>
#include <vector>

namespace darwin_neg {

// Which records a token carries beside its text.
struct Records {
    bool neg;
    bool logprobs;
    bool true_entropy;
};

// What one sample has produced: tokens with their records, held back until their text is certain (see TextStream), then
// ready to be taken. Tokens, text and records always come out together.
class SampleOutput {
public:
    // n_top: alternatives recorded for each token.
    SampleOutput(int32_t index, TextStream text, size_t n_top);

    // Adds a token and the bytes it shows. Returns true when a stop string is now complete; nothing may be added after
    // that.
    bool add(const Drawn & drawn, const std::string & piece, Records records);

    // No more tokens will come: releases what was held back. `reason` is a literal.
    void finish(const char * reason, const std::optional<std::string> & error);

    // The same where memory has run out: what was held back is lost.
    void fail_without_memory() noexcept;

    bool finished() const { return ready_.finish_reason != nullptr; }
    bool has_news() const { return !taken_end_ && (finished() || !ready_.tokens.empty()); }

    // What has become certain since the last call.
    SampleUpdate take();

private:
    TextStream text_;
    size_t n_top_;
    SampleUpdate held_;   // tokens waiting for their text
    SampleUpdate ready_;  // not yet taken
    bool taken_end_ = false;
};

}  // namespace darwin_neg
