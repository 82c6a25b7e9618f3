#pragma once

// JSON is copied, written and destroyed by recursion, and grammars are parsed by it: a text of nothing but brackets would
// exhaust the stack, and so would a chain of rules. Both functions return how many are open at once, at most; of other texts, some number.

#include <algorithm>
#include <cstddef>
#include <string>

constexpr size_t nesting_max       = 1000;
constexpr size_t grammar_rules_max = 16000; // which may each name the next one

// Position of what ends a quoted part of which `at` is the first character. A backslash protects what follows it.
inline size_t nesting_quoted_end(const std::string & text, size_t at, char end) {
    while (at < text.size() && text[at] != end) {
        at += text[at] == '\\' ? 2 : 1;
    }
    return at;
}

inline size_t json_nesting(const std::string & text) {
    size_t depth   = 0;
    size_t deepest = 0;
    for (size_t at = 0; at < text.size(); ++at) {
        const char c = text[at];
        if (c == '"') {
            at = nesting_quoted_end(text, at + 1, '"');
        } else if (c == '[' || c == '{') {
            deepest = std::max(deepest, ++depth);
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return deepest;
}

// Of llama.cpp's grammar language: groups, outside of literals, character classes and comments.
inline size_t grammar_nesting(const std::string & text) {
    size_t depth   = 0;
    size_t deepest = 0;
    for (size_t at = 0; at < text.size(); ++at) {
        const char c = text[at];
        if (c == '"') {
            at = nesting_quoted_end(text, at + 1, '"');
        } else if (c == '[') {
            at = nesting_quoted_end(text, at + 1, ']');
        } else if (c == '#') {
            at = std::min(text.find('\n', at), text.size());
        } else if (c == '(') {
            deepest = std::max(deepest, ++depth);
        } else if (c == ')' && depth > 0) {
            --depth;
        }
    }
    return deepest;
}
