#pragma once

#include "model.h"

#include "chat.h"
#include "common.h"

#include <memory>
#include <set>
#include <string>
#include <vector>

namespace darwin_neg {

// A rendered conversation and what is needed to read the answer to it.
struct ChatPrompt {
    common_chat_params params;
    common_chat_parser_params parser;

    // Tool-call grammar, its triggers and the tokens that must stay visible for the parser.
    void apply_to(const Model & model, common_params_sampling & sampling) const;

    // Ends the reasoning after `budget` tokens. Returns false, and changes nothing, where the template does not mark
    // any.
    bool limit_reasoning(const Model & model, int32_t budget, common_params_sampling & sampling) const;

    // Control tokens that are rendered as text because the parser looks for them.
    std::set<llama_token> rendered_tokens(const Model & model) const;
};

struct ChatRequest {
    std::string messages_json;  // OpenAI's list of messages
    std::string tools_json;     // OpenAI's list of tools, or ""
    std::string tool_choice = "auto";
    std::string grammar;
    std::string json_schema;
    std::string template_kwargs_json;  // an object, or ""
    bool enable_thinking       = true;
    bool add_generation_prompt = true;
};

// The model's own jinja template, or the one given instead.
class ChatTemplate {
public:
    // Throws RequestError when `override_source` is given and is not a template.
    ChatTemplate(const Model & model, const std::string & override_source);

    bool available() const { return available_; }
    std::string source() const;
    bool supports_thinking() const;

    // Throws RequestError for messages, tools or template arguments that the template cannot render.
    std::shared_ptr<const ChatPrompt> apply(const ChatRequest & request) const;

private:
    common_chat_templates_ptr templates_;
    bool available_ = false;
};

// Splits an answer (or, with `partial`, the beginning of one) into {"content", "reasoning_content", "tool_calls"} as
// JSON.
std::string parse_chat(const std::string & text, const ChatPrompt & prompt, bool partial);

}  // namespace darwin_neg
