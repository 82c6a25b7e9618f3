#include "logits.h"

#include "llama-neg-rank.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace darwin_neg {

float row_max(const float * logits, int32_t n) {
    // independent lanes, because a single running maximum is one long chain of dependent comparisons that compilers do
    // not vectorise
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

namespace {

// exp(x) for -87 <= x <= 0 within 1e-7 of it, in a form that compilers vectorise, unlike a call of the library.
// x = k ln 2 + r with ln 2 in two parts so that k ln 2 is exact; the polynomial for e^r, |r| <= ln(2)/2, is that of
// Cephes (S. Moshier).
inline float exp_of_negative(float x) {
    const auto k   = static_cast<int32_t>(x * 1.44269504F - 0.5F);
    const float kf = static_cast<float>(k);
    const float r  = (x - kf * 0.693359375F) + kf * 2.12194440e-4F;
    float p        = 1.9875691500e-4F;
    p              = p * r + 1.3981999507e-3F;
    p              = p * r + 8.3334519073e-3F;
    p              = p * r + 4.1665795894e-2F;
    p              = p * r + 1.6666665459e-1F;
    p              = p * r + 5.0000001201e-1F;
    // 2^k by its bits; k > -127
    const int32_t bits = (k + 127) * (1 << 23);
    float power;
    std::memcpy(&power, &bits, sizeof(power));
    return (p * r * r + r + 1.0F) * power;
}

}  // namespace

// With s = sum exp(l - max) and t = sum (l - max) exp(l - max): log sum exp = max + log s, entropy = log s - t / s.
// Short sums in float, long ones in double.
RowStats row_stats(const float * logits, int32_t n) {
    constexpr int32_t k_lanes = 16;
    constexpr int32_t k_block = 128 * k_lanes;
    const float largest       = row_max(logits, n);
    if (!(largest > -INFINITY)) {
        return {-INFINITY, 0.0};
    }
    double sum      = 0.0;
    double weighted = 0.0;
    // the floor has a loop of its own: beside the exponential, whose value at the floor is a constant, compilers branch
    // on it, and a loop with a branch is not vectorised (GCC 12: four times slower)
    float below[k_block];
    for (int32_t begin = 0; begin < n; begin += k_block) {
        const int32_t size = std::min(n - begin, k_block);
        for (int32_t i = 0; i < size; ++i) {
            const float d = logits[begin + i] - largest;
            // what is left out is below 1e-37 of the whole; takes in -inf, and NaN, with which no comparison holds
            below[i] = d > -87.0F ? d : -87.0F;
        }
        float sums[k_lanes]          = {};
        float weighted_sums[k_lanes] = {};
        int32_t i                    = 0;
        for (; i + k_lanes <= size; i += k_lanes) {
            for (int32_t lane = 0; lane < k_lanes; ++lane) {
                const float e = exp_of_negative(below[i + lane]);
                sums[lane] += e;
                weighted_sums[lane] += below[i + lane] * e;
            }
        }
        for (; i < size; ++i) {
            const float e = exp_of_negative(below[i]);
            sums[0] += e;
            weighted_sums[0] += below[i] * e;
        }
        for (int32_t lane = 0; lane < k_lanes; ++lane) {
            sum += sums[lane];
            weighted += weighted_sums[lane];
        }
    }
    return {static_cast<double>(largest) + std::log(sum), std::max(0.0, std::log(sum) - weighted / sum)};
}

std::vector<int32_t> row_top(const float * logits, int32_t n, int32_t k) {
    const auto better = [logits](int32_t a, int32_t b) { return llama_neg_ranks_before(logits[a], a, logits[b], b); };
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
