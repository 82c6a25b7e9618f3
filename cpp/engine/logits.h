#pragma once

#include <cstdint>
#include <vector>

namespace darwin_neg {

// Arithmetic on one row of logits. A NaN counts as -inf; sums are around the maximum and in float64 over blocks, so
// that neither large logits nor a large vocabulary lose digits.

// Largest value of the row.
float row_max(const float * logits, int32_t n);

// Index of the largest value, ties to the lower one; -1 when nothing is above -inf.
int32_t row_argmax(const float * logits, int32_t n);

struct RowStats {
    double log_sum_exp;  // log(sum(exp(logits))), -inf when nothing is above -inf
    double entropy;      // -sum p log p of softmax(logits), in nats
};

RowStats row_stats(const float * logits, int32_t n);

// Indices of the k largest values in descending order, ties to the lower index. 0 < k <= n.
std::vector<int32_t> row_top(const float * logits, int32_t n, int32_t k);

}  // namespace darwin_neg
