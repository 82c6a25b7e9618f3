// Arithmetic on rows of logits against plain loops, at lengths around the vector width, with infinities, NaN, ties.

#include "logits.h"

#include "check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

using namespace darwin_neg;

static int32_t plain_argmax(const std::vector<float> & row) {
    int32_t best  = -1;
    float largest = -INFINITY;
    for (size_t i = 0; i < row.size(); ++i) {
        if (row[i] > largest) {
            best    = static_cast<int32_t>(i);
            largest = row[i];
        }
    }
    return best;
}

static std::vector<int32_t> plain_top(const std::vector<float> & row, int32_t k) {
    std::vector<int32_t> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    const auto value = [&](int32_t i) { return std::isnan(row[i]) ? -INFINITY : row[i]; };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
    order.resize(k);
    return order;
}

int main() {
    std::mt19937 rng(3);
    for (int round = 0; round < 4000; ++round) {
        const auto n = static_cast<int32_t>(1 + rng() % (round % 100 == 0 ? 50000 : 200));
        std::vector<float> row(n);
        const bool ties = rng() % 2 == 0;
        for (float & x : row) {
            x = ties ? static_cast<float>(rng() % 5) : std::normal_distribution<float>(0, 10)(rng);
            if (rng() % 10 == 0) {
                x = -INFINITY;
            }
        }
        CHECK(row_argmax(row.data(), n) == plain_argmax(row));
        const auto k = static_cast<int32_t>(1 + rng() % std::min(n, 300));
        CHECK(row_top(row.data(), n, k) == plain_top(row, k));
        if (plain_argmax(row) >= 0) {
            long double sum      = 0;
            long double weighted = 0;
            const float largest  = *std::max_element(row.begin(), row.end());
            for (const float x : row) {
                sum += std::exp(static_cast<long double>(x) - largest);
            }
            for (const float x : row) {
                const long double p = std::exp(static_cast<long double>(x) - largest) / sum;
                weighted -= p > 0 ? p * std::log(p) : 0;
            }
            const RowStats stats = row_stats(row.data(), n);
            CHECK(std::abs(stats.log_sum_exp - static_cast<double>(largest + std::log(sum))) < 1e-6);
            CHECK(std::abs(stats.entropy - static_cast<double>(weighted)) < 2e-6);
        }
        for (uint32_t count = 1 + rng() % 3; count > 0; --count) {
            row[rng() % n] = NAN;
        }
        CHECK(row_argmax(row.data(), n) == plain_argmax(row));
        CHECK(row_top(row.data(), n, k) == plain_top(row, k));
    }
    const std::vector<float> nothing(70, -INFINITY);
    CHECK(row_argmax(nothing.data(), 70) == -1);
    CHECK(row_argmax(nothing.data(), 0) == -1);
    CHECK(row_stats(nothing.data(), 70).log_sum_exp == -INFINITY && row_stats(nothing.data(), 70).entropy == 0);
    const std::vector<float> with_nan = {0.0F, NAN, 0.0F};
    CHECK(std::abs(row_stats(with_nan.data(), 3).entropy - std::log(2.0)) < 1e-6);
    return check_result("test-logits");
}
