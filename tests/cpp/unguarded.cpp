// Wrong on purpose: `make tidy` first shows that clang-tidy reports these two lines. Not compiled into any test.

#include "mutex.h"

class Counter {
public:
    int read() { return count_; }  // without the mutex
    void add() {
        darwin_neg::Lock lock(mutex_);
        lock.unlock();
        add_locked();  // no longer with it
    }

private:
    void add_locked() REQUIRES(mutex_) { ++count_; }

    darwin_neg::Mutex mutex_;
    int count_ GUARDED_BY(mutex_) = 0;
};

int main() {
    Counter counter;
    counter.add();
    return counter.read();
}
