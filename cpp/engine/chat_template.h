#pragma once

#include "chat_answer.h"
#include "model.h"
#include "text_stream.h"

#include "chat.h"
#include "common.h"

#include <cstddef>
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
    common_peg_arena text_only;  // parser of an answer without calls or a schema, where that is another one
    ReasoningFrame reasoning;
    // Grammar of a whole answer with a stand-in for its visible text (see framed_grammar), or "".
    std::string frame;
    std::vector<std::string> pieces;  // params.prompt, cut where no token may reach across (ChatRequest::cut)
    std::vector<size_t> shared;       // bytes of params.prompt that the next turn, or another question, begins with too
    bool has_tools = false;           // tools that the answer may call
    bool may_think = true;            // the reasoning has not been switched off

    const common_peg_arena & text_parser() const { return text_only.empty() ? parser.parser : text_only; }

    // Tool-call grammar, its triggers and the tokens that must stay visible for the parser.
    void apply_to(const Model & model, common_params_sampling & sampling) const;

    // Tells the sampler where the reasoning begins and ends, so that a tool's tag in a thought does not start the
    // grammar of calls. Returns false, and changes nothing, where the template does not mark the reasoning.
    bool mark_reasoning(const Model & model, common_params_sampling & sampling) const;

    // Makes a user's grammar of the visible text one of the whole answer: what it describes follows the reasoning. A
    // grammar that itself writes a tag which ends the reasoning already is one of the whole answer. Throws RequestError
    // where the template does not show how the reasoning ends.
    void constrain_text(const std::string & grammar, common_params_sampling & sampling) const;

    // Stop strings count in the visible text alone.
    StopHere stops_at(const std::string & answer, size_t at) const;

    // `shared` in tokens of the prompt, ascending.
    std::vector<int32_t> token_counts(const Model & model, const std::vector<llama_token> & prompt) const;

    // Control tokens that are rendered as text because the parser looks for them.
    std::set<llama_token> rendered_tokens(const Model & model) const;

private:
    std::string after_reasoning(const std::string & grammar) const;
};

struct ChatRequest {
    std::string messages_json;  // OpenAI's list of messages
    std::string tools_json;     // OpenAI's list of tools, or ""
    std::string callable_json;  // those of `tools_json` that the answer may call, or "" for all
    std::string tool_choice = "auto";
    std::optional<bool> parallel_tool_calls;  // not set: if the template knows them
    std::string json_schema;
    bool has_grammar = false;             // the answer's text will follow a grammar of the user's
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
    std::string framed_grammar(common_chat_templates_inputs inputs, std::optional<bool> enable_thinking) const;
    common_chat_params render(common_chat_templates_inputs inputs, std::optional<bool> enable_thinking) const;

    // Throws RequestError when the template, or llama.cpp's reading of it, leaves the tools out. without: the same
    // conversation rendered without them.
    static void check_tools(common_chat_tool_choice choice, const common_chat_params & params,
                            const common_chat_params & without);

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
