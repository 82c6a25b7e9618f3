#include "chat_template.h"

#include "errors.h"
#include "schema_grammar.h"

#include "json.h"

#include <cstring>

namespace darwin_neg {

namespace {

common_json parse_json(const char * argument, const std::string & text) {
    try {
        return common_json::parse(text);
    } catch (const std::exception & e) {
        throw RequestError(std::string(argument) + " is not valid JSON: " + e.what());
    }
}

std::vector<common_chat_tool> parse_tools(const std::string & text) {
    return common_chat_tools_parse_oaicompat(parse_json("tools", text));
}

// llama.cpp always sets the variable enable_thinking. What a template does without it shows under another name.
common_chat_templates_ptr undecided_templates(const Model & model, std::string source) {
    constexpr const char * k_name = "enable_thinking";
    size_t at                     = source.find(k_name);
    if (at == std::string::npos) {
        return nullptr;
    }
    for (; at != std::string::npos; at = source.find(k_name, at)) {
        source.replace(at, std::strlen(k_name), "thinking_undecided");
    }
    return common_chat_templates_init(model.get(), source);
}

std::vector<std::string> cut_in_pieces(const std::string & text, const std::string & mark) {
    std::vector<std::string> pieces;
    size_t begin = 0;
    for (size_t at; !mark.empty() && (at = text.find(mark, begin)) != std::string::npos; begin = at + mark.size()) {
        pieces.push_back(text.substr(begin, at - begin));
    }
    pieces.push_back(text.substr(begin));
    return pieces;
}

}  // namespace

void ChatPrompt::apply_to(const Model & model, common_params_sampling & sampling) const {
    if (!params.grammar.empty()) {
        sampling.grammar = {COMMON_GRAMMAR_TYPE_TOOL_CALLS, params.grammar};
    }
    sampling.grammar_lazy      = params.grammar_lazy;
    sampling.generation_prompt = params.generation_prompt;
    sampling.preserved_tokens  = rendered_tokens(model);
    for (common_grammar_trigger trigger : params.grammar_triggers) {
        // a trigger word that is one token of the vocabulary is watched for as that token
        if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
            const auto ids = common_tokenize(model.vocab(), trigger.value, false, true);
            if (ids.size() == 1 && sampling.preserved_tokens.count(ids.front()) != 0) {
                trigger.type  = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
                trigger.token = ids.front();
            }
        }
        sampling.grammar_triggers.push_back(trigger);
    }
}

bool ChatPrompt::limit_reasoning(const Model & model, int32_t budget, common_params_sampling & sampling) const {
    if (params.thinking_start_tag.empty() || params.thinking_end_tags.empty()) {
        return false;
    }
    const auto tokens = [&model](const std::string & text) {
        return common_tokenize(model.vocab(), text, false, true);
    };
    sampling.reasoning_budget_start = tokens(params.thinking_start_tag);
    for (const std::string & tag : params.thinking_end_tags) {
        sampling.reasoning_budget_end.push_back(tokens(tag));
    }
    sampling.reasoning_budget_forced = sampling.reasoning_budget_end.front();
    sampling.reasoning_budget_tokens = budget;
    // tells the budget's sampler whether the prompt has opened the reasoning already
    sampling.generation_prompt = params.generation_prompt;
    return true;
}

std::set<llama_token> ChatPrompt::rendered_tokens(const Model & model) const {
    std::set<llama_token> out;
    for (const auto & text : params.preserved_tokens) {
        const auto ids = common_tokenize(model.vocab(), text, false, true);
        if (ids.size() == 1) {
            out.insert(ids.front());
        }
    }
    return out;
}

ChatTemplate::ChatTemplate(const Model & model, const std::string & override_source) {
    // without a template in the file common would fall back to ChatML, which the model may never have seen
    available_ = !override_source.empty() || llama_model_chat_template(model.get(), nullptr) != nullptr;
    if (!available_) {
        return;
    }
    try {
        templates_       = common_chat_templates_init(model.get(), override_source);
        undecided_       = undecided_templates(model, common_chat_templates_source(templates_.get()));
        undecided_tools_ = undecided_templates(model, common_chat_templates_source(templates_.get(), "tool_use"));
    } catch (const std::exception & e) {
        if (!override_source.empty()) {
            throw RequestError(std::string("chat_template cannot be parsed: ") + e.what());
        }
        available_ = false;  // the model still generates; chat() will say that there is no usable template
    }
}

std::string ChatTemplate::source() const {
    return available_ ? common_chat_templates_source(templates_.get()) : std::string();
}

bool ChatTemplate::supports_thinking() const {
    return available_ && common_chat_templates_support_enable_thinking(templates_.get());
}

common_chat_params ChatTemplate::render(common_chat_templates_inputs inputs,
                                        std::optional<bool> enable_thinking) const {
    const bool own_variant =
        !inputs.tools.empty() && !common_chat_templates_source(templates_.get(), "tool_use").empty();
    const common_chat_templates_ptr & undecided = own_variant ? undecided_tools_ : undecided_;
    if (enable_thinking || !undecided) {
        inputs.enable_thinking = enable_thinking.value_or(true);
        return common_chat_templates_apply(templates_.get(), inputs);
    }
    common_chat_params out = common_chat_templates_apply(undecided.get(), inputs);
    // usually the default is one of the two, and llama.cpp reads more from a template whose switch it can try
    for (const bool on : {true, false}) {
        inputs.enable_thinking    = on;
        common_chat_params either = common_chat_templates_apply(templates_.get(), inputs);
        if (either.prompt == out.prompt) {
            return either;
        }
    }
    return out;
}

void ChatTemplate::check_tools(const common_chat_templates_inputs & inputs, const ChatRequest & request,
                               const common_chat_params & params) const {
    if (inputs.tools.empty() || inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_NONE) {
        return;
    }
    common_chat_templates_inputs without = inputs;
    without.tools.clear();
    without.tool_choice = COMMON_CHAT_TOOL_CHOICE_AUTO;
    if (render(without, request.enable_thinking).prompt == params.prompt) {
        throw RequestError(
            "tools: the chat template does not show them to the model; pass chat_template= with one that does, or "
            "describe the functions in a message");
    }
    if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && params.grammar.empty()) {
        throw RequestError(
            "tool_choice: a call cannot be enforced, because the form of calls could not be read from the chat "
            "template; use \"auto\"");
    }
}

std::shared_ptr<const ChatPrompt> ChatTemplate::apply(const ChatRequest & request) const {
    if (!available_) {
        throw RequestError(
            "the model file has no chat template (or none that can be parsed); pass chat_template= or use generate()");
    }
    const common_json messages = parse_json("messages", request.messages_json);

    common_chat_templates_inputs in;
    try {
        in.messages = common_chat_msgs_parse_oaicompat(messages);
        if (!request.tools_json.empty()) {
            in.tools       = parse_tools(request.tools_json);
            in.tool_choice = common_chat_tool_choice_parse_oaicompat(request.tool_choice);
        }
    } catch (const RequestError &) {
        throw;
    } catch (const std::exception & e) {
        throw RequestError(std::string("messages or tools: ") + e.what());
    }
    in.grammar = request.grammar;
    const std::optional<AnswerSchema> schema =
        request.json_schema.empty() ? std::nullopt : std::make_optional<AnswerSchema>(request.json_schema);
    if (schema) {
        in.json_schema = schema->converted();
    }
    in.add_generation_prompt = request.add_generation_prompt;
    in.reasoning_format      = COMMON_REASONING_FORMAT_DEEPSEEK;
    if (!request.template_kwargs_json.empty()) {
        const common_json kwargs = parse_json("chat_template_kwargs", request.template_kwargs_json);
        if (!kwargs.is_object()) {
            throw RequestError("chat_template_kwargs must be an object");
        }
        for (const auto & item : kwargs.items()) {
            in.chat_template_kwargs[item.key()] = item.value().dump();
        }
    }

    auto out = std::make_shared<ChatPrompt>();
    try {
        out->params = render(in, request.enable_thinking);
        check_tools(in, request, out->params);
        if (!request.callable_json.empty()) {
            // all tools are shown, of which the answer may call these
            in.tools                    = parse_tools(request.callable_json);
            const std::string shows_all = std::move(out->params.prompt);
            out->params                 = render(in, request.enable_thinking);
            out->params.prompt          = shows_all;
        }
        if (schema) {
            out->params.grammar = schema->complete(out->params.grammar);
            if (out->params.grammar.empty()) {
                throw RequestError(
                    "json_schema: llama.cpp cannot constrain the answers of this chat template; "
                    "pass another chat_template=, or use generate()");
            }
            if (schema->is_shown_in(out->params.prompt)) {
                in.json_schema     = schema->shown();
                out->params.prompt = render(in, request.enable_thinking).prompt;
            }
        }
        out->pieces                  = cut_in_pieces(out->params.prompt, request.cut);
        out->params.prompt           = string_join(out->pieces, "");
        out->parser                  = common_chat_parser_params(out->params);
        out->parser.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
        if (!out->params.parser.empty()) {
            out->parser.parser.load(out->params.parser);
        }
    } catch (const RequestError &) {
        throw;
    } catch (const std::exception & e) {
        throw RequestError(std::string("the chat template cannot render these messages: ") + e.what());
    }
    return out;
}

std::string parse_chat(const std::string & text, const ChatPrompt & prompt, bool partial) {
    common_chat_msg message;
    try {
        message = common_chat_parse(text, partial, prompt.parser);
    } catch (const std::exception &) {
        // a model may answer in a shape its template does not foresee; nothing of it may be lost
        message         = {};
        message.content = text;
    }
    common_json calls = common_json::array();
    for (const auto & call : message.tool_calls) {
        common_json entry  = common_json::object();
        entry["id"]        = call.id;
        entry["name"]      = call.name;
        entry["arguments"] = call.arguments;
        calls.push_back(entry);
    }
    common_json out          = common_json::object();
    out["content"]           = message.content;
    out["reasoning_content"] = message.reasoning_content;
    out["tool_calls"]        = calls;
    return out.dump();
}

}  // namespace darwin_neg
