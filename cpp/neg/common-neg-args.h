#pragma once

// NEG among the start options of llama.cpp's tools, and what they come to when the model has been loaded.

#include "arg.h"
#include "common.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

// Whole text, "inf" included: a threshold that is never passed.
inline float common_neg_threshold(const std::string & text) {
    char *      end   = nullptr;
    const float value = std::strtof(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= 0.0f)) {
        throw std::invalid_argument("--neg-threshold must be a number of nats, 0 or more, got '" + text + "'");
    }
    return value;
}

inline std::vector<common_arg> common_neg_args() {
    std::vector<common_arg> args;
    args.push_back(common_arg({"--neg"}, "{mask,sample,off}",
        "NEG gate of a model that has a head: mask restricts sampling to the most likely tokens where the predicted entropy is\n"
        "high, sample draws from them there even under greedy decoding, off only reports (default: mask)",
        [](common_params & params, const std::string & value) {
            /**/ if (value == "mask")   { params.sampling.neg.action = LLAMA_NEG_MASK; }
            else if (value == "sample") { params.sampling.neg.action = LLAMA_NEG_SAMPLE; }
            else if (value == "off")    { params.sampling.neg.action = LLAMA_NEG_OFF; }
            else { throw std::invalid_argument("--neg must be mask, sample or off, got '" + value + "'"); }
        }
    ).set_sampling().set_env("LLAMA_ARG_NEG"));
    args.push_back(common_arg({"--neg-threshold"}, "NATS",
        "predicted entropy above which the NEG gate is active (default: the model's)",
        [](common_params & params, const std::string & value) {
            params.sampling.neg.threshold = common_neg_threshold(value);
        }
    ).set_sampling().set_env("LLAMA_ARG_NEG_THRESHOLD"));
    args.push_back(common_arg({"--neg-top-k"}, "N",
        "tokens that stay choosable where the NEG gate is active (default: the model's)",
        [](common_params & params, int value) {
            if (value < 1) {
                throw std::invalid_argument("--neg-top-k must be 1 or more, got " + std::to_string(value));
            }
            params.sampling.neg.top_k = value;
        }
    ).set_sampling().set_env("LLAMA_ARG_NEG_TOP_K"));
    args.push_back(common_arg({"--temp-scale"}, {"--no-temp-scale"},
        "whether to divide the logits that the NEG gate keeps by the model's temp_scale (default: as the model says)",
        [](common_params & params, bool value) {
            params.sampling.neg.temp = value ? 1 : 0;
        }
    ).set_sampling().set_env("LLAMA_ARG_TEMP_SCALE"));
    args.push_back(common_arg({"--neg-file"}, "FILE",
        "file with a NEG head to use with the model, in place of the model's own if it has one",
        [](common_params & params, const std::string & value) {
            params.neg_file = value;
        }
    ).set_env("LLAMA_ARG_NEG_FILE"));
    args.push_back(common_arg({"--max-queue"}, "N",
        "requests that may wait for a slot; further ones are answered with 503 (default: -1, no limit)",
        [](common_params & params, int value) {
            params.n_queue_max = value < 0 ? -1 : value;
        }
    ).set_examples({LLAMA_EXAMPLE_SERVER}).set_env("LLAMA_ARG_MAX_QUEUE"));
    return args;
}
