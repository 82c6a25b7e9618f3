#include "inbox.h"

#include "scheduler.h"

#include <algorithm>

namespace darwin_neg {

Requests::~Requests() {
    release();
}

bool Requests::has(int64_t id) const {
    return std::find(ids_.begin(), ids_.end(), id) != ids_.end();
}

void Requests::cancel(int64_t id) const {
    if (has(id)) {
        scheduler_->cancel({id});
    }
}

void Requests::cancel() const {
    if (scheduler_) {
        scheduler_->cancel(ids_);
    }
}

void Requests::release(int64_t id) const noexcept {
    if (has(id)) {
        scheduler_->release(id);
    }
}

void Requests::release() const noexcept {
    for (const int64_t id : ids_) {
        scheduler_->release(id);
    }
}

}  // namespace darwin_neg
