#pragma once

// NEG in llama.cpp's HTTP server: what a request may ask for and what its answers report. JSON knows neither NaN nor
// infinities; an entropy that is one of them is null there and counts nothing in sums.

#include "common-neg.h"
#include "json.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

struct common_params;

// Prediction and gate at one token.
struct server_neg_token {
    bool present  = false;  // whether the model has a head; else nothing of NEG is reported
    float entropy = NAN;    // predicted, nats
    bool active   = false;

    common_json to_json() const;
};

// Sums over the tokens of one answer, or of all answers of a server.
struct server_neg_totals {
    bool present       = false;
    uint64_t n         = 0;
    uint64_t n_active  = 0;
    double entropy_sum = 0.0;  // nats
    server_neg_token last;

    // Takes the next token's record. records: of the answer's sampler, one per token so far; none without a head.
    server_neg_token take(const std::vector<common_neg_record> & records);
    void add(const server_neg_totals & answer);

    common_json to_json() const;     // for "timings"
    std::string to_metrics() const;  // in Prometheus' text format
};

// All tokens of one answer, kept where the request has "return_neg".
struct server_neg_trace {
    std::vector<server_neg_token> tokens;
    std::vector<std::string> pieces;  // text of each token, "" where its characters come with a later one
    std::string held;                 // bytes of a character that is not complete yet

    void add(const server_neg_token & token, const std::string & bytes);
    common_json to_json() const;
};

// For /props: the model's head and what the start options make of it; null without a head.
common_json server_neg_props(const llama_model * model, const common_params & params);

// Reads "neg" and "return_neg" of a request's body. props: of the server. neg: comes with the start options.
// Throws std::invalid_argument with one sentence that names the field.
void server_neg_read(const common_json & body, const common_json & props, int32_t n_vocab, common_params_neg & neg,
                     bool & return_neg);

// Adds the newest token to every chunk of a streamed answer, of whichever API.
common_json server_neg_in_chunks(common_json chunks, const server_neg_token & newest);

// The same for an answer's end, with all its tokens where they were asked for (trace is not null).
common_json server_neg_in_final(common_json answer, bool stream, const server_neg_token & newest,
                                const server_neg_trace * trace);
