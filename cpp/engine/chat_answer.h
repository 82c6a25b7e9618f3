#pragma once

#include "chat.h"

#include <cstddef>
#include <string>
#include <vector>

namespace darwin_neg {

struct ChatPrompt;

// What an answer consists of. Nothing of it is lost: what is neither reasoning nor a complete call is text.
struct ChatAnswer {
    // Bytes [begin, end) of the answer as generated.
    struct Span {
        size_t begin;
        size_t end;
    };

    std::string reasoning;
    std::string text;
    std::vector<common_chat_tool_call> tool_calls;
    std::vector<Span> text_spans;  // where `text` was taken from
    size_t decided  = 0;           // from here on it is open what the bytes are: they may become a call
    bool unforeseen = false;       // not in the template's format: in the end it will all be text
};

// Reads an answer, or with `partial` the beginning of one, of which what may still become a call is left out.
ChatAnswer read_answer(const ChatPrompt & prompt, const std::string & answer, bool partial);

// What a prompt's template makes of its reasoning, found out by reading sample answers with the template's own parser.
struct ReasoningFrame {
    bool opened = false;               // the prompt ends inside the reasoning
    std::string start;                 // tag that opens it, "" when unknown
    std::vector<std::string> closing;  // tags after which the visible text follows
    std::string gap;                   // space between the two that is a part of neither
    // Text after which an answer's visible text begins: the generation prompt, with the reasoning closed. Not `known`
    // for templates that put more than a tag between the two.
    bool known = false;
    std::string head;
};

ReasoningFrame find_reasoning_frame(const common_chat_params & params, const common_peg_arena & parser);

}  // namespace darwin_neg
