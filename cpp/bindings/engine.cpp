#include "bindings.h"

#include "engine.h"
#include "errors.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <optional>

namespace py = pybind11;

namespace darwin_neg {

namespace {

template <typename T>
py::array_t<T> to_array(const std::vector<T> & values) {
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

template <typename T>
py::array_t<T> to_matrix(const std::vector<T> & values, py::ssize_t rows, py::ssize_t columns) {
    return py::array_t<T>({rows, columns}, values.data());
}

// None for something that was not computed
py::object or_none(bool present, py::object value) {
    return present ? std::move(value) : py::none();
}

py::dict sample_dict(const SampleUpdate & s, const Update & update) {
    const auto m        = static_cast<py::ssize_t>(s.tokens.size());
    const bool logprobs = !s.logprobs.empty();
    py::array_t<bool> active(m);
    for (py::ssize_t i = 0; update.has_neg && i < m; ++i) {
        active.mutable_at(i) = s.active[i] != 0;
    }
    py::dict out;
    out["index"]         = s.index;
    out["token_ids"]     = to_array(s.tokens);
    out["pieces"]        = s.pieces;
    out["entropy"]       = or_none(update.has_neg, to_array(s.entropy));
    out["active"]        = or_none(update.has_neg, active);
    out["logprobs"]      = or_none(logprobs, to_array(s.logprobs));
    out["top_ids"]       = or_none(logprobs && update.top_count > 0, to_matrix(s.top_ids, logprobs ? m : 0, update.top_count));
    out["top_logprobs"]  = or_none(logprobs && update.top_count > 0, to_matrix(s.top_logprobs, logprobs ? m : 0, update.top_count));
    out["finish_reason"] = s.finish_reason.empty() ? py::object(py::none()) : py::object(py::str(s.finish_reason));
    out["stop"]          = s.stop ? py::object(py::str(*s.stop)) : py::object(py::none());
    out["error"]         = s.error ? py::object(py::str(*s.error)) : py::object(py::none());
    return out;
}

py::dict update_dict(const Update & update) {
    py::list samples;
    for (const SampleUpdate & sample : update.samples) {
        samples.append(sample_dict(sample, update));
    }
    py::dict out;
    out["finished"]         = update.finished;
    out["seed"]             = update.seed;
    out["n_prompt_tokens"]  = update.n_prompt_tokens;
    out["prompt_seconds"]   = update.prompt_seconds;
    out["generate_seconds"] = update.generate_seconds;
    out["samples"]          = samples;
    return out;
}

NegAction parse_action(const std::string & name) {
    if (name == "default") {
        return NegAction::model_default;
    }
    if (name == "off") {
        return NegAction::off;
    }
    if (name == "mask") {
        return NegAction::mask;
    }
    if (name == "sample") {
        return NegAction::sample;
    }
    throw RequestError("neg action must be mask, sample or off, got '" + name + "'");
}

py::dict neg_dict(const Model & model) {
    const llama_neg_info neg = model.neg();
    py::dict out;
    out["n_embd"]       = neg.n_embd;
    out["n_reduced"]    = neg.n_reduced;
    out["threshold"]    = neg.threshold;
    out["top_k"]        = neg.top_k;
    out["temp_scale"]   = neg.temp_scale;
    out["temp_enabled"] = neg.temp_enabled;
    out["source"]       = lenient(llama_model_neg_source(model.get()));
    out["origin"]       = model.neg_origin() == NegOrigin::side_car ? "side-car" : "model file";
    return out;
}

py::dict model_info(const Engine & engine) {
    const Model & model       = engine.model();
    const llama_vocab * vocab = model.vocab();
    py::dict out;
    out["description"]       = lenient(model.description());
    out["architecture"]      = lenient(model.architecture());
    out["n_params"]          = llama_model_n_params(model.get());
    out["size_bytes"]        = llama_model_size(model.get());
    out["n_ctx_train"]       = llama_model_n_ctx_train(model.get());
    out["n_ctx"]             = model.n_ctx();
    out["n_batch"]           = model.params().n_batch;
    out["n_parallel"]        = model.params().n_parallel;
    out["n_threads"]         = model.params().n_threads;
    out["n_embd"]            = llama_model_n_embd(model.get());
    out["n_layer"]           = llama_model_n_layer(model.get());
    out["n_vocab"]           = model.n_vocab();
    out["bos"]               = llama_vocab_bos(vocab);
    out["eos"]               = llama_vocab_eos(vocab);
    out["add_bos"]           = llama_vocab_get_add_bos(vocab);
    out["neg"]               = or_none(model.neg().present, model.neg().present ? py::object(neg_dict(model)) : py::object(py::none()));
    out["chat_template"]     = or_none(engine.chat_template().available(), lenient(engine.chat_template().source()));
    out["supports_thinking"] = engine.chat_template().supports_thinking();
    return out;
}

py::dict stats_dict(const Stats & s) {
    py::dict out;
    out["n_prompt_decoded"] = s.n_prompt_decoded;
    out["n_recomputed"]     = s.n_recomputed;
    out["n_generated"]      = s.n_generated;
    out["n_steps"]          = s.n_steps;
    out["n_preempted"]      = s.n_preempted;
    out["n_requests"]       = s.n_requests;
    out["n_waiting"]        = s.n_waiting;
    out["n_running"]        = s.n_running;
    out["n_seq_used"]       = s.n_seq_used;
    out["kv_cells_used"]    = s.kv_cells_used;
    return out;
}

// The engine with an end: Python may close it while other threads still hold the object.
class Handle {
public:
    explicit Handle(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
    ~Handle() { close(); }
    Handle(const Handle &)             = delete;
    Handle & operator=(const Handle &) = delete;

    // Each call keeps the engine alive for its own duration, so closing never pulls it from under another thread.
    std::shared_ptr<Engine> get() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!engine_) {
            throw Error("the model is closed");
        }
        return engine_;
    }

    void close() {
        std::shared_ptr<Engine> engine;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            engine.swap(engine_);
        }
        if (!engine) {
            return;
        }
        const py::gil_scoped_release unlocked;
        engine->scheduler().close();
        engine.reset();
    }

private:
    mutable std::mutex mutex_;  // guards engine_
    std::shared_ptr<Engine> engine_;
};

std::unique_ptr<Handle> open_engine(const std::string & model_path, const std::optional<std::string> & neg_path, uint32_t n_ctx,
                                    uint32_t n_batch, uint32_t n_ubatch, uint32_t n_parallel, int32_t n_threads, int32_t n_threads_batch,
                                    int32_t n_gpu_layers, int32_t main_gpu, const std::string & split_mode, const std::string & flash_attn,
                                    const std::string & type_k, const std::string & type_v, bool use_mmap, bool use_mlock,
                                    const std::optional<std::string> & chat_template, const std::optional<py::function> & progress) {
    ModelParams p;
    p.model_path      = model_path;
    p.neg_path        = neg_path.value_or("");
    p.n_ctx           = n_ctx;
    p.n_batch         = n_batch;
    p.n_ubatch        = n_ubatch;
    p.n_parallel      = n_parallel;
    p.n_threads       = n_threads;
    p.n_threads_batch = n_threads_batch;
    p.n_gpu_layers    = n_gpu_layers;
    p.main_gpu        = main_gpu;
    p.split_mode      = split_mode;
    p.flash_attn      = flash_attn;
    p.type_k          = type_k;
    p.type_v          = type_v;
    p.use_mmap        = use_mmap;
    p.use_mlock       = use_mlock;

    // an exception raised by the callback (Ctrl-C among them) stops the load and is raised again below
    std::exception_ptr raised;
    if (progress) {
        p.progress = [&](float fraction) {
            const py::gil_scoped_acquire locked;
            try {
                return (*progress)(fraction).cast<bool>();
            } catch (...) {
                raised = std::current_exception();
                return false;
            }
        };
    }
    std::shared_ptr<Engine> engine;
    try {
        const py::gil_scoped_release unlocked;
        engine = std::make_shared<Engine>(p, chat_template.value_or(""));
    } catch (...) {
        if (raised) {
            std::rethrow_exception(raised);
        }
        throw;
    }
    return std::make_unique<Handle>(std::move(engine));
}

}  // namespace

void bind_engine(py::module_ & m) {
    m.def(
        "sample_seed", [](int64_t seed, int32_t index) { return sample_seed(fold_seed(seed), index); }, py::arg("seed"), py::arg("index"));
    py::class_<ChatPrompt, std::shared_ptr<ChatPrompt>>(m, "ChatPrompt")
        .def_property_readonly("prompt", [](const ChatPrompt & p) { return lenient(p.params.prompt); })
        .def_property_readonly("stops", [](const ChatPrompt & p) { return p.params.additional_stops; })
        .def_property_readonly("supports_thinking", [](const ChatPrompt & p) { return p.params.supports_thinking; });

    py::class_<Handle>(m, "Engine")
        .def(py::init(&open_engine), py::arg("model_path"), py::kw_only(), py::arg("neg_path") = py::none(), py::arg("n_ctx") = 4096,
             py::arg("n_batch") = 512, py::arg("n_ubatch") = 512, py::arg("n_parallel") = 8, py::arg("n_threads") = 0,
             py::arg("n_threads_batch") = 0, py::arg("n_gpu_layers") = -1, py::arg("main_gpu") = 0, py::arg("split_mode") = "layer",
             py::arg("flash_attn") = "auto", py::arg("type_k") = "f16", py::arg("type_v") = "f16", py::arg("use_mmap") = true,
             py::arg("use_mlock") = false, py::arg("chat_template") = py::none(), py::arg("progress") = py::none())
        .def("close", &Handle::close)
        .def("model_info", [](const Handle & h) { return model_info(*h.get()); })
        .def("metadata",
             [](const Handle & h) {
                 py::dict out;
                 for (const auto & [key, value] : h.get()->model().metadata()) {
                     out[lenient(key)] = lenient(value);
                 }
                 return out;
             })
        .def(
            "tokenize",
            [](const Handle & h, const py::bytes & text, bool add_special, bool parse_special) {
                const std::string bytes = text;
                const py::gil_scoped_release unlocked;
                return h.get()->model().tokenize(bytes, add_special, parse_special);
            },
            py::arg("text"), py::arg("add_special"), py::arg("parse_special"))
        .def(
            "detokenize",
            [](const Handle & h, const std::vector<llama_token> & tokens, bool special) {
                return py::bytes(h.get()->model().detokenize(tokens, special));
            },
            py::arg("tokens"), py::arg("special"))
        .def(
            "submit",
            [](const Handle & h, std::vector<std::vector<llama_token>> prompts, int32_t n, int32_t max_tokens,
               const std::vector<float> & temperature, int32_t top_k, float top_p, float min_p, float typical_p, float repeat_penalty,
               int32_t repeat_last_n, float frequency_penalty, float presence_penalty, int64_t seed, const std::vector<py::bytes> & stop,
               const std::vector<std::pair<llama_token, float>> & logit_bias, int32_t logprobs, const std::string & grammar,
               const std::string & json_schema, bool ignore_eos, const std::string & neg_action, std::optional<float> neg_threshold,
               int32_t neg_top_k, int32_t neg_use_temp_scale, bool stream, std::shared_ptr<ChatPrompt> chat) {
                RequestParams p;
                p.n                 = n;
                p.max_tokens        = max_tokens;
                p.temperatures      = temperature;
                p.top_k             = top_k;
                p.top_p             = top_p;
                p.min_p             = min_p;
                p.typical_p         = typical_p;
                p.repeat_penalty    = repeat_penalty;
                p.repeat_last_n     = repeat_last_n;
                p.frequency_penalty = frequency_penalty;
                p.presence_penalty  = presence_penalty;
                p.seed              = seed;
                p.stop              = std::vector<std::string>(stop.begin(), stop.end());
                p.logit_bias        = logit_bias;
                p.logprobs          = logprobs;
                p.grammar           = grammar;
                p.json_schema       = json_schema;
                p.ignore_eos        = ignore_eos;
                p.neg_action        = parse_action(neg_action);
                if (neg_threshold) {
                    if (std::isnan(*neg_threshold)) {
                        throw RequestError("neg threshold must be a number of nats, got NaN");
                    }
                    p.neg_threshold = *neg_threshold;
                }
                p.neg_top_k          = neg_top_k;
                p.neg_use_temp_scale = neg_use_temp_scale;
                p.stream             = stream;
                p.chat               = std::move(chat);
                const auto engine    = h.get();
                const py::gil_scoped_release unlocked;
                return engine->scheduler().submit(std::move(prompts), p);
            },
            py::arg("prompts"), py::kw_only(), py::arg("n"), py::arg("max_tokens"), py::arg("temperature"), py::arg("top_k"),
            py::arg("top_p"), py::arg("min_p"), py::arg("typical_p"), py::arg("repeat_penalty"), py::arg("repeat_last_n"),
            py::arg("frequency_penalty"), py::arg("presence_penalty"), py::arg("seed"), py::arg("stop"), py::arg("logit_bias"),
            py::arg("logprobs"), py::arg("grammar"), py::arg("json_schema"), py::arg("ignore_eos"), py::arg("neg_action"),
            py::arg("neg_threshold"), py::arg("neg_top_k"), py::arg("neg_use_temp_scale"), py::arg("stream"), py::arg("chat") = py::none())
        .def(
            "wait",
            [](const Handle & h, int64_t id, double timeout) -> py::object {
                const auto engine = h.get();
                std::optional<Update> update;
                {
                    const py::gil_scoped_release unlocked;
                    update = engine->scheduler().wait(id, std::chrono::duration<double>(timeout));
                }
                return update ? py::object(update_dict(*update)) : py::object(py::none());
            },
            py::arg("request_id"), py::arg("timeout"))
        .def(
            "wait_any",
            [](const Handle & h, double timeout) {
                const auto engine = h.get();
                const py::gil_scoped_release unlocked;
                return engine->scheduler().wait_any(std::chrono::duration<double>(timeout));
            },
            py::arg("timeout"))
        .def(
            "cancel",
            [](const Handle & h, int64_t id) {
                const auto engine = h.get();
                const py::gil_scoped_release unlocked;
                engine->scheduler().cancel(id);
            },
            py::arg("request_id"))
        .def("cancel_all",
             [](const Handle & h) {
                 const auto engine = h.get();
                 const py::gil_scoped_release unlocked;
                 engine->scheduler().cancel_all();
             })
        .def(
            "release",
            [](const Handle & h, int64_t id) {
                const auto engine = h.get();
                const py::gil_scoped_release unlocked;
                engine->scheduler().release(id);
            },
            py::arg("request_id"))
        .def("stats", [](const Handle & h) { return stats_dict(h.get()->scheduler().stats()); })
        .def(
            "evaluate",
            [](const Handle & h, const std::vector<std::vector<llama_token>> & texts, bool hidden, bool logits, int32_t top) {
                const auto engine = h.get();
                Evaluation e;
                {
                    const py::gil_scoped_release unlocked;
                    e = engine->evaluate(texts, {hidden, logits, top});
                }
                const py::ssize_t n = e.n_tokens;
                py::dict out;
                out["predicted_entropy"] = or_none(engine->model().neg().present, to_array(e.predicted_entropy));
                out["true_entropy"]      = to_array(e.true_entropy);
                out["logprobs"]          = to_array(e.logprobs);
                out["top_ids"]           = or_none(top > 0, to_matrix(e.top_ids, n, top));
                out["top_logprobs"]      = or_none(top > 0, to_matrix(e.top_logprobs, n, top));
                out["hidden"]            = or_none(hidden, to_matrix(e.hidden, hidden ? n : 0, e.n_embd));
                out["logits"]            = or_none(logits, to_matrix(e.logits, logits ? n : 0, e.n_vocab));
                return out;
            },
            py::arg("texts"), py::kw_only(), py::arg("hidden") = false, py::arg("logits") = false, py::arg("top") = 0)
        .def(
            "apply_chat_template",
            [](const Handle & h, const std::string & messages_json, const std::string & tools_json, const std::string & tool_choice,
               bool enable_thinking, bool add_generation_prompt, const std::string & template_kwargs_json, const std::string & grammar,
               const std::string & json_schema) {
                ChatRequest r;
                r.messages_json         = messages_json;
                r.tools_json            = tools_json;
                r.tool_choice           = tool_choice;
                r.enable_thinking       = enable_thinking;
                r.add_generation_prompt = add_generation_prompt;
                r.template_kwargs_json  = template_kwargs_json;
                r.grammar               = grammar;
                r.json_schema           = json_schema;
                const auto engine       = h.get();
                const py::gil_scoped_release unlocked;
                return std::const_pointer_cast<ChatPrompt>(engine->chat_template().apply(r));
            },
            py::arg("messages_json"), py::kw_only(), py::arg("tools_json") = "", py::arg("tool_choice") = "auto",
            py::arg("enable_thinking") = true, py::arg("add_generation_prompt") = true, py::arg("template_kwargs_json") = "",
            py::arg("grammar") = "", py::arg("json_schema") = "")
        .def(
            "parse_chat",
            [](const Handle &, const std::string & text, const ChatPrompt & prompt, bool partial) {
                return lenient(parse_chat(text, prompt, partial));
            },
            py::arg("text"), py::arg("prompt"), py::arg("partial"));
}

}  // namespace darwin_neg
