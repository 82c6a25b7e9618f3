#pragma once

#include <atomic>
#include <cmath>
#include <cstdio>

// Counts failures and continues, so that one run shows all of them; main returns check_result(). Any thread may check.

inline std::atomic<int> & check_failures() {
    static std::atomic<int> failures = 0;
    return failures;
}

inline void check(bool ok, const char * what, const char * file, int line) {
    if (!ok) {
        if (check_failures() < 20) {
            std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
        }
        ++check_failures();
    }
}

inline int check_result(const char * name) {
    std::printf("%s: %s\n", name, check_failures() == 0 ? "ok" : "FAILED");
    return check_failures() == 0 ? 0 : 1;
}

#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)
