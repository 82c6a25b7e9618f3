#pragma once

#include "chat_template.h"
#include "model.h"
#include "scheduler.h"
#include "scorer.h"

#include <memory>
#include <string>
#include <utility>

namespace darwin_neg {

// What the bindings hold: a model, its chat template, the scheduler that runs requests on it, and the scorer of given
// texts.
class Engine {
public:
    Engine(ModelParams params, const std::string & chat_template)
        : model_(std::move(params)),
          chat_template_(model_, chat_template),
          scorer_(model_),
          scheduler_(std::make_shared<Scheduler>(model_)) {}
    // Requests may keep the scheduler for longer than the model lives.
    ~Engine() { close(); }
    Engine(const Engine &)             = delete;
    Engine & operator=(const Engine &) = delete;

    const Model & model() const { return model_; }
    const ChatTemplate & chat_template() const { return chat_template_; }
    Scorer & scorer() { return scorer_; }
    const std::shared_ptr<Scheduler> & scheduler() const { return scheduler_; }

    void cancel_all() {
        scorer_.cancel_all();
        scheduler_->cancel_all();
    }

    // Ends everything that runs; see Scheduler::close and Scorer::close.
    void close() {
        scheduler_->close();
        scorer_.close();
    }

private:
    Model model_;
    ChatTemplate chat_template_;
    Scorer scorer_;
    std::shared_ptr<Scheduler> scheduler_;
};

}  // namespace darwin_neg
