#pragma once

// The order in which candidates rank, wherever the k best are kept or listed.

#include <cmath>
#include <cstdint>

// Larger logit first, ties to the lower id. NaN ranks as -inf: compared as it is, it would leave no order to sort by.
inline bool llama_neg_ranks_before(float logit_a, int32_t id_a, float logit_b, int32_t id_b) {
    const float a = std::isnan(logit_a) ? -INFINITY : logit_a;
    const float b = std::isnan(logit_b) ? -INFINITY : logit_b;
    return a != b ? a > b : id_a < id_b;
}
