#pragma once

#include <atomic>
#include <cstdint>
#include <map>
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

// The types that `quantize` would give to those tensors whose type it changes, by name. Nothing is written.
// with_imatrix: as with an importance matrix, which some choices depend on.
std::map<std::string, std::string> quantized_types(const std::string & model, int32_t ftype, bool with_imatrix);

// The number of values that an importance matrix holds for each tensor. Throws ModelFileError for any other file.
std::map<std::string, size_t> imatrix_sizes(const std::string & path);

}  // namespace darwin_neg
