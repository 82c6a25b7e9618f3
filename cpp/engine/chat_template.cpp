#include "chat_template.h"

#include "errors.h"

#include "json.h"

namespace darwin_neg {

namespace {

common_json parse_json(const char * argument, const std::string & text) {
    try {
        return common_json::parse(text);
    } catch (const std::exception & e) {
        throw RequestError(std::string(argument) + " is not valid JSON: " + e.what());
    }
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
        if (!override_source.empty()) {
            common_chat_template(override_source, "", "");  // what common throws has lost its text
        }
        templates_ = common_chat_templates_init(model.get(), override_source);
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
    try {
        return available_ && common_chat_templates_support_enable_thinking(templates_.get());
    } catch (const std::exception &) {
        return false;  // it is rendered to find out; what is wrong with it is said where a conversation is
    }
}

std::shared_ptr<const ChatPrompt> ChatTemplate::apply(const ChatRequest & request) const {
    if (!available_) {
        throw RequestError(
            "the model file has no chat template (or none that can be parsed); pass chat_template=, or generate without it");
    }
    const common_json messages = parse_json("messages", request.messages_json);

    common_chat_templates_inputs in;
    try {
        in.messages = common_chat_msgs_parse_oaicompat(messages);
        if (!request.tools_json.empty()) {
            in.tools       = common_chat_tools_parse_oaicompat(parse_json("tools", request.tools_json));
            in.tool_choice = common_chat_tool_choice_parse_oaicompat(request.tool_choice);
        }
    } catch (const RequestError &) {
        throw;
    } catch (const std::exception & e) {
        throw RequestError(std::string("messages or tools: ") + e.what());
    }
    in.grammar               = request.grammar;
    in.json_schema           = request.json_schema;
    in.enable_thinking       = request.enable_thinking;
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
        out->params                  = common_chat_templates_apply(templates_.get(), in);
        out->parser                  = common_chat_parser_params(out->params);
        out->parser.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
        if (!out->params.parser.empty()) {
            out->parser.parser.load(out->params.parser);
        }
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
