#include "bindings.h"

#include "engine.h"
#include "errors.h"
#include "gil.h"
#include "process.h"

#include "llama-devices.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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
    py::array_t<bool> ends_inside(m);
    py::array_t<bool> active(m);
    for (py::ssize_t i = 0; i < m; ++i) {
        ends_inside.mutable_at(i) = static_cast<size_t>(i) < s.ends_inside.size() && s.ends_inside[i] != 0;
    }
    for (py::ssize_t i = 0; update.has_neg && i < m; ++i) {
        active.mutable_at(i) = s.active[i] != 0;
    }
    py::dict out;
    out["index"]        = s.index;
    out["token_ids"]    = to_array(s.tokens);
    out["pieces"]       = s.pieces;
    out["ends_inside"]  = ends_inside;
    out["entropy"]      = or_none(update.has_neg, to_array(s.entropy));
    out["active"]       = or_none(update.has_neg, active);
    out["true_entropy"] = or_none(update.has_true_entropy, to_array(s.true_entropy));
    out["logprobs"]     = or_none(logprobs, to_array(s.logprobs));
    out["top_ids"] =
        or_none(logprobs && update.top_count > 0, to_matrix(s.top_ids, logprobs ? m : 0, update.top_count));
    out["top_logprobs"] =
        or_none(logprobs && update.top_count > 0, to_matrix(s.top_logprobs, logprobs ? m : 0, update.top_count));
    out["finish_reason"] = s.finish_reason == nullptr ? py::object(py::none()) : py::object(py::str(s.finish_reason));
    out["stop"]          = s.stop ? py::object(lenient(*s.stop)) : py::object(py::none());
    out["error"]         = s.error ? py::object(lenient(*s.error)) : py::object(py::none());
    return out;
}

py::dict update_dict(const Update & update) {
    py::list samples;
    for (const SampleUpdate & sample : update.samples) {
        samples.append(sample_dict(sample, update));
    }
    py::dict out;
    out["request"]          = update.request;
    out["finished"]         = update.finished;
    out["seed"]             = update.seed;
    out["n_prompt_tokens"]  = update.n_prompt_tokens;
    out["n_cached_tokens"]  = update.n_cached_tokens;
    out["neg_threshold"]    = or_none(update.has_neg, py::float_(update.neg_threshold));
    out["prompt_seconds"]   = update.prompt_seconds;
    out["generate_seconds"] = update.generate_seconds;
    out["samples"]          = samples;
    return out;
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

py::dict devices_of(const Model & model) {
    py::list layers;
    const int32_t n_layer = llama_model_n_layer(model.get());
    for (int32_t il = 0; il < n_layer; ++il) {
        layers.append(llama_model_device(model.get(), il));
    }
    const std::string neg = llama_model_neg_device(model.get());
    py::dict out;
    out["layers"] = layers;
    out["output"] = llama_model_device(model.get(), n_layer);
    out["neg"]    = or_none(!neg.empty(), py::str(neg));
    return out;
}

py::dict model_info(const Engine & engine) {
    const Model & model       = engine.model();
    const llama_vocab * vocab = model.vocab();
    py::dict out;
    out["description"]  = lenient(model.description());
    out["architecture"] = lenient(model.architecture());
    out["n_params"]     = llama_model_n_params(model.get());
    out["size_bytes"]   = llama_model_size(model.get());
    out["n_ctx_train"]  = llama_model_n_ctx_train(model.get());
    out["n_ctx"]        = model.n_ctx();
    out["n_batch"]      = model.params().n_batch;
    out["n_parallel"]   = model.params().n_parallel;
    out["prefix_cache"] = model.params().prefix_cache;
    out["n_threads"]    = model.params().n_threads;
    out["n_embd"]       = llama_model_n_embd(model.get());
    out["n_layer"]      = llama_model_n_layer(model.get());
    out["n_vocab"]      = model.n_vocab();
    out["bos"]          = llama_vocab_bos(vocab);
    out["eos"]          = llama_vocab_eos(vocab);
    out["add_bos"]      = llama_vocab_get_add_bos(vocab);
    out["neg"] =
        or_none(model.neg().present, model.neg().present ? py::object(neg_dict(model)) : py::object(py::none()));
    out["devices"]           = devices_of(model);
    out["chat_template"]     = or_none(engine.chat_template().available(), lenient(engine.chat_template().source()));
    out["supports_thinking"] = engine.chat_template().supports_thinking();
    return out;
}

py::dict stats_dict(const Stats & s) {
    py::dict out;
    out["n_prompt_decoded"] = s.n_prompt_decoded;
    out["n_prompt_reused"]  = s.n_prompt_reused;
    out["n_recomputed"]     = s.n_recomputed;
    out["n_generated"]      = s.n_generated;
    out["n_steps"]          = s.n_steps;
    out["n_preempted"]      = s.n_preempted;
    out["n_requests"]       = s.n_requests;
    out["n_waiting"]        = s.n_waiting;
    out["n_running"]        = s.n_running;
    out["n_seq_used"]       = s.n_seq_used;
    out["kv_cells_used"]    = s.kv_cells_used;
    out["n_prefixes"]       = s.n_prefixes;
    out["prefix_bytes"]     = s.prefix_bytes;
    out["drafted"]          = s.drafted;
    out["draft_accepted"]   = s.draft_accepted;
    return out;
}

py::dict scores_dict(const Scores & s, const ScoreParts & parts, bool has_neg) {
    const py::ssize_t n = s.n_tokens;
    py::dict out;
    out["predicted_entropy"] = or_none(has_neg, to_array(s.predicted_entropy));
    out["true_entropy"]      = to_array(s.true_entropy);
    out["logprobs"]          = to_array(s.logprobs);
    out["top_ids"]           = or_none(parts.n_top > 0, to_matrix(s.top_ids, n, parts.n_top));
    out["top_logprobs"]      = or_none(parts.n_top > 0, to_matrix(s.top_logprobs, n, parts.n_top));
    out["hidden"]            = or_none(parts.hidden, to_matrix(s.hidden, parts.hidden ? n : 0, s.n_embd));
    out["logits"]            = or_none(parts.logits, to_matrix(s.logits, parts.logits ? n : 0, s.n_vocab));
    return out;
}

// Everything Python holds of an engine checks first whether it is in the process that loaded the model. In another one
// calls throw, and destructors leave what they own alone: it cannot be taken apart there, and the process will end.
template <typename T>
void leave_alone(T && owned) {
    new std::decay_t<T>(std::forward<T>(owned));  // never freed
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
        process_.require_this();
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!engine_) {
            throw Error("the model is closed");
        }
        return engine_;
    }

    void close() {
        if (!process_.is_this()) {
            leave_alone(std::move(engine_));
            return;
        }
        std::shared_ptr<Engine> engine;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            engine.swap(engine_);
        }
        if (engine) {
            const WithoutGil unlocked;
            engine->close();
            engine.reset();
        }
    }

    const Process & process() const { return process_; }

private:
    Process process_;
    mutable std::mutex mutex_;  // guards engine_
    std::shared_ptr<Engine> engine_;
};

class InboxHandle {
public:
    InboxHandle(Process process, std::shared_ptr<Scheduler> scheduler)
        : process_(process), scheduler_(std::move(scheduler)), inbox_(scheduler_->inbox()) {}
    ~InboxHandle() {
        if (!process_.is_this()) {
            leave_alone(std::move(scheduler_));
        }
    }
    InboxHandle(const InboxHandle &)             = delete;
    InboxHandle & operator=(const InboxHandle &) = delete;

    const std::shared_ptr<Inbox> & get() const { return inbox_; }

    std::optional<Update> wait(std::optional<double> timeout) const {
        process_.require_this();
        constexpr double k_for_ever = 1e9;  // seconds
        std::optional<Update> update;
        wait_with_signals(std::min(timeout.value_or(k_for_ever), k_for_ever), [&](double seconds) {
            update = scheduler_->wait(*inbox_, std::chrono::duration<double>(seconds));
            return update.has_value() || scheduler_->ended(*inbox_);
        });
        return update;
    }

    void close() const {
        process_.require_this();
        const WithoutGil unlocked;
        scheduler_->close_inbox(*inbox_);
    }

private:
    Process process_;
    std::shared_ptr<Scheduler> scheduler_;
    std::shared_ptr<Inbox> inbox_;
};

class RequestsHandle {
public:
    RequestsHandle(Process process, Requests requests) : process_(process), requests_(std::move(requests)) {}
    ~RequestsHandle() {
        if (!process_.is_this()) {
            leave_alone(std::move(requests_));
        }
        // else the member's destructor releases: it waits for no thread, so Python's lock may be held
    }
    RequestsHandle(const RequestsHandle &)             = delete;
    RequestsHandle & operator=(const RequestsHandle &) = delete;

    const std::vector<int64_t> & ids() const { return requests_.ids(); }

    void cancel(std::optional<int64_t> id) const {
        process_.require_this();
        const WithoutGil unlocked;
        id ? requests_.cancel(*id) : requests_.cancel();
    }

    void release(std::optional<int64_t> id) const {
        if (!process_.is_this()) {
            return;
        }
        const WithoutGil unlocked;
        id ? requests_.release(*id) : requests_.release();
    }

private:
    Process process_;
    Requests requests_;
};

std::unique_ptr<Handle> open_engine(ModelParams params, const std::optional<std::string> & chat_template,
                                    const std::optional<py::function> & progress) {
    // an exception raised by the callback (Ctrl-C among them) stops the load and is raised again below
    std::exception_ptr raised;
    if (progress) {
        params.progress = [&](float fraction) {
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
        const WithoutGil unlocked;
        engine = std::make_shared<Engine>(std::move(params), chat_template.value_or(""));
    } catch (...) {
        if (raised) {
            std::rethrow_exception(raised);
        }
        throw;
    }
    return std::make_unique<Handle>(std::move(engine));
}

std::unique_ptr<RequestsHandle> submit(const Handle & handle, std::vector<std::vector<llama_token>> prompts,
                                       const RequestParams & params, const InboxHandle & inbox,
                                       const std::shared_ptr<ChatPrompt> & chat) {
    const auto engine = handle.get();
    std::optional<Requests> requests;
    {
        const WithoutGil unlocked;
        requests.emplace(engine->scheduler()->submit(std::move(prompts), params, inbox.get(), chat));
    }
    return std::make_unique<RequestsHandle>(handle.process(), std::move(*requests));
}

// On a thread of its own, so that the calling one can run signal handlers meanwhile.
py::dict score(const Handle & handle, const std::vector<std::vector<llama_token>> & texts, bool hidden, bool logits,
               int32_t top) {
    const auto engine      = handle.get();
    const ScoreParts parts = {hidden, logits, top};
    std::atomic<bool> stop = false;
    Scores scores;
    {
        auto running    = std::async(std::launch::async, [&] { return engine->scorer().score(texts, parts, stop); });
        const auto done = [&](double seconds) {
            return running.wait_for(std::chrono::duration<double>(seconds)) == std::future_status::ready;
        };
        try {
            constexpr double k_for_ever = 1e9;  // seconds
            wait_with_signals(k_for_ever, done);
        } catch (...) {
            stop = true;
            const WithoutGil unlocked;
            running.wait();
            throw;
        }
        scores = running.get();
    }
    return scores_dict(scores, parts, engine->model().neg().present);
}

}  // namespace

void bind_engine(py::module_ & m) {
    m.def(
        "sample_seed", [](int64_t seed, int32_t index) { return sample_seed(fold_seed(seed), index); }, py::arg("seed"),
        py::arg("index"));
    py::class_<ChatPrompt, std::shared_ptr<ChatPrompt>>(m, "ChatPrompt")
        .def_property_readonly("prompt", [](const ChatPrompt & p) { return lenient(p.params.prompt); })
        .def_property_readonly("pieces",
                               [](const ChatPrompt & p) {
                                   py::list out;
                                   for (const std::string & piece : p.pieces) {
                                       out.append(lenient(piece));
                                   }
                                   return out;
                               })
        .def_property_readonly("stops", [](const ChatPrompt & p) { return p.params.additional_stops; })
        .def_property_readonly("supports_thinking", [](const ChatPrompt & p) { return p.params.supports_thinking; });
    py::class_<InboxHandle>(m, "Inbox")
        .def(
            "wait",
            [](const InboxHandle & inbox, std::optional<double> timeout) -> py::object {
                const std::optional<Update> update = inbox.wait(timeout);
                return update ? py::object(update_dict(*update)) : py::object(py::none());
            },
            py::arg("timeout") = py::none())
        .def("close", &InboxHandle::close);
    py::class_<RequestsHandle>(m, "Requests")
        .def_property_readonly("ids", &RequestsHandle::ids)
        .def("cancel", &RequestsHandle::cancel, py::arg("request_id") = py::none())
        .def("release", &RequestsHandle::release, py::arg("request_id") = py::none());
    py::class_<Handle>(m, "Engine")
        .def(py::init(&open_engine), py::arg("params"), py::kw_only(), py::arg("chat_template") = py::none(),
             py::arg("progress") = py::none())
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
        .def("marker_texts",
             [](const Handle & h) {
                 py::list out;
                 for (const auto & [text, control] : h.get()->model().marker_texts()) {
                     out.append(py::make_tuple(lenient(text), control));
                 }
                 return out;
             })
        .def(
            "tokenize",
            [](const Handle & h, const py::bytes & text, bool add_special, bool parse_special) {
                const std::string bytes = text;
                const auto engine       = h.get();
                const WithoutGil unlocked;
                return engine->model().tokenize(bytes, add_special, parse_special);
            },
            py::arg("text"), py::arg("add_special"), py::arg("parse_special"))
        .def(
            "detokenize",
            [](const Handle & h, const std::vector<llama_token> & tokens, bool special) {
                const auto engine = h.get();
                std::string bytes;
                {
                    const WithoutGil unlocked;
                    bytes = engine->model().detokenize(tokens, special);
                }
                return py::bytes(bytes);
            },
            py::arg("tokens"), py::arg("special"))
        .def("inbox", [](const Handle & h) { return std::make_unique<InboxHandle>(h.process(), h.get()->scheduler()); })
        .def("submit", &submit, py::arg("prompts"), py::arg("params"), py::arg("inbox"), py::arg("chat") = py::none())
        .def("cancel_all",
             [](const Handle & h) {
                 const auto engine = h.get();
                 const WithoutGil unlocked;
                 engine->cancel_all();
             })
        .def("stats",
             [](const Handle & h) {
                 const auto engine = h.get();
                 Stats stats;
                 {
                     const WithoutGil unlocked;
                     stats = engine->scheduler()->stats();
                 }
                 return stats_dict(stats);
             })
        .def(
            "save_prefix",
            [](const Handle & h, const std::vector<llama_token> & tokens) {
                const auto engine = h.get();
                PrefixCache::State state;
                {
                    const WithoutGil unlocked;
                    state = engine->scheduler()->save_prefix(tokens);
                }
                return py::make_tuple(
                    state.tokens, py::bytes(reinterpret_cast<const char *>(state.bytes.data()), state.bytes.size()));
            },
            py::arg("tokens"))
        .def(
            "load_prefix",
            [](const Handle & h, std::vector<llama_token> tokens, const py::bytes & bytes) {
                const auto engine            = h.get();
                const std::string_view state = bytes;
                PrefixCache::State loaded{std::move(tokens), {state.begin(), state.end()}};
                const WithoutGil unlocked;
                engine->scheduler()->load_prefix(std::move(loaded));
            },
            py::arg("tokens"), py::arg("state"))
        .def("score", &score, py::arg("texts"), py::kw_only(), py::arg("hidden") = false, py::arg("logits") = false,
             py::arg("top") = 0)
        .def(
            "apply_chat_template",
            [](const Handle & h, const std::string & messages_json, const std::string & tools_json,
               const std::string & tool_choice, std::optional<bool> enable_thinking, bool add_generation_prompt,
               const std::string & template_kwargs_json, std::optional<bool> parallel_tool_calls,
               const std::string & json_schema, bool has_grammar, const std::string & callable_json,
               const std::string & cut) {
                ChatRequest r;
                r.messages_json         = messages_json;
                r.tools_json            = tools_json;
                r.tool_choice           = tool_choice;
                r.enable_thinking       = enable_thinking;
                r.add_generation_prompt = add_generation_prompt;
                r.template_kwargs_json  = template_kwargs_json;
                r.parallel_tool_calls   = parallel_tool_calls;
                r.json_schema           = json_schema;
                r.has_grammar           = has_grammar;
                r.callable_json         = callable_json;
                r.cut                   = cut;
                const auto engine       = h.get();
                const WithoutGil unlocked;
                return std::const_pointer_cast<ChatPrompt>(engine->chat_template().apply(r));
            },
            py::arg("messages_json"), py::kw_only(), py::arg("tools_json") = "", py::arg("tool_choice") = "auto",
            py::arg("enable_thinking") = py::none(), py::arg("add_generation_prompt") = true,
            py::arg("template_kwargs_json") = "", py::arg("parallel_tool_calls") = py::none(),
            py::arg("json_schema") = "", py::arg("has_grammar") = false, py::arg("callable_json") = "",
            py::arg("cut") = "")
        .def(
            "parse_chat",
            [](const Handle &, const std::string & text, const std::shared_ptr<ChatPrompt> & prompt, bool partial) {
                std::string parsed;
                {
                    const WithoutGil unlocked;
                    parsed = parse_chat(text, *prompt, partial);
                }
                return lenient(parsed);
            },
            py::arg("text"), py::arg("prompt"), py::arg("partial"));
}

}  // namespace darwin_neg
