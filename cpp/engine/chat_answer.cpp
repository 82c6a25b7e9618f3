#include "chat_answer.h"

#include "chat_template.h"
#include "text_stream.h"

#include "chat-peg-parser.h"
#include "common.h"
#include "peg-parser.h"

#include <algorithm>
#include <cctype>
#include <memory>
#include <optional>

namespace darwin_neg {

namespace {

using Span    = ChatAnswer::Span;
using Builder = common_chat_peg_builder;

constexpr size_t k_most_false_starts = 64;   // tags that begin no call, after which the rest is text unseen
constexpr size_t k_longest_closing   = 128;  // bytes of the tags after a call's last argument

bool is_space(char c) {
    return std::isspace(static_cast<unsigned char>(c)) != 0;
}

size_t skip_space(const std::string & text, size_t at) {
    while (at < text.size() && is_space(text[at])) {
        ++at;
    }
    return at;
}

// One run of a template's parser over `head` + text. Offsets are those of the text.
class Run {
public:
    Run(const common_peg_arena & parser, common_chat_format format, const std::string & head, const std::string & text,
        bool lenient)
        : n_head_(head.size()),
          n_text_(text.size()),
          context_(head + text, lenient ? COMMON_PEG_PARSE_FLAG_LENIENT : COMMON_PEG_PARSE_FLAG_NONE),
          result_(parser.parse(context_)) {
        if (result_.fail()) {
            return;
        }
        std::unique_ptr<common_chat_peg_mapper> mapper;
        if (format == COMMON_CHAT_FORMAT_PEG_GEMMA4) {
            mapper = std::make_unique<common_chat_peg_gemma4_mapper>(message_);
        } else if (format == COMMON_CHAT_FORMAT_PEG_MINIMAX_M3) {
            mapper = std::make_unique<common_chat_peg_minimax_m3_mapper>(message_);
        } else {
            mapper = std::make_unique<common_chat_peg_mapper>(message_);
        }
        mapper->from_ast(context_.ast, result_);
        // a part that begins in the prompt is the answer's from where the prompt ends
        drop_head(Builder::CONTENT, message_.content);
        drop_head(Builder::REASONING, message_.reasoning_content);
    }
    Run(const Run &)             = delete;  // nodes point into the context
    Run & operator=(const Run &) = delete;

    const common_chat_msg & message() const { return message_; }
    bool failed() const { return result_.fail(); }
    bool needs_more() const { return result_.need_more_input(); }
    size_t end() const { return offset(result_.end); }
    bool reads_all() const { return !failed() && skip_space(context_.input, n_head_ + end()) == context_.input.size(); }
    // Read to the last byte, with nothing missing.
    bool complete() const { return result_.success() && end() == n_text_; }

    // The parts of the tree with this tag, in order; text is what lies in them.
    std::vector<Span> spans(const char * tag) const {
        std::vector<Span> out;
        context_.ast.visit(result_, [&](const common_peg_ast_node & node) {
            if (node.tag == tag) {
                out.push_back({offset(node.start), offset(node.end)});
            }
        });
        return out;
    }

    // The same of all that was ever matched, which a failure further on leaves out of the tree.
    std::vector<Span> matched(const char * tag) const {
        std::vector<Span> out;
        for (size_t id = 0; id < context_.ast.size(); ++id) {
            const common_peg_ast_node & node = context_.ast.get(id);
            if (node.tag == tag && !node.is_partial && node.start >= n_head_) {
                out.push_back({offset(node.start), offset(node.end)});
            }
        }
        return out;
    }

private:
    void drop_head(const char * tag, std::string & text) const {
        bool first = true;
        context_.ast.visit(result_, [&](const common_peg_ast_node & node) {
            if (first && node.tag == tag && node.start < n_head_) {
                text.erase(0, std::min(node.end, n_head_) - node.start);
            }
            first = first && node.tag != tag;
        });
    }

    size_t offset(size_t at) const { return at > n_head_ ? at - n_head_ : 0; }

    size_t n_head_;
    size_t n_text_;
    common_peg_parse_context context_;
    common_peg_parse_result result_;
    common_chat_msg message_;
};

// Reads the part of an answer that follows the reasoning: text with calls in it.
class BodyReader {
public:
    BodyReader(const ChatPrompt & prompt, const std::string & answer, bool partial, ChatAnswer & out)
        : prompt_(prompt), answer_(answer), partial_(partial), out_(out) {}

    // Whether a call begins at `at`: complete, or with `partial` one that may still become one.
    bool call_begins(size_t at) const {
        std::vector<common_chat_tool_call> calls;
        return end_of_calls(at, calls).has_value() || (partial_ && may_become_calls(at));
    }

    // Whether the answer breaks off inside of what would have been a call.
    bool may_become_calls(size_t at) const {
        const Run calls = run(at, answer_.size(), true);
        return calls.needs_more() && calls.message().content.empty();
    }

    void read(size_t at) {
        size_t false_starts = 0;
        while (at < answer_.size()) {
            const size_t begin = false_starts < k_most_false_starts ? next_start(at) : answer_.size();
            add_text(at, begin);
            at = begin;
            if (at == answer_.size()) {
                break;
            }
            std::vector<common_chat_tool_call> calls;
            if (const std::optional<size_t> end = end_of_calls(at, calls)) {
                out_.tool_calls.insert(out_.tool_calls.end(), calls.begin(), calls.end());
                after_call_ = true;
                at          = *end;
            } else if (partial_ && may_become_calls(at)) {
                out_.decided = at;
                return;
            } else {
                size_t next = at + 1;  // past the first character of what is no call
                while (next < answer_.size() && (static_cast<unsigned char>(answer_[next]) & 0xC0) == 0x80) {
                    ++next;
                }
                add_text(at, next);
                at = next;
                ++false_starts;
            }
        }
        out_.decided = answer_.size();
    }

private:
    Run run(size_t begin, size_t end, bool lenient) const {
        return {prompt_.parser.parser, prompt_.params.format, prompt_.reasoning.head,
                answer_.substr(begin, end - begin), lenient};
    }

    // Where the parser sees the next tag that might begin a call.
    size_t next_start(size_t at) const {
        const Run text                  = run(at, answer_.size(), true);
        const std::vector<Span> content = text.matched(Builder::CONTENT);
        if (!content.empty()) {
            return at + content.front().end;
        }
        // a text that the input cut off is no whole match
        const std::vector<Span> open = text.spans(Builder::CONTENT);
        return open.empty() ? at : at + open.front().end;
    }

    bool are_calls(const Run & candidate, std::vector<common_chat_tool_call> & calls) const {
        const common_chat_msg & message = candidate.message();
        if (!candidate.complete() || message.tool_calls.empty() || !string_strip(message.content).empty()) {
            return false;
        }
        calls = message.tool_calls;
        return true;
    }

    // The calls that begin at `at`, as many as follow each other: where they end. The parser says only whether a whole
    // text is calls, so ends are tried, from where it last saw a call close.
    std::optional<size_t> end_of_calls(size_t at, std::vector<common_chat_tool_call> & calls) const {
        if (are_calls(run(at, answer_.size(), false), calls)) {
            return answer_.size();
        }
        const Run lenient = run(at, answer_.size(), true);
        std::vector<size_t> closed;
        for (const Span & span : lenient.matched(Builder::TOOL_CLOSE)) {
            closed.push_back(at + span.end);
        }
        for (const Span & span : lenient.matched(Builder::TOOL)) {
            closed.push_back(at + span.end);
        }
        std::sort(closed.begin(), closed.end());
        closed.erase(std::unique(closed.begin(), closed.end()), closed.end());
        size_t tried_to = answer_.size() + 1;
        for (auto close = closed.rbegin(); close != closed.rend(); ++close) {
            const size_t farthest = std::min({*close + k_longest_closing, answer_.size(), tried_to - 1});
            for (size_t end = farthest; end >= *close; --end) {
                // no tag ends with a letter or a space
                if (!std::isalnum(static_cast<unsigned char>(answer_[end - 1])) && !is_space(answer_[end - 1]) &&
                    are_calls(run(at, end, false), calls)) {
                    return end;
                }
            }
            tried_to = std::min(tried_to, *close);
        }
        return std::nullopt;
    }

    // After a call, space counts only when text follows it.
    void add_text(size_t begin, size_t end) {
        if (begin == end) {
            return;
        }
        const size_t text = after_call_ ? std::min(skip_space(answer_, begin), end) : begin;
        if (text == end) {
            return;
        }
        after_call_       = false;
        const size_t from = out_.text.empty() ? text : begin;
        out_.text += answer_.substr(from, end - from);
        out_.text_spans.push_back({from, end});
    }

    const ChatPrompt & prompt_;
    const std::string & answer_;
    bool partial_;
    ChatAnswer & out_;
    bool after_call_ = false;
};

ChatAnswer all_text(const std::string & answer) {
    ChatAnswer out;
    out.text = answer;
    out.text_spans.push_back({0, answer.size()});
    out.decided = answer.size();
    return out;
}

// The beginning of an answer that is not in the template's format, of which nothing is shown before its end.
ChatAnswer unforeseen() {
    ChatAnswer out;
    out.unforeseen = true;
    return out;
}

ChatAnswer from_message(const Run & run, size_t n_answer) {
    ChatAnswer out;
    out.reasoning  = run.message().reasoning_content;
    out.text       = run.message().content;
    out.tool_calls = run.message().tool_calls;
    out.text_spans = run.spans(Builder::CONTENT);
    out.decided    = n_answer;
    return out;
}

// A thought that breaks off where its end might begin: with nothing more to come, that is a part of it.
void add_broken_tag(const Run & run, const std::string & answer, bool partial, ChatAnswer & out) {
    const std::vector<Span> thoughts = run.spans(Builder::REASONING);
    if (!partial && run.spans(Builder::CONTENT).empty() && out.tool_calls.empty() && !thoughts.empty() &&
        thoughts.back().end < answer.size()) {
        out.reasoning += answer.substr(thoughts.back().end);
    }
}

Run run_whole(const ChatPrompt & prompt, const common_peg_arena & parser, const std::string & answer, bool lenient) {
    return {parser, prompt.params.format, prompt.params.generation_prompt, answer, lenient};
}

// The answer to a request without tools.
ChatAnswer read_text(const ChatPrompt & prompt, const std::string & answer, bool partial) {
    const Run whole = run_whole(prompt, prompt.parser.parser, answer, true);
    // a schema's answer may break off, or be followed by something: then it is read as text
    const bool use_text = &prompt.text_parser() != &prompt.parser.parser && (!whole.reads_all() || whole.failed());
    if (use_text && !partial) {
        const Run text = run_whole(prompt, prompt.text_parser(), answer, true);
        return text.failed() ? all_text(answer) : from_message(text, answer.size());
    }
    if (whole.failed()) {
        return partial ? unforeseen() : all_text(answer);
    }
    ChatAnswer out = from_message(whole, answer.size());
    if (whole.needs_more()) {
        add_broken_tag(whole, answer, partial, out);
    }
    return out;
}

// Formats in which a call is a message of its own: what the parser cannot read to the end is text from there on.
ChatAnswer read_messages(const ChatPrompt & prompt, const std::string & answer, bool partial) {
    const Run strict = run_whole(prompt, prompt.parser.parser, answer, false);
    if (!partial && strict.complete()) {
        return from_message(strict, answer.size());
    }
    const Run whole = run_whole(prompt, prompt.parser.parser, answer, true);
    if (whole.failed()) {
        if (partial) {
            return unforeseen();
        }
        const Run text = run_whole(prompt, prompt.text_parser(), answer, true);
        return text.failed() || !text.reads_all() ? all_text(answer) : from_message(text, answer.size());
    }
    ChatAnswer out = from_message(whole, answer.size());
    if (partial) {
        return out;
    }
    size_t rest = whole.end();
    if (whole.needs_more() && !out.tool_calls.empty()) {
        const std::vector<Span> calls = whole.spans(Builder::TOOL);
        const std::vector<Span> done  = whole.matched(Builder::TOOL);
        if (!calls.empty() && done.size() < calls.size()) {
            out.tool_calls.resize(std::min(out.tool_calls.size(), done.size()));
            rest = calls.back().begin;
        }
    }
    if (whole.needs_more()) {
        add_broken_tag(whole, answer, partial, out);
    }
    if (skip_space(answer, rest) < answer.size()) {
        out.text += answer.substr(rest);
        out.text_spans.push_back({rest, answer.size()});
    }
    return out;
}

// Tools, in a format in which they stand in the text.
ChatAnswer read_tagged(const ChatPrompt & prompt, const std::string & answer, bool partial) {
    ChatAnswer out;
    BodyReader body(prompt, answer, partial, out);
    const Run whole = run_whole(prompt, prompt.text_parser(), answer, true);
    if (whole.failed()) {
        if (partial) {
            return unforeseen();
        }
        body.read(0);
        return out;
    }
    const std::vector<Span> thoughts = whole.spans(Builder::REASONING);
    const std::vector<Span> texts    = whole.spans(Builder::CONTENT);
    out.reasoning                    = whole.message().reasoning_content;
    out.decided                      = answer.size();
    if (texts.empty()) {
        add_broken_tag(whole, answer, partial, out);
        return out;
    }
    size_t at = texts.front().begin;
    if (!thoughts.empty() && thoughts.back().end <= at) {
        const std::string between = answer.substr(thoughts.back().end, at - thoughts.back().end);
        const auto closes         = [&](const std::string & tag) { return between.find(tag) != std::string::npos; };
        const auto & closing      = prompt.reasoning.closing;
        // Some templates let a call end the reasoning. A tag that begins none is a part of the thought, which goes on
        // to where it is closed.
        if (!closing.empty() && std::none_of(closing.begin(), closing.end(), closes) && !body.call_begins(at)) {
            const size_t begin = thoughts.front().begin;
            size_t end         = answer.size();
            size_t next        = answer.size();
            for (const std::string & tag : closing) {
                const size_t found = answer.find(tag, at);
                if (found < end) {
                    end  = found;
                    next = skip_space(answer, found + tag.size());
                }
            }
            if (end == answer.size() && !partial && body.may_become_calls(at)) {
                body.read(at);
                return out;
            }
            out.reasoning = answer.substr(begin, end - begin);
            at            = next;
        }
    }
    body.read(at);
    return out;
}

}  // namespace

ReasoningFrame find_reasoning_frame(const common_chat_params & params, const common_peg_arena & parser) {
    ReasoningFrame out;
    out.head        = params.generation_prompt;
    const auto read = [&](const std::string & head, const std::string & text, const char * reasoning,
                          const char * content) {
        const Run run(parser, params.format, head, text, true);
        return !run.failed() && run.end() == text.size() &&
               string_strip(run.message().reasoning_content) == reasoning &&
               string_strip(run.message().content) == content;
    };
    out.opened         = read(out.head, "x", "x", "");
    out.start          = params.thinking_start_tag;
    const auto thought = (out.opened ? "" : out.start) + "x";
    if (out.opened || !out.start.empty()) {
        for (const std::string & tag : params.thinking_end_tags) {
            const std::string closing = string_strip(tag);
            const bool known          = std::find(out.closing.begin(), out.closing.end(), closing) != out.closing.end();
            if (!known && read(out.head, thought + tag + "y", "x", "y")) {
                out.closing.push_back(closing);
            }
        }
    }
    if (!out.closing.empty()) {
        const std::string text = thought + out.closing.front() + "\n\ny";
        const Run run(parser, params.format, out.head, text, true);
        out.gap = run.message().content == "y" ? "\n\n" : "";
    }
    out.known = read(out.head, "x", "", "x");
    if (!out.known && !out.closing.empty() && read(out.head + out.closing.front(), "x", "", "x")) {
        out.known = true;
        out.head += out.closing.front();
    }
    return out;
}

ChatAnswer read_answer(const ChatPrompt & prompt, const std::string & answer, bool partial) {
    try {
        if (!prompt.has_tools) {
            return read_text(prompt, answer, partial);
        }
        return prompt.reasoning.known ? read_tagged(prompt, answer, partial) : read_messages(prompt, answer, partial);
    } catch (const std::exception &) {
        // a model may answer in a shape its template does not foresee; nothing of it may be lost
        return all_text(answer);
    }
}

}  // namespace darwin_neg
