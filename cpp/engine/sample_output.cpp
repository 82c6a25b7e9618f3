#include "sample_output.h"

#include <utility>

namespace darwin_neg {

void SampleUpdate::take_front(SampleUpdate & from, size_t n, size_t k) {
    const auto move_front = [](auto & source, auto & target, size_t count) {
        if (source.empty()) {
            return;  // a record that was not asked for
        }
        const auto end = source.begin() + static_cast<std::ptrdiff_t>(count);
        target.insert(target.end(), source.begin(), end);
        source.erase(source.begin(), end);
    };
    move_front(from.tokens, tokens, n);
    move_front(from.entropy, entropy, n);
    move_front(from.active, active, n);
    move_front(from.true_entropy, true_entropy, n);
    move_front(from.logprobs, logprobs, n);
    move_front(from.top_ids, top_ids, n * k);
    move_front(from.top_logprobs, top_logprobs, n * k);
}

SampleOutput::SampleOutput(int32_t index, TextStream text, size_t n_top) : text_(std::move(text)), n_top_(n_top) {
    ready_.index = index;
}

bool SampleOutput::add(const Drawn & drawn, const std::string & piece, Records records) {
    held_.tokens.push_back(drawn.token);
    if (records.neg) {
        held_.entropy.push_back(drawn.neg.entropy);
        held_.active.push_back(drawn.neg.active ? 1 : 0);
    }
    if (records.true_entropy) {
        held_.true_entropy.push_back(drawn.true_entropy);
    }
    if (records.logprobs) {
        held_.logprobs.push_back(drawn.logprob);
        held_.top_ids.insert(held_.top_ids.end(), drawn.top_ids.begin(), drawn.top_ids.end());
        held_.top_logprobs.insert(held_.top_logprobs.end(), drawn.top_logprobs.begin(), drawn.top_logprobs.end());
    }
    const bool stopped                    = text_.add(piece);
    const std::vector<std::string> pieces = text_.take();
    ready_.take_front(held_, pieces.size(), n_top_);
    ready_.pieces.insert(ready_.pieces.end(), pieces.begin(), pieces.end());
    ready_.ends_inside.insert(ready_.ends_inside.end(), text_.ends_inside().begin(), text_.ends_inside().end());
    ready_.ends_inside.resize(ready_.pieces.size());
    if (stopped) {
        ready_.stop = text_.matched_stop();
    }
    return stopped;
}

void SampleOutput::finish(const char * reason, const std::optional<std::string> & error) {
    text_.finish();
    std::vector<std::string> pieces = text_.take();
    pieces.resize(held_.tokens.size());  // an error may come between drawing a token and adding its text
    ready_.take_front(held_, held_.tokens.size(), n_top_);
    ready_.pieces.insert(ready_.pieces.end(), pieces.begin(), pieces.end());
    ready_.ends_inside.insert(ready_.ends_inside.end(), text_.ends_inside().begin(), text_.ends_inside().end());
    ready_.ends_inside.resize(ready_.pieces.size());
    ready_.error         = error;
    ready_.finish_reason = reason;
}

void SampleOutput::fail_without_memory() noexcept {
    held_                = {};
    ready_.finish_reason = "error";
    ready_.error.emplace("out of memory");  // short enough for a string to hold without allocating
}

SampleUpdate SampleOutput::take() {
    SampleUpdate out;
    std::swap(out, ready_);
    ready_.index         = out.index;
    ready_.finish_reason = out.finish_reason;
    taken_end_           = out.finish_reason != nullptr;
    return out;
}

}  // namespace darwin_neg
