#include "server-neg.h"

#include "server-common.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace {

// null for what JSON has no number for
json number(double value) {
    return std::isfinite(value) ? json(value) : json(nullptr);
}

const char * action_name(int32_t action) {
    return action == LLAMA_NEG_OFF ? "off" : action == LLAMA_NEG_SAMPLE ? "sample" : "mask";
}

bool read_flag(const json & value, const char * name) {
    if (!value.is_boolean()) {
        throw std::invalid_argument(std::string(name) + " must be true or false");
    }
    return value.get<bool>();
}

float read_threshold(const json & value) {
    const double threshold = value.is_number() ? value.get<double>() : -1.0;
    if (!(threshold >= 0.0 && threshold <= std::numeric_limits<float>::max())) {
        throw std::invalid_argument("neg.threshold must be a number from 0 to 3.4e38");
    }
    return (float)threshold;
}

int32_t read_top_k(const json & value, int32_t n_vocab) {
    const int64_t top_k = value.is_number_integer() ? value.get<int64_t>() : 0;
    if (top_k < 1 || top_k > n_vocab) {
        throw std::invalid_argument("neg.top_k must be an integer from 1 to " + std::to_string(n_vocab));
    }
    return (int32_t)top_k;
}

int32_t read_action(const json & value) {
    const std::string name = value.is_string() ? value.get<std::string>() : "";
    for (const int32_t action : {LLAMA_NEG_MASK, LLAMA_NEG_SAMPLE, LLAMA_NEG_OFF}) {
        if (name == action_name(action)) {
            return action;
        }
    }
    throw std::invalid_argument("neg.action must be \"mask\", \"sample\" or \"off\"");
}

// What to do where a request wants the gate and does not say how: as the server was started, or else mask.
int32_t acting(int32_t action) {
    return action == LLAMA_NEG_OFF ? -1 : action;
}

// Returns false where the fields say that the gate shall not act.
bool read_fields(const json & fields, int32_t n_vocab, common_params_neg & neg) {
    std::optional<bool> enabled;
    std::optional<int32_t> action;
    for (const auto & [key, value] : fields.items()) {
        if (key != "enabled" && key != "action" && key != "threshold" && key != "top_k" && key != "use_temp_scale") {
            throw std::invalid_argument("neg has no field " + json(key.substr(0, 40)).dump_safe() +
                                        "; its fields are enabled, action, threshold, top_k and use_temp_scale");
        }
        if (value.is_null()) {
            continue;
        }
        if (key == "enabled") {
            enabled = read_flag(value, "neg.enabled");
        } else if (key == "action") {
            action = read_action(value);
        } else if (key == "threshold") {
            neg.threshold = read_threshold(value);
        } else if (key == "top_k") {
            neg.top_k = read_top_k(value, n_vocab);
        } else {
            neg.temp = read_flag(value, "neg.use_temp_scale") ? 1 : 0;
        }
    }
    if (enabled == false) {
        neg.action = LLAMA_NEG_OFF;
    } else if (action) {
        neg.action = *action;
    } else if (enabled == true) {
        neg.action = acting(neg.action);
    }
    return enabled != false;
}

// The object that a client gets: events of Responses and of Anthropic's API hold it under "data".
json & sent(json & chunk) {
    return chunk.contains("event") && chunk.contains("data") ? chunk.at("data") : chunk;
}

void put_trace(json & answer, const server_neg_trace & trace) {
    const std::string type = answer.value("type", "");
    if (answer.contains("choices")) {
        json & choices = answer.at("choices");
        if (!choices.empty() && !choices.at(0).at("finish_reason").is_null()) {
            choices.at(0)["neg"] = trace.to_json();
        }
    } else if (type == "response.completed") {
        answer.at("response")["neg"] = trace.to_json();
    } else if (type.empty() || type == "message" || type == "message_delta") {
        answer["neg"] = trace.to_json();
    }
}

}  // namespace

json server_neg_token::to_json() const {
    return json{
        {"entropy", number(entropy)},
        {"active", active},
    };
}

server_neg_token server_neg_totals::take(const std::vector<common_neg_record> & records) {
    if (records.empty()) {
        return {};
    }
    // drafts that a test accepts regardless of the model (--spec-draft-synth) have no record
    const common_neg_record record = n < records.size() ? records[n] : common_neg_record{NAN, false};

    present = true;
    n += 1;
    n_active += record.active ? 1 : 0;
    entropy_sum += std::isfinite(record.entropy) ? record.entropy : 0.0;
    last = {true, record.entropy, record.active};
    return last;
}

void server_neg_totals::add(const server_neg_totals & answer) {
    n += answer.n;
    n_active += answer.n_active;
    entropy_sum += answer.entropy_sum;
}

json server_neg_totals::to_json() const {
    return json{
        {"n", n},
        {"n_active", n_active},
        {"entropy_sum", entropy_sum},
    };
}

std::string server_neg_totals::to_metrics() const {
    if (!present) {
        return "";
    }
    std::ostringstream out;
    out.precision(std::numeric_limits<double>::max_digits10);
    const auto counter = [&out](const char * name, const char * description, auto value) {
        out << "# HELP llamacpp:" << name << " " << description << "\n"
            << "# TYPE llamacpp:" << name << " counter\n"
            << "llamacpp:" << name << " " << value << "\n";
    };
    counter("neg_tokens_total", "Generated tokens with a predicted entropy", n);
    counter("neg_gated_tokens_total", "Generated tokens at which the NEG gate was active", n_active);
    counter("neg_entropy_nats_total", "Sum of the predicted entropies of generated tokens", entropy_sum);
    return out.str();
}

void server_neg_trace::add(const server_neg_token & token, const std::string & bytes) {
    held += bytes;
    const size_t complete = validate_utf8(held);
    tokens.push_back(token);
    pieces.push_back(held.substr(0, complete));
    held.erase(0, complete);
}

json server_neg_trace::to_json() const {
    json entropy    = json::array();
    json active     = json::array();
    double sum      = 0.0;
    size_t n_active = 0;
    for (const server_neg_token & token : tokens) {
        entropy.push_back(number(token.entropy));
        active.push_back(token.active);
        sum += token.entropy;
        n_active += token.active ? 1 : 0;
    }
    const double n = std::max<size_t>(tokens.size(), 1);

    std::vector<std::string> texts = pieces;
    if (!held.empty()) {
        texts.back() += "\xEF\xBF\xBD";  // U+FFFD, as for a character without an end anywhere else
    }
    return json{
        {"tokens", texts},
        {"entropy", entropy},
        {"active", active},
        {"activation_rate", n_active / n},
        {"mean_entropy", number(sum / n)},
    };
}

json server_neg_props(const llama_model * model, const common_params & params) {
    const llama_neg_info info = llama_model_neg_info(model);
    if (!info.present) {
        return nullptr;
    }
    common_neg neg;
    neg.init(model, params.sampling.neg);
    return json{
        {"n_embd", info.n_embd},
        {"reduced", info.n_reduced},
        {"threshold", number(neg.gate.threshold)},
        {"top_k", neg.gate.top_k},
        {"temp_scale", info.temp_scale},
        {"temp_enabled", params.sampling.neg.temp < 0 ? info.temp_enabled : params.sampling.neg.temp > 0},
        {"source", llama_model_neg_source(model)},
        {"action", action_name(neg.action)},
    };
}

void server_neg_read(const json & body, const json & props, int32_t n_vocab, common_params_neg & neg,
                     bool & return_neg) {
    bool acts = false;
    if (body.contains("neg") && !body.at("neg").is_null()) {
        const json & value = body.at("neg");
        if (value.is_object()) {
            acts = read_fields(value, n_vocab, neg);
        } else if (value.is_boolean()) {
            acts       = value.get<bool>();
            neg.action = acts ? acting(neg.action) : LLAMA_NEG_OFF;
        } else {
            throw std::invalid_argument("neg must be true, false or an object");
        }
    }
    if (body.contains("return_neg") && !body.at("return_neg").is_null()) {
        return_neg = read_flag(body.at("return_neg"), "return_neg");
    }
    if (props.is_null() && (acts || return_neg)) {
        throw std::invalid_argument(std::string(acts ? "neg" : "return_neg") +
                                    " needs a NEG head, and this model has none");
    }
}

json server_neg_in_chunks(json chunks, const server_neg_token & newest) {
    return server_neg_in_final(std::move(chunks), true, newest, nullptr);
}

json server_neg_in_final(json answer, bool stream, const server_neg_token & newest, const server_neg_trace * trace) {
    const auto put = [&](json & chunk) {
        if (stream && newest.present) {
            sent(chunk)["neg"] = newest.to_json();
        }
        if (trace) {
            put_trace(sent(chunk), *trace);
        }
    };
    if (answer.is_array()) {
        for (json & chunk : answer) {
            put(chunk);
        }
    } else if (answer.is_object()) {
        put(answer);
    }
    return answer;
}
