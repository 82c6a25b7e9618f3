#pragma once

#include "chat_template.h"
#include "model.h"
#include "request.h"
#include "scheduler.h"

#include <memory>
#include <string>
#include <vector>

namespace darwin_neg {

// Every position of one text, evaluated with the tokens given ("teacher-forced") in a context of its own.
struct Evaluation {
    int32_t n_tokens = 0;
    int32_t n_embd   = 0;
    int32_t n_vocab  = 0;
    std::vector<float> predicted_entropy;  // [n_tokens], nats; empty without a NEG head
    std::vector<float> true_entropy;       // [n_tokens], nats, of the model's own next-token distribution
    std::vector<float> hidden;             // [n_tokens, n_embd], the LM head's input; empty unless asked for
    std::vector<float> logits;             // [n_tokens, n_vocab]; empty unless asked for
};

// What the bindings hold: a model, its chat template and the scheduler that runs requests on it.
class Engine {
public:
    Engine(ModelParams params, const std::string & chat_template);

    const Model & model() const { return model_; }
    const ChatTemplate & chat_template() const { return chat_template_; }
    Scheduler & scheduler() { return scheduler_; }

    // Runs on the calling thread. `n_batch` tokens at a time, so memory does not grow with the text unless logits are kept.
    Evaluation evaluate(const std::vector<llama_token> & tokens, bool hidden, bool logits) const;

private:
    Model model_;
    ChatTemplate chat_template_;
    Scheduler scheduler_;
};

}  // namespace darwin_neg
