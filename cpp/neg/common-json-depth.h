#pragma once

// JSON is copied, written and destroyed by recursion, so that a text of nothing but brackets would exhaust the stack.

#include <algorithm>
#include <cstddef>
#include <string>

constexpr size_t common_json_depth_max = 1000;

// How many arrays and objects of a JSON text are open at once, at most. Of other text: some number.
inline size_t common_json_depth(const std::string & text) {
    size_t depth     = 0;
    size_t deepest   = 0;
    bool   in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            i += c == '\\' ? 1 : 0;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            deepest = std::max(deepest, ++depth);
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return deepest;
}
