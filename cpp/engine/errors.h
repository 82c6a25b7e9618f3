#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

// What the engine throws. Each class crosses into Python as the class of the same name in darwin_neg_cpp.errors;
// the message names the file or argument, what is wrong with it and what to do.

namespace darwin_neg {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct ModelFileError : Error {
    using Error::Error;
};

struct NegHeadError : Error {
    using Error::Error;
};

struct ContextFullError : Error {
    using Error::Error;
};

struct RequestError : Error {
    using Error::Error;
};

// llama.cpp's parsers describe errors over several lines
inline std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

}  // namespace darwin_neg
