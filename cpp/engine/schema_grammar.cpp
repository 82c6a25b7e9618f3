#include "schema_grammar.h"

#include "errors.h"

#include "json-schema-to-grammar.h"
#include "json.h"

namespace darwin_neg {

namespace {

constexpr const char * k_constant = "the rules of this schema stand here";

// how llama.cpp writes the constant in a grammar: as JSON, in a literal
const std::string & literal() {
    static const std::string text = std::string("\"\\\"") + k_constant + "\\\"\"";
    return text;
}

std::string constant_schema() {
    common_json schema = common_json::object();
    schema["const"]    = k_constant;
    return schema.dump();
}

}  // namespace

AnswerSchema::AnswerSchema(const std::string & text) {
    common_json schema;
    try {
        schema = common_json::parse(text);
    } catch (const std::exception & e) {
        throw RequestError("json_schema is not valid JSON: " + one_line(e.what()));
    }
    converted_ = shown_ = text;
    if (!schema.is_object() || !schema.contains(k_rules)) {
        return;
    }
    rules_            = schema.at(k_rules).get<std::string>();
    common_json alone = common_json::object();
    for (const auto & item : schema.items()) {
        if (item.key() != k_rules) {
            alone[item.key()] = item.value();
        }
    }
    shown_     = alone.dump();
    converted_ = constant_schema();
}

AnswerSchema AnswerSchema::of_rules(const std::string & rules) {
    AnswerSchema out;
    out.shown_     = "{}";
    out.converted_ = constant_schema();
    out.rules_     = rules;
    return out;
}

std::string AnswerSchema::complete(const std::string & grammar) const {
    if (rules_.empty()) {
        return grammar;
    }
    std::string out = grammar;
    size_t at       = out.find(literal());
    if (at == std::string::npos) {
        return "";
    }
    for (; at != std::string::npos; at = out.find(literal(), at)) {
        out.replace(at, literal().size(), k_root);
    }
    return out + "\n" + rules_;
}

bool AnswerSchema::is_shown_in(const std::string & prompt) const {
    return !rules_.empty() && prompt.find(k_constant) != std::string::npos;
}

std::string AnswerSchema::grammar() const {
    try {
        return complete(json_schema_to_grammar(common_json::parse(converted_)));
    } catch (const std::exception & e) {
        throw RequestError("json_schema cannot be turned into a grammar: " + one_line(e.what()));
    }
}

}  // namespace darwin_neg
