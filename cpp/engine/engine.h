#pragma once

#include "chat_template.h"
#include "model.h"
#include "request.h"
#include "scheduler.h"

#include <memory>
#include <string>
#include <vector>

namespace darwin_neg {

// Every position of some texts, one text behind the other, evaluated with the tokens given ("teacher-forced").
struct Evaluation {
    int32_t n_tokens = 0;  // of all texts
    int32_t n_embd   = 0;
    int32_t n_vocab  = 0;
    std::vector<float> predicted_entropy;  // [n_tokens], nats; empty without a NEG head
    std::vector<float> true_entropy;       // [n_tokens], nats, of the model's own next-token distribution
    std::vector<float> logprobs;           // [n_tokens], of the text's next token, nats; NaN at the end of a text
    std::vector<int32_t> top_ids;          // [n_tokens, n_top], the likeliest next tokens
    std::vector<float> top_logprobs;       // [n_tokens, n_top]
    std::vector<float> hidden;             // [n_tokens, n_embd], the LM head's input; empty unless asked for
    std::vector<float> logits;             // [n_tokens, n_vocab]; empty unless asked for
};

struct EvaluationParts {
    bool hidden   = false;
    bool logits   = false;
    int32_t n_top = 0;  // at most n_vocab
};

// What the bindings hold: a model, its chat template and the scheduler that runs requests on it.
class Engine {
public:
    Engine(ModelParams params, const std::string & chat_template);

    const Model & model() const { return model_; }
    const ChatTemplate & chat_template() const { return chat_template_; }
    Scheduler & scheduler() { return scheduler_; }

    // Runs on the calling thread in a context of its own, several texts in a batch. Of the logits no more rows are held at once than fit
    // into a fixed amount of memory, unless they are asked for. Throws RequestError or ContextFullError.
    Evaluation evaluate(const std::vector<std::vector<llama_token>> & texts, const EvaluationParts & parts) const;

private:
    void check_texts(const std::vector<std::vector<llama_token>> & texts) const;
    struct Rows;
    void decode_all_rows(llama_context * context, const Rows & rows, const EvaluationParts & parts, Evaluation & out) const;

    Model model_;
    ChatTemplate chat_template_;
    Scheduler scheduler_;
};

}  // namespace darwin_neg
