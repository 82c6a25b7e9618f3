#pragma once

#include <string>

namespace darwin_neg {

// A JSON schema as the engine gets it: what llama.cpp's converter obeys in full, or a schema with a grammar made for it
// (see python/darwin_neg_cpp/json_schema/): the object then has the key k_rules, whose value are GBNF rules, of which
// the first is k_root.
class AnswerSchema {
public:
    static constexpr const char * k_rules = "x-gbnf";
    static constexpr const char * k_root  = "own-root";

    // Throws RequestError when `text` is not JSON.
    explicit AnswerSchema(const std::string & text);

    // What has rules of its own and no schema. rules: GBNF; the first is k_root.
    static AnswerSchema of_rules(const std::string & rules);

    // The schema for llama.cpp: with rules of its own a constant, in whose place `complete` puts them.
    const std::string & converted() const { return converted_; }

    // The schema without rules, as a template may show it to the model.
    const std::string & shown() const { return shown_; }

    // `grammar`, made of converted(), with the rules. Returns "" when the schema is not in it.
    std::string complete(const std::string & grammar) const;

    // Whether a prompt rendered with converted() shows it.
    bool is_shown_in(const std::string & prompt) const;

    // The grammar of the schema alone. Throws RequestError when it cannot be converted.
    std::string grammar() const;

private:
    AnswerSchema() = default;

    std::string converted_;
    std::string shown_;
    std::string rules_;  // "" where llama.cpp converts the schema
};

}  // namespace darwin_neg
