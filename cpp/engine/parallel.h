#pragma once

#include <cstdint>
#include <functional>

namespace darwin_neg {

// Calls work(i) once for every i in [0, n), on the calling thread and up to n_threads - 1 others, and returns when all
// are done. If calls throw, calls that have not begun are left out, and the first exception is thrown again once the
// others have ended. The order of the calls is not defined. `work` must not call parallel_for.
void parallel_for(int32_t n, int32_t n_threads, const std::function<void(int32_t)> & work);

}  // namespace darwin_neg
