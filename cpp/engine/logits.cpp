#include "logits.h"

#include <algorithm>
#include <cmath>

namespace darwin_neg {

float row_max(const float * logits, int32_t n) {
    // independent lanes, because a single running maximum is one long chain of dependent comparisons that compilers do not vectorise
    constexpr int32_t k_lanes = 32;
    float lanes[k_lanes];
    std::fill(lanes, lanes + k_lanes, -INFINITY);
    int32_t i = 0;
    for (; i + k_lanes <= n; i += k_lanes) {
        for (int32_t lane = 0; lane < k_lanes; ++lane) {
            lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
        }
    }
    float largest = -INFINITY;
    for (const float lane : lanes) {
        largest = lane > largest ? lane : largest;
    }
    for (; i < n; ++i) {
        largest = logits[i] > largest ? logits[i] : largest;
    }
    return largest;
}

int32_t row_argmax(const float * logits, int32_t n) {
    const float largest = row_max(logits, n);
    return largest > -INFINITY ? static_cast<int32_t>(std::find(logits, logits + n, largest) - logits) : -1;
}

double log_sum_exp(const float * logits, int32_t n) {
    const float largest = row_max(logits, n);
    double sum          = 0.0;
    for (int32_t i = 0; i < n; ++i) {
        sum += std::exp(static_cast<double>(logits[i] - largest));
    }
    return static_cast<double>(largest) + std::log(sum);
}

// With s = sum exp(l - max) and t = sum (l - max) exp(l - max): log s - t / s.
double row_entropy(const float * logits, int32_t n) {
    const float largest = row_max(logits, n);
    double sum          = 0.0;
    double weighted     = 0.0;
    for (int32_t i = 0; i < n; ++i) {
        const double d = static_cast<double>(logits[i]) - largest;
        const double e = std::exp(d);
        sum += e;
        weighted += e > 0.0 ? d * e : 0.0;  // -inf * 0 would be NaN
    }
    return std::max(0.0, std::log(sum) - weighted / sum);
}

std::vector<int32_t> row_top(const float * logits, int32_t n, int32_t k) {
    const auto better = [logits](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    // a heap of the k best so far, the worst of them in front: most of a large vocabulary costs one comparison each
    std::vector<int32_t> top;
    top.reserve(static_cast<size_t>(k));
    for (int32_t i = 0; i < n; ++i) {
        if (static_cast<int32_t>(top.size()) < k) {
            top.push_back(i);
            std::push_heap(top.begin(), top.end(), better);
        } else if (better(i, top.front())) {
            std::pop_heap(top.begin(), top.end(), better);
            top.back() = i;
            std::push_heap(top.begin(), top.end(), better);
        }
    }
    std::sort_heap(top.begin(), top.end(), better);
    return top;
}

}  // namespace darwin_neg
