#pragma once

#include "chat_template.h"
#include "request.h"
#include "sample_output.h"
#include "sampler.h"
#include "text_stream.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace darwin_neg {

class Inbox;
struct Request;

// One of a request's n samples, as the scheduler keeps it. Written by the worker with the scheduler's lock held; the
// worker may read without it.
struct Sample {
    enum class Phase { waiting, prefill, generating, done };

    Sample(Request & owner, int32_t number, TextStream text, size_t n_top)
        : request(owner), index(number), output(number, std::move(text), n_top) {}

    Request & request;
    int32_t index;
    Phase phase = Phase::waiting;
    std::unique_ptr<Sampler> sampler;
    std::vector<llama_token> generated;
    SampleOutput output;
    llama_seq_id seq     = -1;    // its place in the context's memory; -1: none
    int32_t n_past       = 0;     // tokens of prompt + generated that the sequence holds
    int32_t n_shared     = 0;     // of those, cells that belong to another sample of its prompt too
    bool intact          = true;  // that is all the sequence holds: no decode has failed on the way
    int64_t preempted_at = -1;    // number of samples that had finished when it last gave up its place

    std::vector<llama_token> draft;  // guesses of its next tokens; while a step runs, the sequence holds them too
    bool rolled_back = false;        // tokens were taken back: a recurrent state cannot be copied before it continues
};

// A prompt and its samples.
struct Request {
    using Clock = std::chrono::steady_clock;

    int64_t id = 0;
    RequestParams params;
    std::vector<llama_token> prompt;
    common_params_sampling sampling;
    uint32_t seed = 0;
    std::set<llama_token> rendered;  // control tokens shown as text
    std::vector<std::unique_ptr<Sample>> samples;
    std::shared_ptr<Inbox> inbox;
    std::vector<int32_t> checkpoints;  // lengths of the prompt's beginning at which its state is kept, ascending
    int32_t n_cached = -1;             // tokens of the prompt that had been decoded for others; -1: not begun
    bool started     = false;          // its prompt has been decoded, every sample has its first token
    bool cancelled   = false;
    size_t n_done    = 0;
    bool announced   = false;  // its id is in the inbox
    std::optional<Clock::time_point> prefill_from;
    Clock::time_point prefill_to;
    Clock::time_point last_token;

    bool finished() const { return n_done == samples.size(); }

    common_params_sampling sampling_of(int32_t index) const {
        common_params_sampling out = sampling;
        if (params.temperature.size() > 1) {
            out.temp = params.temperature[static_cast<size_t>(index)];
        }
        return out;
    }

    int32_t n_tokens(const Sample & sample) const {
        return static_cast<int32_t>(prompt.size() + sample.generated.size());
    }

    llama_token token_at(const Sample & sample, int32_t pos) const {
        const auto n = static_cast<int32_t>(prompt.size());
        return pos < n ? prompt[static_cast<size_t>(pos)] : sample.generated[static_cast<size_t>(pos - n)];
    }

    // The first n tokens of prompt + generated.
    std::vector<llama_token> tokens(const Sample & sample, int32_t n) const {
        std::vector<llama_token> out(prompt.begin(), prompt.begin() + std::min<int32_t>(n, prompt.size()));
        out.reserve(static_cast<size_t>(n));
        for (auto i = static_cast<int32_t>(out.size()); i < n; ++i) {
            out.push_back(token_at(sample, i));
        }
        return out;
    }

    // Whether samples have drawn their first token but never had a place.
    bool has_unplaced() const {
        return std::any_of(samples.begin(), samples.end(), [](const auto & sample) {
            return sample->phase == Sample::Phase::waiting && sample->n_past == 0;
        });
    }
};

}  // namespace darwin_neg
