#include "chat_template.h"

#include "errors.h"
#include "schema_grammar.h"

#include "chat-peg-parser.h"
#include "json-schema-to-grammar.h"
#include "json.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <utility>

namespace darwin_neg {

namespace {

constexpr const char * k_prefix = "answer-";  // of a user's rules inside of a larger grammar

common_json parse_json(const char * argument, const std::string & text) {
    try {
        return common_json::parse(text);
    } catch (const std::exception & e) {
        throw RequestError(std::string(argument) + " is not valid JSON: " + e.what());
    }
}

common_peg_arena load_parser(const common_chat_params & params) {
    if (params.parser.empty()) {
        return build_chat_peg_parser([](common_chat_peg_builder & p) { return p.content(p.rest()) + p.end(); });
    }
    common_peg_arena out;
    out.load(params.parser);
    return out;
}

// The generic parser's grammar repeats a call that has no section around it, even if it was asked for a single one.
void allow_one_call(std::string & grammar) {
    constexpr const char * k_rule = "\ntool-calls ::= (tool-call";
    const size_t begin            = grammar.find(k_rule);
    const size_t end              = begin == std::string::npos ? begin : grammar.find('\n', begin + 1);
    if (end != std::string::npos && grammar.compare(end - 2, 2, ")+") == 0) {
        grammar.erase(end - 1, 1);
    }
}

// GBNF with `prefix` in front of every rule's name.
std::string with_prefixed_rules(const std::string & grammar, const std::string & prefix) {
    const auto is_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-'; };
    std::string out;
    for (size_t i = 0; i < grammar.size();) {
        const char c     = grammar[i];
        const size_t end = [&] {
            if (c == '"' || c == '[') {  // a literal or a class of characters, with escapes
                const char close = c == '"' ? '"' : ']';
                size_t at        = i + 1;
                while (at < grammar.size() && grammar[at] != close) {
                    at += grammar[at] == '\\' ? 2 : 1;
                }
                return at + 1;
            }
            if (c == '#' || c == '{' || c == '<') {  // a comment, numbers of a repetition, a token
                const size_t at = grammar.find(c == '#' ? '\n' : c == '{' ? '}' : '>', i);
                return at == std::string::npos ? grammar.size() : at + 1;
            }
            size_t at = i;
            while (at < grammar.size() && is_word(grammar[at])) {
                ++at;
            }
            return std::max(at, i + 1);
        }();
        if (is_word(c)) {
            out += prefix;
        }
        out += grammar.substr(i, std::min(end, grammar.size()) - i);
        i = end;
    }
    return out;
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

// Takes the reasoning from messages whose text a prompt lacks: some templates leave out the text of a message that has
// one. Returns whether there are any.
bool drop_reasoning_that_hides_text(std::vector<common_chat_msg> & messages, const std::string & prompt) {
    bool any = false;
    for (common_chat_msg & message : messages) {
        const bool has_both =
            !message.reasoning_content.empty() && !message.content.empty() && message.tool_calls.empty();
        if (has_both && prompt.find(string_strip(message.content)) == std::string::npos) {
            message.reasoning_content.clear();
            any = true;
        }
    }
    return any;
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

// Where prompts of the same conversation part: before the text of the last question, and before the beginning of the
// answer, which many templates write differently once the answer is part of the history.
std::vector<size_t> find_shared(const common_chat_params & params, const std::vector<common_chat_msg> & messages,
                                const std::string & cut) {
    const std::string & prompt = params.prompt;
    size_t end                 = prompt.size();
    if (!params.generation_prompt.empty() && string_ends_with(prompt, params.generation_prompt)) {
        end -= params.generation_prompt.size();
    }
    std::vector<size_t> out;
    const auto last =
        std::find_if(messages.rbegin(), messages.rend(), [](const auto & message) { return message.role == "user"; });
    if (last != messages.rend()) {
        std::string text = last->content;
        if (text.empty() && !last->content_parts.empty()) {
            text = last->content_parts.front().text;
        }
        if (!cut.empty()) {
            string_replace_all(text, cut, "");
        }
        text            = string_strip(text);  // as most templates do
        const size_t at = text.empty() ? std::string::npos : prompt.rfind(text, end - std::min(end, text.size()));
        if (at != std::string::npos && at > 0) {
            out.push_back(at);
        }
    }
    if (end > 0 && end < prompt.size()) {
        out.push_back(end);
    }
    return out;
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

bool ChatPrompt::mark_reasoning(const Model & model, common_params_sampling & sampling) const {
    if (params.thinking_start_tag.empty() || params.thinking_end_tags.empty()) {
        return false;
    }
    const auto tokens = [&model](const std::string & text) {
        return common_tokenize(model.vocab(), text, false, true);
    };
    sampling.reasoning_budget_start = tokens(params.thinking_start_tag);
    sampling.reasoning_budget_end.clear();
    for (const std::string & tag : params.thinking_end_tags) {
        sampling.reasoning_budget_end.push_back(tokens(tag));
    }
    // Where a tag is not a token of its own, its last character may be one with the line break that follows.
    if (sampling.reasoning_budget_end.front().size() > 1) {
        for (const std::string & tag : params.thinking_end_tags) {
            for (const char * space : {"\n", "\n\n"}) {
                sampling.reasoning_budget_end.push_back(tokens(tag + space));
            }
        }
    }
    if (reasoning.opened) {
        const std::vector<llama_token> prompt = tokens(params.generation_prompt);
        const auto & start                    = sampling.reasoning_budget_start;
        if (std::search(prompt.begin(), prompt.end(), start.begin(), start.end()) == prompt.end()) {
            sampling.reasoning_budget_start = prompt;
        }
    }
    sampling.reasoning_budget_forced = sampling.reasoning_budget_end.front();
    // tells the sampler whether the prompt has opened the reasoning already
    sampling.generation_prompt = params.generation_prompt;
    return true;
}

void ChatPrompt::constrain_text(const std::string & grammar, common_params_sampling & sampling) const {
    const auto writes = [&](const std::string & tag) { return grammar.find(tag) != std::string::npos; };
    if (reasoning.closing.empty() && !reasoning.known) {
        // a template whose answers consist of messages, each with a header
        if (std::any_of(params.preserved_tokens.begin(), params.preserved_tokens.end(), writes)) {
            return;
        }
        if (!frame.empty()) {
            const std::string rules    = std::string(AnswerSchema::k_root) + " ::= " + k_prefix + "root\n";
            sampling.grammar           = {COMMON_GRAMMAR_TYPE_TOOL_CALLS,
                                          AnswerSchema::of_rules(rules + with_prefixed_rules(grammar, k_prefix)).complete(frame)};
            sampling.generation_prompt = params.generation_prompt;
        } else if (reasoning.opened) {
            throw RequestError(
                "grammar: this chat template does not show where the reasoning ends, so the grammar would act on the "
                "reasoning; pass json_schema=, another chat_template=, or use generate()");
        }
        return;
    }
    if (!(reasoning.closing.empty() || !(reasoning.opened || may_think) ||
          std::any_of(reasoning.closing.begin(), reasoning.closing.end(), writes))) {
        sampling.grammar.grammar = after_reasoning(grammar);
    }
}

std::string ChatPrompt::after_reasoning(const std::string & grammar) const {
    const auto & tags             = reasoning.closing;
    const common_peg_arena around = build_chat_peg_parser([&](common_chat_peg_builder & p) {
        const common_peg_parser answer = p.gbnf(p.rest(), std::string(k_prefix) + "root");
        // what ends a thought in any way must not stand in one
        const common_peg_parser thought = p.until_one_of(params.thinking_end_tags);
        common_peg_parser close         = p.choice();
        for (const std::string & tag : params.thinking_end_tags) {
            if (std::find_if(tags.begin(), tags.end(), [&](const std::string & closing) {
                    return tag.find(closing) != std::string::npos;
                }) != tags.end()) {
                close |= p.literal(tag);
            }
        }
        // no space but what is left out of the text, which must be as the grammar says
        const common_peg_parser gap   = reasoning.gap.empty() ? p.eps() : p.optional(p.literal(reasoning.gap));
        const common_peg_parser whole = thought + close + gap;
        return (reasoning.opened ? whole : p.optional(p.literal(reasoning.start) + whole)) + answer;
    });
    return build_grammar([&](const common_grammar_builder & builder) { around.build_grammar(builder); }) + "\n" +
           with_prefixed_rules(grammar, k_prefix);
}

StopHere ChatPrompt::stops_at(const std::string & answer, size_t at) const {
    if (reasoning.opened && !reasoning.closing.empty()) {
        // the common case, without a parser: the reasoning has not been closed yet
        const auto closes = [&](const std::string & tag) { return answer.find(tag) < at; };
        if (std::none_of(params.thinking_end_tags.begin(), params.thinking_end_tags.end(), closes)) {
            return StopHere::no;
        }
    }
    const ChatAnswer read = read_answer(*this, answer, true);
    if (read.unforeseen) {
        return StopHere::yes;
    }
    for (const ChatAnswer::Span & span : read.text_spans) {
        if (at >= span.begin && at < span.end) {
            return StopHere::yes;
        }
    }
    return at >= read.decided ? StopHere::not_yet : StopHere::no;
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
    try {
        return available_ && common_chat_templates_support_enable_thinking(templates_.get());
    } catch (const std::exception &) {
        return false;  // it is rendered to find out; what is wrong with it is said where a conversation is
    }
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
    // Usually the default is one of the two, and llama.cpp reads more from a template whose switch it can try. What
    // that is compared with is rendered alone: reading how answers look costs more than many renderings.
    inputs.force_pure_content = true;
    const std::string plain   = common_chat_templates_apply(undecided.get(), inputs).prompt;
    inputs.force_pure_content = false;
    std::vector<common_chat_params> switched;
    for (const bool on : {true, false}) {
        inputs.enable_thinking = on;
        switched.push_back(common_chat_templates_apply(templates_.get(), inputs));
        if (switched.back().prompt == plain) {
            return switched.back();
        }
    }
    // of a few templates llama.cpp rewrites the messages first, which the plain prompt is without
    common_chat_params out = common_chat_templates_apply(undecided.get(), inputs);
    const auto same        = std::find_if(switched.begin(), switched.end(),
                                          [&](const common_chat_params & each) { return each.prompt == out.prompt; });
    return same == switched.end() ? out : *same;
}

// The grammar that the template has for answers in JSON, without what may stand around JSON alone; "" if there is none.
std::string ChatTemplate::framed_grammar(common_chat_templates_inputs inputs,
                                         std::optional<bool> enable_thinking) const {
    inputs.tools.clear();
    const auto stand_in = AnswerSchema::of_rules(" ");
    inputs.json_schema  = stand_in.converted();
    std::string grammar = render(inputs, enable_thinking).grammar;
    // the type of a message's content; a fence; the end of the turn, which the end token is
    for (const auto & [around, left] : std::vector<std::pair<std::string, std::string>>{
             {" (space \"<|constrain|>\"? [A-Za-z0-9_-]+)?", ""},
             {"(\"```json\" space response-format-schema space \"```\" | response-format-schema)",
              "response-format-schema"},
             {" \"<|END_OF_TURN_TOKEN|>\"?", ""},
         }) {
        const size_t at = grammar.find(around);
        if (at != std::string::npos) {
            grammar.replace(at, around.size(), left);
        }
    }
    return grammar.find("```") == std::string::npos && !stand_in.complete(grammar).empty() ? grammar : "";
}

void ChatTemplate::check_tools(common_chat_tool_choice choice, const common_chat_params & params,
                               const common_chat_params & without) {
    if (without.prompt == params.prompt) {
        throw RequestError(
            "tools: the chat template does not show them to the model; pass chat_template= with one that does, or "
            "describe the functions in a message");
    }
    if (choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && params.grammar.empty()) {
        throw RequestError(
            "tool_choice: a call cannot be enforced, because the form of calls could not be read from the chat "
            "template; use \"auto\"");
    }
}

std::shared_ptr<const ChatPrompt> ChatTemplate::apply(const ChatRequest & request) const {
    if (!available_) {
        throw RequestError(
            "the model file has no chat template (or none that can be parsed); pass chat_template=, or generate "
            "without it");
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

    const auto caps        = common_chat_templates_get_caps(templates_.get());
    const auto known       = caps.find("supports_parallel_tool_calls");
    in.parallel_tool_calls = request.parallel_tool_calls.value_or(known != caps.end() && known->second);

    auto out       = std::make_shared<ChatPrompt>();
    out->has_tools = !in.tools.empty() && in.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE;
    out->may_think = request.enable_thinking.value_or(true);
    if (out->has_tools && !in.json_schema.empty()) {
        throw RequestError("json_schema and tools are both given; give one, or tool_choice=\"none\"");
    }
    try {
        out->params = render(in, request.enable_thinking);
        if (drop_reasoning_that_hides_text(in.messages, out->params.prompt)) {
            out->params = render(in, request.enable_thinking);
        }
        if (out->has_tools || schema) {
            common_chat_templates_inputs text = in;
            text.tools.clear();
            text.tool_choice = COMMON_CHAT_TOOL_CHOICE_AUTO;
            text.json_schema.clear();
            const common_chat_params without = render(text, request.enable_thinking);
            if (out->has_tools) {
                check_tools(in.tool_choice, out->params, without);
            }
            out->text_only = load_parser(without);
        }
        if (!request.callable_json.empty()) {
            // all tools are shown, of which the answer may call these
            in.tools                    = parse_tools(request.callable_json);
            const std::string shows_all = std::move(out->params.prompt);
            out->params                 = render(in, request.enable_thinking);
            out->params.prompt          = shows_all;
        }
        if (!in.parallel_tool_calls) {
            allow_one_call(out->params.grammar);
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
        out->parser.parser           = load_parser(out->params);
        out->reasoning               = find_reasoning_frame(out->params, out->text_parser());
        out->shared                  = find_shared(out->params, in.messages, request.cut);
        if (request.has_grammar && out->reasoning.closing.empty() && !out->reasoning.known && !out->has_tools) {
            out->frame = framed_grammar(in, request.enable_thinking);
        }
    } catch (const RequestError &) {
        throw;
    } catch (const std::exception & e) {
        throw RequestError(std::string("the chat template cannot render these messages: ") + e.what());
    }
    return out;
}

std::vector<int32_t> ChatPrompt::token_counts(const Model & model, const std::vector<llama_token> & prompt) const {
    std::vector<int32_t> counts;
    size_t n_bytes  = 0;
    auto next       = shared.begin();
    const auto skip = [&](llama_token token) {  // the start token, where the vocabulary has put it before the text
        return token == llama_vocab_bos(model.vocab()) && params.prompt.rfind(model.piece(token, true), 0) != 0;
    };
    for (size_t i = 0; i < prompt.size() && next != shared.end(); ++i) {
        n_bytes += i == 0 && skip(prompt[i]) ? 0 : model.piece(prompt[i], true).size();
        for (; next != shared.end() && n_bytes > *next; ++next) {
            counts.push_back(static_cast<int32_t>(i));
        }
    }
    return counts;
}

std::string parse_chat(const std::string & text, const ChatPrompt & prompt, bool partial) {
    const ChatAnswer answer = read_answer(prompt, text, partial);
    common_json calls       = common_json::array();
    for (const auto & call : answer.tool_calls) {
        common_json entry  = common_json::object();
        entry["id"]        = call.id;
        entry["name"]      = call.name;
        entry["arguments"] = call.arguments;
        calls.push_back(entry);
    }
    common_json out          = common_json::object();
    out["content"]           = answer.text;
    out["reasoning_content"] = answer.reasoning;
    out["tool_calls"]        = calls;
    return out.dump();
}

}  // namespace darwin_neg
