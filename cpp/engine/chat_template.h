#pragma once

#include "model.h"

#include "chat.h"
#include "common.h"

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace darwin_neg {

// A rendered conversation and what is needed to read the answer to it.
struct ChatPrompt {
    common_chat_params params;
    common_chat_parser_params parser;
    std::vector<std::string> pieces;  // params.prompt, cut where no token may reach across (ChatRequest::cut)

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
    std::string callable_json;  // those of `tools_json` that the answer may call, or "" for all
    std::string tool_choice = "auto";
    std::string grammar;
    std::string json_schema;
    std::string template_kwargs_json;     // an object, or ""
    std::string cut;                      // text in the messages at which the prompt is cut in pieces, or ""
    std::optional<bool> enable_thinking;  // not set: as the template does when it is not told
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
    common_chat_params render(common_chat_templates_inputs inputs, std::optional<bool> enable_thinking) const;

    // Throws RequestError when the template, or llama.cpp's reading of it, leaves the tools out.
    void check_tools(const common_chat_templates_inputs & inputs, const ChatRequest & request,
                     const common_chat_params & params) const;

    common_chat_templates_ptr templates_;
    // the same with the variable enable_thinking under another name, which nobody sets, without and with tools; null
    // where the template does not read it
    common_chat_templates_ptr undecided_;
    common_chat_templates_ptr undecided_tools_;
    bool available_ = false;
};

// Splits an answer (or, with `partial`, the beginning of one) into {"content", "reasoning_content", "tool_calls"} as
// JSON.
std::string parse_chat(const std::string & text, const ChatPrompt & prompt, bool partial);

}  // namespace darwin_neg
