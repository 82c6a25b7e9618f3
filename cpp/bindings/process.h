#pragma once

#include "errors.h"

#include <string>

#ifdef _WIN32
#include <process.h>
#else
#include <unistd.h>
#endif

namespace darwin_neg {

// The process that loaded a model. A forked child has the memory but not the threads: whatever it asked of the engine
// would wait for ever, for an answer or for a lock that one of the missing threads holds.
class Process {
public:
    bool is_this() const { return id_ == current(); }

    // Throws Error in any other process.
    void require_this() const {
        if (!is_this()) {
            throw Error("the model was loaded in another process (" + std::to_string(id_) +
                        "); start child processes with multiprocessing's 'spawn' method and load the model there");
        }
    }

private:
    static int current() {
#ifdef _WIN32
        return _getpid();
#else
        return getpid();
#endif
    }

    int id_ = current();
};

}  // namespace darwin_neg
