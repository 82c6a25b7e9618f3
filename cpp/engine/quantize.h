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

// Writes `out` through llama.cpp's quantizer. ftype: an llama_ftype. imatrix: a
// file of llama-imatrix, or empty. n_threads <= 0: all. The file is complete when this returns; `out`
// is overwritten. Throws ModelFileError for an input that cannot be read, RequestError for a type that cannot be had from it, Error
// when cancelled.
void quantize(const std::string & model, const std::string & out, int32_t ftype, const std::string & imatrix, bool allow_requantize,
              int32_t n_threads, QuantizeProgress & progress);

}  // namespace darwin_neg
