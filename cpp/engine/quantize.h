#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace darwin_neg {

// Shared between the thread that quantizes and those that watch it.
struct QuantizeProgress {
    std::atomic<int32_t> done{0};   // tensors
    std::atomic<int32_t> total{0};  // 0 until the first one is done
    std::atomic<bool> cancel{false};
};

// Writes `out` with llama.cpp's quantizer, over any file that is there; it is complete when this returns. ftype: an
// llama_ftype. imatrix: a file made by llama-imatrix, or empty. n_threads <= 0: all. Throws ModelFileError for an input
// that cannot be read, RequestError for a type that the input cannot be converted to, Error when cancelled.
void quantize(const std::string & model, const std::string & out, int32_t ftype, const std::string & imatrix,
              bool allow_requantize, int32_t n_threads, QuantizeProgress & progress);

}  // namespace darwin_neg
