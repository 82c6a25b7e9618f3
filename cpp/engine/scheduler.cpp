#include "scheduler.h"

#include "chat_template.h"
#include "errors.h"
#include "parallel.h"

#include <algorithm>
#include <cmath>

namespace darwin_neg {

namespace {

// While others generate, a waiting prompt gets at most this many tokens of a step, so that it does not stall their output.
constexpr int32_t k_prefill_beside_generation = 128;

double seconds_between(std::chrono::steady_clock::time_point from, std::chrono::steady_clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

}  // namespace

struct Scheduler::Sample {
    enum class Phase { waiting, prefill, generating, done };

    Sample(Request & owner, int32_t number, std::vector<std::string> stops) : request(owner), index(number), text(std::move(stops)) {}

    Request & request;
    int32_t index;
    Phase phase = Phase::waiting;
    std::unique_ptr<Sampler> sampler;
    std::vector<llama_token> generated;
    TextStream text;
    llama_seq_id seq     = -1;
    int32_t n_past       = 0;   // tokens of prompt + generated that the sequence holds
    int32_t n_shared     = 0;   // of those, cells that belong to another sequence too
    int64_t preempted_at = -1;  // value of n_finished_ when it last gave up its place
    SampleUpdate fresh;         // not yet fetched by wait()
    size_t n_held = 0;          // tokens in `held`, whose text is not certain yet
    SampleUpdate held;          // tokens waiting for their text
};

struct Scheduler::Request {
    int64_t id = 0;
    RequestParams params;
    std::vector<llama_token> prompt;
    common_params_sampling sampling;
    uint32_t seed = 0;
    std::set<llama_token> rendered;  // control tokens shown as text
    std::vector<std::unique_ptr<Sample>> samples;
    bool started      = false;  // its prompt has been decoded, every sample has its first token
    bool cancelled    = false;
    size_t n_done     = 0;
    bool reported_end = false;
    bool has_news     = false;
    std::optional<Clock::time_point> prefill_from;
    Clock::time_point prefill_to;
    Clock::time_point last_token;

    bool finished() const { return n_done == samples.size(); }

    common_params_sampling sampling_of(int32_t index) const {
        common_params_sampling out = sampling;
        if (!params.temperatures.empty()) {
            out.temp = params.temperatures[static_cast<size_t>(index)];
        }
        return out;
    }

    int32_t n_tokens(const Sample & s) const { return static_cast<int32_t>(prompt.size() + s.generated.size()); }

    llama_token token_at(const Sample & s, int32_t pos) const {
        const auto n = static_cast<int32_t>(prompt.size());
        return pos < n ? prompt[pos] : s.generated[pos - n];
    }

    // has samples that have drawn their first token but never had a place
    bool has_unplaced() const {
        return std::any_of(samples.begin(), samples.end(),
                           [](const auto & s) { return s->phase == Sample::Phase::waiting && s->n_past == 0; });
    }
};

Scheduler::Scheduler(const Model & model) : model_(model) {
    const ModelParams & p = model.params();
    // one sequence more than can generate: it holds a prompt for samples that wait for a place
    context_ = model.make_context(model.n_ctx(), p.n_batch, p.n_ubatch, p.n_parallel + 1, false);
    memory_  = llama_get_memory(context_.get());
    n_batch_ = static_cast<int32_t>(llama_n_batch(context_.get()));  // may be less than asked for in a small context
    batch_   = llama_batch_init(n_batch_, 0, 1);
    for (uint32_t i = 0; i < p.n_parallel; ++i) {
        free_seqs_.push_back(static_cast<llama_seq_id>(p.n_parallel - 1 - i));
    }
    llama_set_abort_callback(
        context_.get(), [](void * flag) { return static_cast<std::atomic<bool> *>(flag)->load(); }, &abort_decode_);
    thread_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() {
    close();
    llama_batch_free(batch_);
}

void Scheduler::close() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        closing_      = true;
        abort_decode_ = true;
        work_.notify_all();
    }
    if (thread_.joinable()) {
        thread_.join();
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->phase != Sample::Phase::done) {
                finish_locked(*sample, "cancelled");
            }
        }
    }
    queue_.clear();
    news_.notify_all();
}

std::shared_ptr<Scheduler::Request> Scheduler::make_request(std::vector<llama_token> prompt, const RequestParams & params) const {
    if (prompt.empty()) {
        throw RequestError("prompt has no tokens; give at least one (the model has no start token to begin from)");
    }
    for (const llama_token token : prompt) {
        if (token < 0 || token >= model_.n_vocab()) {
            throw RequestError("prompt holds token " + std::to_string(token) + ", outside the vocabulary of " +
                               std::to_string(model_.n_vocab()));
        }
    }
    // one token must still fit behind the prompt, else nothing can be generated
    if (prompt.size() >= model_.n_ctx()) {
        throw ContextFullError("prompt has " + std::to_string(prompt.size()) + " tokens, the context holds " +
                               std::to_string(model_.n_ctx()) + "; shorten the prompt or raise n_ctx");
    }
    auto request                   = std::make_shared<Request>();
    request->prompt                = std::move(prompt);
    request->params                = params;
    request->sampling              = sampling_params(model_, params);
    request->seed                  = fold_seed(params.seed);
    std::vector<std::string> stops = params.stop;
    if (params.chat) {
        stops.insert(stops.end(), params.chat->params.additional_stops.begin(), params.chat->params.additional_stops.end());
        request->rendered = params.chat->rendered_tokens(model_);
    }
    for (int32_t i = 0; i < params.n; ++i) {
        request->samples.push_back(std::make_unique<Sample>(*request, i, stops));
        request->samples.back()->fresh.index = i;
    }
    // the first sampler is made here, so that a grammar that cannot be parsed is refused before anything is queued
    request->samples.front()->sampler = std::make_unique<Sampler>(model_, request->sampling_of(0), request->seed, 0, request->prompt);
    return request;
}

std::vector<int64_t> Scheduler::submit(std::vector<std::vector<llama_token>> prompts, const RequestParams & params) {
    validate_request(params, model_.n_vocab());
    if (!model_.neg().present && (params.neg_action == NegAction::mask || params.neg_action == NegAction::sample ||
                                  !std::isnan(params.neg_threshold) || params.neg_top_k > 0 || params.neg_use_temp_scale >= 0)) {
        throw NegHeadError(model_.params().model_path +
                           ": has no NEG head, so neg options cannot be used; attach one with `darwin-neg neg attach`");
    }
    std::vector<std::shared_ptr<Request>> made;
    made.reserve(prompts.size());
    for (auto & prompt : prompts) {
        made.push_back(make_request(std::move(prompt), params));
    }

    const std::lock_guard<std::mutex> lock(mutex_);
    if (closing_) {
        throw Error("the model is closed");
    }
    std::vector<int64_t> ids;
    for (auto & request : made) {
        request->id = next_id_++;
        ids.push_back(request->id);
        ++stats_.n_requests;
        requests_[request->id] = request;
        if (params.max_tokens == 0) {
            for (auto & sample : request->samples) {
                finish_locked(*sample, "length");
            }
        } else {
            queue_.push_back(request);
        }
    }
    work_.notify_all();
    return ids;
}

std::optional<Update> Scheduler::wait(int64_t id, std::chrono::duration<double> timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto found = requests_.find(id);
    if (found == requests_.end()) {
        throw RequestError("request " + std::to_string(id) + " is not known (it was released)");
    }
    const std::shared_ptr<Request> request = found->second;
    const auto ready                       = [&] { return request->finished() || (request->params.stream && request->has_news); };
    if (!news_.wait_for(lock, timeout, ready)) {
        return std::nullopt;
    }
    Update out;
    out.finished        = request->finished();
    out.seed            = request->seed;
    out.n_prompt_tokens = static_cast<int32_t>(request->prompt.size());
    out.top_count       = std::max(0, request->params.logprobs);
    out.has_neg         = model_.neg().present;
    if (const auto from = request->prefill_from; from && request->started) {
        out.prompt_seconds   = seconds_between(*from, request->prefill_to);
        out.generate_seconds = seconds_between(request->prefill_to, request->last_token);
    }
    for (auto & sample : request->samples) {
        SampleUpdate & fresh = sample->fresh;
        if (fresh.tokens.empty() && fresh.finish_reason.empty() && !out.finished) {
            continue;
        }
        SampleUpdate taken;
        std::swap(taken, fresh);
        fresh.index = taken.index;
        out.samples.push_back(std::move(taken));
    }
    request->has_news = false;
    fresh_.erase(id);
    return out;
}

std::vector<int64_t> Scheduler::wait_any(std::chrono::duration<double> timeout) {
    std::unique_lock<std::mutex> lock(mutex_);
    news_.wait_for(lock, timeout, [&] { return !fresh_.empty() || closing_; });
    std::vector<int64_t> out(fresh_.begin(), fresh_.end());
    fresh_.clear();
    return out;
}

void Scheduler::cancel(int64_t id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = requests_.find(id);
    if (found != requests_.end()) {
        ask_to_stop_locked(*found->second);
    }
}

void Scheduler::cancel_all() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto & request : queue_) {
        ask_to_stop_locked(*request);
    }
}

void Scheduler::ask_to_stop_locked(Request & request) {
    if (request.finished()) {
        return;
    }
    request.cancelled = true;
    // a long prompt need not be decoded to its end when nobody waits for anything any more
    abort_decode_ = closing_ || std::all_of(queue_.begin(), queue_.end(), [](const auto & r) { return r->cancelled; });
    work_.notify_all();
}

void Scheduler::release(int64_t id) {
    cancel(id);
    const std::lock_guard<std::mutex> lock(mutex_);
    requests_.erase(id);
    fresh_.erase(id);
}

Stats Scheduler::stats() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    Stats out = stats_;
    for (const auto & request : queue_) {
        for (const auto & sample : request->samples) {
            out.n_waiting += sample->phase == Sample::Phase::waiting ? 1 : 0;
            out.n_running += sample->seq >= 0 ? 1 : 0;
        }
    }
    out.n_seq_used    = static_cast<int64_t>(model_.params().n_parallel - free_seqs_.size()) + (holder_ != nullptr ? 1 : 0);
    out.kv_cells_used = cells_used_locked(false);
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// worker thread

void Scheduler::run() {
    while (true) {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            apply_cancellations_locked();
            abort_decode_ = closing_;
            admit_locked();
            if (closing_) {
                return;
            }
            if (queue_.empty()) {
                work_.wait(lock, [&] { return closing_ || !queue_.empty(); });
                continue;
            }
        }
        try {
            build_batch();
            if (batch_.n_tokens > 0 && decode_batch()) {
                sample_rows();
            }
        } catch (const std::exception & e) {
            const std::lock_guard<std::mutex> lock(mutex_);
            fail_all_locked(e.what());
        }
    }
}

// Cells that hold tokens; `with_pending` adds what the placed sequences will need for their prompts and for their next token.
int64_t Scheduler::cells_used_locked(bool with_pending) const {
    int64_t cells = 0;
    for (const auto & request : queue_) {
        bool prompt_held = request.get() == holder_;
        for (const auto & sample : request->samples) {
            if (sample->seq < 0) {
                continue;
            }
            const bool prefill = sample->phase == Sample::Phase::prefill;
            cells += (with_pending && prefill ? request->n_tokens(*sample) : sample->n_past) - sample->n_shared;
            cells += with_pending ? 1 : 0;
            prompt_held = prompt_held || sample->n_shared > 0;
        }
        if (prompt_held) {
            cells += static_cast<int64_t>(request->prompt.size());
        }
    }
    return cells;
}

void Scheduler::admit_locked() {
    // A request with several samples may only start while no other one still has samples to place: there is one holder.
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->phase != Sample::Phase::waiting) {
                continue;
            }
            if (free_seqs_.empty()) {
                return;
            }
            if (!request->started && sample->index > 0) {
                break;  // waits for the prompt that sample 0 decodes
            }
            if (!request->started && request->samples.size() > 1) {
                const bool busy = std::any_of(queue_.begin(), queue_.end(), [&](const auto & other) {
                    return other != request && other->samples.size() > 1 &&
                           (other.get() == holder_ || (!other->started && other->samples.front()->seq >= 0));
                });
                if (busy) {
                    break;
                }
            }
            if (!place_sample_locked(*sample)) {
                return;  // first come, first served: nobody overtakes a request that waits for memory
            }
        }
        if (holder_ == request.get() && !request->has_unplaced()) {
            drop_holder_locked(*request);
        }
    }
}

bool Scheduler::place_sample_locked(Sample & sample) {
    Request & request = sample.request;
    const bool copy   = holder_ == &request && sample.generated.size() == 1;
    const bool alone  = free_seqs_.size() == model_.params().n_parallel;
    if (!alone) {
        // Everything it has so far must be decoded beside what runs; a copy of the held prompt takes no cells but the next token's. One
        // that had to give way waits until somebody is done, whatever the count says: the memory may be fuller than the count where an
        // architecture pads or splits its cache.
        const int64_t needed = copy ? 1 : request.n_tokens(sample) + 1;
        if (cells_used_locked(true) + needed > static_cast<int64_t>(model_.n_ctx()) || sample.preempted_at == n_finished_) {
            return false;
        }
    }
    sample.seq = free_seqs_.back();
    free_seqs_.pop_back();
    if (copy) {
        copy_sequence(static_cast<llama_seq_id>(model_.params().n_parallel), sample.seq);
        sample.n_past   = static_cast<int32_t>(request.prompt.size());
        sample.n_shared = sample.n_past;
        sample.phase    = Sample::Phase::generating;
    } else {
        sample.n_past   = 0;
        sample.n_shared = 0;
        sample.phase    = Sample::Phase::prefill;
    }
    return true;
}

void Scheduler::copy_sequence(llama_seq_id from, llama_seq_id to) {
    llama_memory_seq_cp(memory_, from, to, -1, -1);
}

void Scheduler::build_batch() {
    const std::lock_guard<std::mutex> lock(mutex_);
    batch_.n_tokens = 0;
    batch_rows_.clear();
    batch_row_index_.clear();
    batch_prefill_.clear();
    batch_prefill_count_.clear();

    const auto add = [&](Sample & sample, int32_t pos, bool output) {
        const int32_t i     = batch_.n_tokens++;
        batch_.token[i]     = sample.request.token_at(sample, pos);
        batch_.pos[i]       = pos;
        batch_.n_seq_id[i]  = 1;
        batch_.seq_id[i][0] = sample.seq;
        batch_.logits[i]    = output ? 1 : 0;
        if (output) {
            batch_rows_.push_back(&sample);
            batch_row_index_.push_back(i);
        }
    };

    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->phase == Sample::Phase::generating) {
                add(*sample, sample->n_past, true);
            }
        }
    }
    const bool alone = batch_.n_tokens == 0;
    int32_t budget   = n_batch_ - batch_.n_tokens;
    if (!alone) {
        budget = std::min(budget, k_prefill_beside_generation);
    }
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->phase != Sample::Phase::prefill || budget == 0) {
                continue;
            }
            if (!request->prefill_from) {
                request->prefill_from = Clock::now();
            }
            const int32_t total = request->n_tokens(*sample);
            const int32_t count = std::min(budget, total - sample->n_past);
            for (int32_t i = 0; i < count; ++i) {
                const int32_t pos = sample->n_past + i;
                add(*sample, pos, pos + 1 == total);
            }
            batch_prefill_.push_back(sample.get());
            batch_prefill_count_.push_back(count);
            budget -= count;
        }
    }
}

bool Scheduler::decode_batch() {
    const int32_t rc = decode_(context_.get(), batch_);
    if (rc == 0) {
        llama_synchronize(context_.get());
        const std::lock_guard<std::mutex> lock(mutex_);
        ++stats_.n_steps;
        for (Sample * sample : batch_rows_) {
            if (sample->phase == Sample::Phase::generating) {
                ++sample->n_past;
            }
        }
        for (size_t i = 0; i < batch_prefill_.size(); ++i) {
            Sample & sample = *batch_prefill_[i];
            sample.n_past += batch_prefill_count_[i];
            if (sample.generated.empty()) {
                stats_.n_prompt_decoded += batch_prefill_count_[i];
            } else {
                stats_.n_recomputed += batch_prefill_count_[i];
            }
        }
        return true;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (rc == 1) {
        // the memory is full and unchanged
        if (!make_room_locked()) {
            fail_all_locked("the context is full although a single sequence is left; raise n_ctx");
        }
        return false;
    }
    if (rc == 2) {
        // aborted on purpose: everything in the queue is cancelled, or the engine closes; the sequences go with them
        return false;
    }
    fail_all_locked("llama_decode failed with code " + std::to_string(rc) + "; see the log of llama.cpp");
    return false;
}

// The youngest sequence gives up its place and is decoded again later; the last one left ends with "length".
bool Scheduler::make_room_locked() {
    Sample * youngest = nullptr;
    int placed        = 0;
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->seq >= 0) {
                youngest = sample.get();
                ++placed;
            }
        }
    }
    if (placed > 1) {
        preempt_locked(*youngest);
        return true;
    }
    if (holder_ != nullptr) {
        drop_holder_locked(*holder_);
        return true;
    }
    if (placed == 1) {
        finish_locked(*youngest, "length");
        return true;
    }
    return false;
}

void Scheduler::preempt_locked(Sample & sample) {
    ++stats_.n_preempted;
    drop_sequence_locked(sample);
    sample.phase        = Sample::Phase::waiting;
    sample.preempted_at = n_finished_;
}

void Scheduler::drop_sequence_locked(Sample & sample) {
    if (sample.seq < 0) {
        return;
    }
    llama_memory_seq_rm(memory_, sample.seq, -1, -1);
    free_seqs_.push_back(sample.seq);
    sample.seq      = -1;
    sample.n_past   = 0;
    sample.n_shared = 0;
}

void Scheduler::drop_holder_locked(Request & request) {
    if (holder_ == &request) {
        llama_memory_seq_rm(memory_, static_cast<llama_seq_id>(model_.params().n_parallel), -1, -1);
        holder_ = nullptr;
    }
}

// Draws are made in parallel, since each costs at least a look at the whole vocabulary; what they chose is taken over one by one.
void Scheduler::sample_rows() {
    struct Job {
        Sample * sample;
        int32_t row;
        Drawn drawn;
        std::optional<std::string> error;
        const char * reason = "error";  // to finish with, where there is an error
    };
    std::vector<Job> jobs;
    for (size_t i = 0; i < batch_rows_.size(); ++i) {
        Sample & sample   = *batch_rows_[i];
        Request & request = sample.request;
        if (sample.phase == Sample::Phase::prefill && !request.started) {
            // the prompt's last row: every sample of the request draws its first token from it
            start_samples(sample);
            for (auto & each : request.samples) {
                jobs.push_back({each.get(), batch_row_index_[i], {}, {}});
            }
        } else {
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                sample.phase = Sample::Phase::generating;
            }
            jobs.push_back({&sample, batch_row_index_[i], {}, {}});
        }
    }
    if (!jobs.empty()) {
        // the first look at a row puts all rows of the context in order, which only one thread may do
        llama_get_logits_ith(context_.get(), jobs.front().row);
    }
    parallel_for(static_cast<int32_t>(jobs.size()), model_.params().n_threads, [&](int32_t i) {
        Job & job         = jobs[i];
        Sample & sample   = *job.sample;
        Request & request = sample.request;
        try {
            if (!sample.sampler) {
                sample.sampler =
                    std::make_unique<Sampler>(model_, request.sampling_of(sample.index), request.seed, sample.index, request.prompt);
            }
            job.drawn = sample.sampler->draw(context_.get(), job.row, request.params.logprobs);
        } catch (const RequestError & e) {
            job.error  = e.what();
            job.reason = "refused";
        } catch (const std::exception & e) {
            job.error = e.what();
        }
    });
    for (Job & job : jobs) {
        try {
            if (!job.error) {
                publish(*job.sample, job.drawn);
            }
        } catch (const std::exception & e) {
            job.error = e.what();
        }
        if (job.error) {
            const std::lock_guard<std::mutex> lock(mutex_);
            finish_locked(*job.sample, job.reason, job.error);
        }
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    queue_.remove_if([](const auto & request) { return request->finished(); });
}

// The request's prompt has been decoded by `leader`. Other samples get their copy of it at the next admission.
void Scheduler::start_samples(Sample & leader) {
    Request & request = leader.request;
    const std::lock_guard<std::mutex> lock(mutex_);
    request.prefill_to = Clock::now();
    request.last_token = request.prefill_to;
    request.started    = true;
    if (request.samples.size() > 1) {
        copy_sequence(leader.seq, static_cast<llama_seq_id>(model_.params().n_parallel));
        holder_         = &request;
        leader.n_shared = leader.n_past;
    }
    leader.phase = Sample::Phase::generating;
}

void Scheduler::publish(Sample & sample, const Drawn & drawn) {
    Request & request       = sample.request;
    const llama_token token = drawn.token;
    const bool end          = llama_vocab_is_eog(model_.vocab(), token);

    SampleUpdate & held = sample.held;
    held.tokens.push_back(token);
    if (model_.neg().present) {
        held.entropy.push_back(drawn.neg.entropy);
        held.active.push_back(drawn.neg.active ? 1 : 0);
    }
    if (request.params.logprobs >= 0) {
        held.logprobs.push_back(drawn.logprob);
        held.top_ids.insert(held.top_ids.end(), drawn.top_ids.begin(), drawn.top_ids.end());
        held.top_logprobs.insert(held.top_logprobs.end(), drawn.top_logprobs.begin(), drawn.top_logprobs.end());
    }
    const std::string piece = end ? std::string() : model_.piece(token, request.rendered.count(token) != 0);

    const std::lock_guard<std::mutex> lock(mutex_);
    sample.generated.push_back(token);
    ++stats_.n_generated;
    request.last_token = Clock::now();

    const bool stopped = sample.text.add(piece);
    std::string reason;
    if (stopped) {
        sample.fresh.stop = sample.text.matched_stop();
        reason            = "stop";
    } else if (end) {
        reason = "stop";
    } else if (request.params.max_tokens >= 0 && static_cast<int32_t>(sample.generated.size()) >= request.params.max_tokens) {
        reason = "length";
    } else if (request.n_tokens(sample) > static_cast<int32_t>(model_.n_ctx())) {
        // the newest token has no cell left to be decoded into
        reason = "length";
    }
    if (!reason.empty()) {
        finish_locked(sample, reason);
        return;
    }
    // hand out the tokens whose text is certain
    std::vector<std::string> pieces = sample.text.take();
    if (pieces.empty()) {
        return;
    }
    const size_t m        = pieces.size();
    const auto move_front = [](auto & from, auto & to, size_t count) {
        if (from.empty()) {
            return;
        }
        to.insert(to.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
        from.erase(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(count));
    };
    const size_t k = static_cast<size_t>(std::max(0, request.params.logprobs));
    move_front(held.tokens, sample.fresh.tokens, m);
    move_front(held.entropy, sample.fresh.entropy, m);
    move_front(held.active, sample.fresh.active, m);
    move_front(held.logprobs, sample.fresh.logprobs, m);
    move_front(held.top_ids, sample.fresh.top_ids, m * k);
    move_front(held.top_logprobs, sample.fresh.top_logprobs, m * k);
    sample.fresh.pieces.insert(sample.fresh.pieces.end(), pieces.begin(), pieces.end());
    notify_locked(request);
}

void Scheduler::finish_locked(Sample & sample, const std::string & reason, const std::optional<std::string> & error) {
    if (sample.phase == Sample::Phase::done) {
        return;
    }
    Request & request = sample.request;
    sample.text.finish();
    const auto append = [](auto & from, auto & to) {
        to.insert(to.end(), from.begin(), from.end());
        from.clear();
    };
    std::vector<std::string> pieces = sample.text.take();
    SampleUpdate & held             = sample.held;
    // an error may come between drawing a token and adding its text
    pieces.resize(held.tokens.size());
    append(held.tokens, sample.fresh.tokens);
    append(held.entropy, sample.fresh.entropy);
    append(held.active, sample.fresh.active);
    append(held.logprobs, sample.fresh.logprobs);
    append(held.top_ids, sample.fresh.top_ids);
    append(held.top_logprobs, sample.fresh.top_logprobs);
    append(pieces, sample.fresh.pieces);
    sample.fresh.finish_reason = reason;
    sample.fresh.error         = error;
    sample.phase               = Sample::Phase::done;
    drop_sequence_locked(sample);
    sample.sampler.reset();
    ++request.n_done;
    ++n_finished_;
    if (!request.started && sample.index == 0) {
        // the others wait for the prompt that this one was to decode
        for (auto & other : request.samples) {
            finish_locked(*other, reason, error);
        }
    }
    if (request.finished()) {
        drop_holder_locked(request);
    }
    notify_locked(request);
}

void Scheduler::notify_locked(Request & request) {
    request.has_news = true;
    if (request.params.stream || request.finished()) {
        if (requests_.count(request.id) != 0) {
            fresh_.insert(request.id);
        }
        news_.notify_all();
    }
}

void Scheduler::apply_cancellations_locked() {
    for (auto & request : queue_) {
        if (!request->cancelled) {
            continue;
        }
        for (auto & sample : request->samples) {
            finish_locked(*sample, "cancelled");
        }
    }
    queue_.remove_if([](const auto & request) { return request->finished(); });
}

void Scheduler::fail_all_locked(const std::string & message) {
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->seq >= 0) {
                finish_locked(*sample, "error", message);
            }
        }
    }
    if (holder_ != nullptr) {
        drop_holder_locked(*holder_);
    }
    queue_.remove_if([](const auto & request) { return request->finished(); });
}

}  // namespace darwin_neg
