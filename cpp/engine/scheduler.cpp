#include "scheduler.h"

#include "chat_template.h"
#include "errors.h"
#include "parallel.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace darwin_neg {

namespace {

// While others generate, a waiting prompt gets at most this many tokens of a step, so that it does not stall their
// output.
constexpr int32_t k_prefill_beside_generation = 128;

// How long a server on another machine may still take when the engine closes.
constexpr std::chrono::seconds k_patience{3};

double seconds_between(Request::Clock::time_point from, Request::Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

Places::Size size_of(const Model & model) {
    const ModelParams & p = model.params();
    return {static_cast<int32_t>(p.n_parallel), static_cast<int64_t>(model.n_ctx()),
            static_cast<int32_t>(p.prefix_cache), static_cast<size_t>(p.prefix_cache_bytes)};
}

Sequences sequences_of(llama_context * context, const Drafter * drafter) {
    Sequences sequences(context);
    if (drafter != nullptr && drafter->context() != nullptr) {
        sequences.add(drafter->context());
    }
    return sequences;
}

// Lengths of the beginning of a prompt that later prompts are likely to share. A plain prompt may come again as it is,
// or with another end: there its last batch but one ends at a length that costs no step of its own.
std::vector<int32_t> likely_to_be_shared(const Model & model, const Tokens & prompt, const ChatPrompt * chat) {
    constexpr int32_t k_long_prompt = 256;  // from which on a step for its last token alone costs next to nothing
    constexpr int32_t k_other_end   = 64;
    if (chat != nullptr) {
        return chat->token_counts(model, prompt);
    }
    const auto size = static_cast<int32_t>(prompt.size());
    if (size < k_long_prompt) {
        return {};
    }
    const auto n_batch     = static_cast<int32_t>(model.params().n_batch);
    const int32_t boundary = (size - k_other_end) / n_batch * n_batch;
    return boundary > 0 ? std::vector<int32_t>{boundary, size - 1} : std::vector<int32_t>{size - 1};
}

}  // namespace

// Each sequence yields at most one row of logits in a step.
ContextParams context_shape(const Model & model) {
    const ModelParams & p = model.params();
    const auto n_seq      = static_cast<uint32_t>(size_of(model).n_sequences());
    ContextParams shape   = {model.n_ctx(), p.n_batch, p.n_ubatch, n_seq};
    shape.n_outputs       = n_seq + p.mtp_max_parallel * p.n_draft();
    shape.n_rollback      = p.n_draft();
    return shape;
}

Scheduler::Scheduler(const Model & model)
    : model_(model),
      has_neg_(model.neg().present),
      context_(model.make_context(context_shape(model))),
      drafter_(Drafter::make(model, context_.get())),
      batch_(static_cast<int32_t>(llama_n_batch(context_.get()))),
      n_batch_(static_cast<int32_t>(llama_n_batch(context_.get()))),  // may be less than asked for in a small context
      places_(context_.get(), sequences_of(context_.get(), drafter_.get()),
              MemoryKind::of(model.get(), model.params().swa_full), size_of(model)) {
    for (llama_context * context : {context_.get(), drafter_ ? drafter_->context() : nullptr}) {
        if (context != nullptr) {
            llama_set_abort_callback(
                context, [](void * flag) { return static_cast<std::atomic<bool> *>(flag)->load(); }, &abort_decode_);
        }
    }
    if (drafter_) {
        stats_.drafted.resize(static_cast<size_t>(drafter_->n_max()));
        stats_.draft_accepted.resize(stats_.drafted.size());
    }
    std::promise<void> end;
    ended_  = end.get_future();
    thread_ = std::thread([this, end = std::move(end)]() mutable {
        run();
        end.set_value();
    });
}

Scheduler::~Scheduler() {
    close();
}

void Scheduler::close() {
    const Lock closing(close_mutex_);
    {
        const Lock lock(mutex_);
        closing_      = true;
        abort_decode_ = true;
        work_.notify_all();
    }
    if (!thread_.joinable()) {
        return;
    }
    // what another machine computes cannot be stopped; nobody wants it any more
    if (ended_.wait_for(k_patience) != std::future_status::ready) {
        model_.servers().disconnect();
    }
    thread_.join();
    const Lock lock(mutex_);
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            finish_locked(*sample, "cancelled");
        }
    }
    queue_.clear();
    tasks_.clear();  // whoever waits for one hears of it
    drafter_.reset();
    context_.reset();
}

std::shared_ptr<Request> Scheduler::make_request(std::vector<llama_token> prompt, const RequestParams & params,
                                                 const std::shared_ptr<const ChatPrompt> & chat) const {
    if (prompt.empty()) {
        throw RequestError("prompt has no tokens; give at least one (the model has no start token to begin from)");
    }
    for (const llama_token token : prompt) {
        if (token < 0 || token >= model_.n_vocab()) {
            throw RequestError("prompt holds token " + std::to_string(token) + ", outside the vocabulary of " +
                               std::to_string(model_.n_vocab()));
        }
    }
    // one token must still fit after the prompt, else nothing can be generated
    if (prompt.size() >= model_.n_ctx()) {
        throw ContextFullError("prompt has " + std::to_string(prompt.size()) + " tokens, the context holds " +
                               std::to_string(model_.n_ctx()) + "; shorten the prompt or raise n_ctx");
    }
    auto request      = std::make_shared<Request>();
    request->prompt   = std::move(prompt);
    request->params   = params;
    request->sampling = sampling_params(model_, params, chat.get());
    request->seed     = fold_seed(params.seed);
    if (chat != nullptr) {
        request->rendered = chat->rendered_tokens(model_);
    }
    request->checkpoints = likely_to_be_shared(model_, request->prompt, chat.get());
    const auto make_text = [&]() -> TextStream {
        if (chat == nullptr) {
            return TextStream(params.stop);
        }
        // the template's own stop strings end a turn, wherever it stands
        if (params.stop.empty()) {
            return TextStream(chat->params.additional_stops);
        }
        return TextStream(chat->params.additional_stops, params.stop,
                          [chat](const std::string & bytes, size_t at) { return chat->stops_at(bytes, at); });
    };
    const auto n_top = static_cast<size_t>(params.logprobs.value_or(0));
    for (int32_t i = 0; i < params.n; ++i) {
        request->samples.push_back(std::make_unique<Sample>(*request, i, make_text(), n_top));
    }
    // the first sampler is made here, so that a grammar that cannot be parsed is refused before anything is queued
    request->samples.front()->sampler =
        std::make_unique<Sampler>(model_, request->sampling_of(0), request->seed, 0, request->prompt);
    return request;
}

std::shared_ptr<Inbox> Scheduler::inbox() const {
    return std::make_shared<Inbox>();
}

Requests Scheduler::submit(std::vector<std::vector<llama_token>> prompts, const RequestParams & params,
                           const std::shared_ptr<Inbox> & inbox, const std::shared_ptr<const ChatPrompt> & chat) {
    validate_request(params, model_.n_vocab());
    if (!has_neg_ && asks_for_neg(params)) {
        throw NegHeadError(model_.params().model_path +
                           ": has no NEG head, so neg options cannot be used; attach one with `darwin-neg neg attach`");
    }
    std::vector<std::shared_ptr<Request>> made;
    made.reserve(prompts.size());
    for (auto & prompt : prompts) {
        made.push_back(make_request(std::move(prompt), params, chat));
        made.back()->inbox = inbox;
    }

    const Lock lock(mutex_);
    if (closing_) {
        throw Error("the model is closed");
    }
    inbox->ready.reserve(inbox->n_requests + made.size());
    std::vector<int64_t> ids;
    ids.reserve(made.size());
    for (size_t i = 0; i < made.size(); ++i) {
        ids.push_back(next_id_ + static_cast<int64_t>(i));
    }
    // what can fail comes first, so that a request is queued and owned or neither
    Queue queued;
    std::map<int64_t, std::shared_ptr<Request>> known;
    for (size_t i = 0; i < made.size(); ++i) {
        made[i]->id = ids[i];
        known.emplace(ids[i], made[i]);
        if (params.max_tokens != 0) {
            queued.push_back(made[i]);
        }
    }
    requests_.merge(known);
    queue_.splice(queue_.end(), queued);
    next_id_ += static_cast<int64_t>(made.size());
    stats_.n_requests += static_cast<int64_t>(made.size());
    inbox->n_requests += made.size();
    if (params.max_tokens == 0) {
        for (auto & request : made) {
            for (auto & sample : request->samples) {
                finish_locked(*sample, "length");
            }
        }
    }
    work_.notify_all();
    return {shared_from_this(), std::move(ids)};
}

std::optional<Update> Scheduler::wait(Inbox & inbox, std::chrono::duration<double> timeout) {
    const auto deadline =
        std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(timeout);
    Lock lock(mutex_);
    while (inbox.ready.empty()) {
        if (inbox.closed || (!inbox.news.wait_until(lock, deadline) && inbox.ready.empty())) {
            return std::nullopt;
        }
    }
    const int64_t id = inbox.ready.front();
    inbox.ready.erase(inbox.ready.begin());
    return take_update_locked(*requests_.at(id));
}

Update Scheduler::take_update_locked(Request & request) {
    request.announced = false;
    Update out;
    out.request          = request.id;
    out.finished         = request.finished();
    out.seed             = request.seed;
    out.n_prompt_tokens  = static_cast<int32_t>(request.prompt.size());
    out.n_cached_tokens  = std::max(request.n_cached, 0);
    out.top_count        = request.params.logprobs.value_or(0);
    out.has_neg          = has_neg_;
    out.has_true_entropy = request.params.true_entropy;
    out.neg_threshold    = has_neg_ ? model_.neg().threshold : NAN;
    if (request.prefill_from && request.started) {
        out.prompt_seconds   = seconds_between(*request.prefill_from, request.prefill_to);
        out.generate_seconds = seconds_between(request.prefill_to, request.last_token);
    }
    for (auto & sample : request.samples) {
        if (sample->output.has_news() && (request.params.notify == Notify::token || sample->output.finished())) {
            out.samples.push_back(sample->output.take());
        }
    }
    return out;
}

void Scheduler::announce_locked(Request & request) noexcept {
    if (!request.announced && requests_.count(request.id) != 0) {
        request.announced = true;
        request.inbox->ready.push_back(request.id);
        request.inbox->news.notify_one();
    }
}

void Scheduler::close_inbox(Inbox & inbox) {
    const Lock lock(mutex_);
    inbox.closed = true;
    inbox.news.notify_all();
}

bool Scheduler::ended(const Inbox & inbox) const {
    const Lock lock(mutex_);
    return inbox.closed && inbox.ready.empty();
}

void Scheduler::cancel(const std::vector<int64_t> & ids) {
    const Lock lock(mutex_);
    for (const int64_t id : ids) {
        const auto found = requests_.find(id);
        if (found != requests_.end()) {
            ask_to_stop_locked(*found->second);
        }
    }
}

void Scheduler::cancel_all() {
    const Lock lock(mutex_);
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
    abort_decode_ =
        closing_ || std::all_of(queue_.begin(), queue_.end(), [](const auto & other) { return other->cancelled; });
    work_.notify_all();
}

void Scheduler::release(int64_t id) noexcept {
    const Lock lock(mutex_);
    const auto found = requests_.find(id);
    if (found == requests_.end()) {
        return;
    }
    Request & request = *found->second;
    ask_to_stop_locked(request);
    Inbox & inbox = *request.inbox;
    inbox.ready.erase(std::remove(inbox.ready.begin(), inbox.ready.end(), id), inbox.ready.end());
    --inbox.n_requests;
    requests_.erase(found);
}

Stats Scheduler::stats() const {
    const Lock lock(mutex_);
    Stats out = stats_;
    for (const auto & request : queue_) {
        for (const auto & sample : request->samples) {
            out.n_waiting += sample->phase == Phase::waiting ? 1 : 0;
            out.n_running += sample->seq >= 0 ? 1 : 0;
        }
    }
    out.n_seq_used      = places_.n_used();
    out.kv_cells_used   = places_.cells_used(queue_, false);
    out.n_prompt_reused = places_.n_reused();
    out.n_prefixes      = places_.prefixes().n_kept();
    out.prefix_bytes    = places_.prefixes().host_bytes_used();
    return out;
}

void Scheduler::run_on_worker(const std::function<void(PrefixCache &)> & task) {
    // An exception itself would be shared with the worker, whoever lets go of it last: texts are not.
    std::optional<std::string> refused;
    std::optional<std::string> failed;
    const auto reporting = [&](PrefixCache & prefixes) {
        try {
            task(prefixes);
        } catch (const RequestError & e) {
            refused = e.what();
        } catch (const std::exception & e) {
            failed = e.what();
        }
    };
    std::future<void> done;
    {
        const Lock lock(mutex_);
        if (closing_) {
            throw Error("the model is closed");
        }
        tasks_.emplace_back(reporting);
        done = tasks_.back().get_future();
        work_.notify_all();
    }
    try {
        done.get();
    } catch (const std::future_error &) {
        throw Error("the model was closed");
    }
    if (refused) {
        throw RequestError(*refused);
    }
    if (failed) {
        throw Error(*failed);
    }
}

PrefixCache::State Scheduler::save_prefix(const std::vector<llama_token> & tokens) {
    PrefixCache::State state;
    run_on_worker([&](PrefixCache & prefixes) { state = prefixes.state_of(tokens); });
    model_.check_servers();  // the state of one that is lost is zero
    return state;
}

void Scheduler::load_prefix(PrefixCache::State state) {
    run_on_worker([&](PrefixCache & prefixes) { prefixes.add(std::move(state)); });
}

// ---------------------------------------------------------------------------------------------------------------------
// worker thread

void Scheduler::run() noexcept {
    while (true) {
        try {
            if (!step()) {
                return;
            }
        } catch (const std::exception & e) {
            fail_all(e.what());
        } catch (...) {
            fail_all("an exception of unknown type");
        }
    }
}

// Returns false when the engine closes.
bool Scheduler::step() {
    if (!wait_for_work()) {
        return false;
    }
    draft();
    build_batch();
    if (!batch_.empty() && decode_batch()) {
        sample_rows();
    }
    return true;
}

bool Scheduler::wait_for_work() {
    Lock lock(mutex_);
    while (true) {
        apply_cancellations_locked();
        abort_decode_ = closing_;
        if (closing_) {
            return false;
        }
        while (!tasks_.empty()) {
            tasks_.front()(places_.prefixes());
            tasks_.pop_front();
        }
        if (!queue_.empty()) {
            places_.admit(queue_, n_finished_);
            return true;
        }
        work_.wait(lock);
    }
}

// Guesses the next tokens of what generates, so that one decode can check them all. What a sample wants no more of, or
// the memory has no room for, is not guessed.
void Scheduler::draft() {
    if (!drafter_) {
        return;
    }
    std::vector<Sample *> generating;
    std::vector<Drafter::Job> jobs;
    {
        const Lock lock(mutex_);
        size_t n_prompts = 0;
        for (auto & request : queue_) {
            for (auto & sample : request->samples) {
                n_prompts += sample->phase == Phase::prefill ? 1 : 0;
                sample->draft.clear();
                if (sample->phase == Phase::generating) {
                    generating.push_back(sample.get());
                }
            }
        }
        if (std::exchange(no_room_for_drafts_, false) || !drafter_->may_draft(generating.size(), n_prompts)) {
            return;
        }
        const auto n       = static_cast<int64_t>(generating.size());
        const auto n_ctx   = static_cast<int64_t>(model_.n_ctx());
        const int64_t room = std::min(n_ctx - places_.cells_used(queue_, true), static_cast<int64_t>(n_batch_) - n) / n;
        for (const Sample * sample : generating) {
            const Request & request = sample->request;
            int64_t limit           = std::min(room, n_ctx - 1 - sample->n_past);
            if (request.params.max_tokens) {
                limit = std::min<int64_t>(limit, *request.params.max_tokens - 1 - sample->generated.size());
            }
            jobs.push_back(
                {sample->seq, request.tokens(*sample, request.n_tokens(*sample)), static_cast<int32_t>(limit), {}});
        }
    }
    drafter_->draft(jobs);
    const Lock lock(mutex_);
    for (size_t i = 0; i < jobs.size(); ++i) {
        generating[i]->draft = std::move(jobs[i].draft);
    }
}

void Scheduler::build_batch() {
    const Lock lock(mutex_);
    batch_.clear();
    batch_rows_.clear();
    batch_prefill_.clear();

    const auto add = [this](Sample & sample, int32_t pos, bool output) {
        const int32_t i = batch_.add(sample.request.token_at(sample, pos), pos, sample.seq, output);
        if (output) {
            batch_rows_.push_back({&sample, i});
        }
    };
    for (const bool drafted : {false, true}) {  // sequences of one length stand together, shorter ones first
        for (auto & request : queue_) {
            for (auto & sample : request->samples) {
                if (sample->phase != Phase::generating || sample->draft.empty() == drafted) {
                    continue;
                }
                add(*sample, sample->n_past, true);
                llama_pos pos = sample->n_past;
                for (const llama_token token : sample->draft) {
                    batch_rows_.push_back({sample.get(), batch_.add(token, ++pos, sample->seq, true)});
                }
            }
        }
    }
    int32_t budget = n_batch_ - batch_.size();
    if (!batch_.empty()) {
        budget = std::min(budget, k_prefill_beside_generation);
    }
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->phase != Phase::prefill || budget == 0) {
                continue;
            }
            if (!request->prefill_from) {
                request->prefill_from = Clock::now();
            }
            const int32_t total = request->n_tokens(*sample);
            const int32_t count = std::min(budget, places_.next_stop(*sample) - sample->n_past);
            for (int32_t i = 0; i < count; ++i) {
                const int32_t pos = sample->n_past + i;
                add(*sample, pos, pos + 1 == total);
            }
            batch_prefill_.push_back({sample.get(), count});
            budget -= count;
        }
    }
}

// Returns true when there are rows to draw from.
bool Scheduler::decode_batch() {
    const int32_t rc = decode_(context_.get(), batch_.get());
    if (rc == 0) {
        llama_synchronize(context_.get());
        if (drafter_) {
            drafter_->observe(batch_);
        }
        count_decoded();
        return true;
    }
    const Lock lock(mutex_);
    if (rc == 1) {
        if (!give_up_drafts_locked()) {
            make_room_locked();  // the memory is full and unchanged
        }
        return false;
    }
    distrust_placed_locked();
    if (rc != 2 && !closing_) {  // 2: aborted on purpose, everything in the queue is cancelled, or the engine closes
        fail_placed_locked(model_.decode_error(rc));
    }
    return false;
}

void Scheduler::count_decoded() {
    const Lock lock(mutex_);
    ++stats_.n_steps;
    for (const OutputRow & row : batch_rows_) {
        if (row.sample->phase == Phase::generating) {
            ++row.sample->n_past;
            row.sample->rolled_back = false;
        }
    }
    for (const PrefillPart & part : batch_prefill_) {
        part.sample->n_past += part.n_tokens;
        (part.sample->generated.empty() ? stats_.n_prompt_decoded : stats_.n_recomputed) += part.n_tokens;
        places_.checkpoint(*part.sample, queue_);
    }
}

// The youngest sequence gives up its place and is decoded again later; the last one left ends with "length".
void Scheduler::make_room_locked() {
    const Places::Room room = places_.make_room(queue_, n_finished_);
    stats_.n_preempted += room.preempted ? 1 : 0;
    if (room.made) {
        return;
    }
    if (room.last != nullptr) {
        finish_locked(*room.last, "length");
        forget_finished_locked();
    } else {
        fail_placed_locked("the context is full although a single sequence is left; raise n_ctx");
    }
}

// Draws are made in parallel, since each costs at least a look at the whole vocabulary; what they chose is taken over
// one by one. The context is read before, so that no thread but this one touches it.
void Scheduler::sample_rows() {
    struct Job {
        Sample * sample;
        std::vector<Row> rows;     // one more than its draft has tokens
        std::vector<Drawn> drawn;  // as far as the draft was right, and the token after that
        std::optional<std::string> error;
        const char * reason;  // to finish with, where there is an error
    };
    std::vector<Job> jobs;
    for (const OutputRow & output : batch_rows_) {
        Sample & sample   = *output.sample;
        Request & request = sample.request;
        const Row row     = read_row(context_.get(), output.index, has_neg_);
        if (sample.phase == Phase::prefill && !request.started) {
            // the prompt's last row: every sample of the request draws its first token from it
            start_samples(sample);
            for (auto & each : request.samples) {
                jobs.push_back({each.get(), {row}, {}, {}, "error"});
            }
        } else if (!sample.draft.empty() && !jobs.empty() && jobs.back().sample == &sample) {
            jobs.back().rows.push_back(row);
        } else {
            const Lock lock(mutex_);
            sample.phase = Phase::generating;
            jobs.push_back({&sample, {row}, {}, {}, "error"});
        }
    }
    parallel_for(static_cast<int32_t>(jobs.size()), model_.params().n_threads, [&](int32_t i) {
        Job & job         = jobs[static_cast<size_t>(i)];
        Sample & sample   = *job.sample;
        Request & request = sample.request;
        try {
            if (!sample.sampler) {
                sample.sampler = std::make_unique<Sampler>(model_, request.sampling_of(sample.index), request.seed,
                                                           sample.index, request.prompt);
            }
            for (size_t k = 0; k < job.rows.size(); ++k) {
                const RequestParams & params = request.params;
                job.drawn.push_back(sample.sampler->draw(job.rows[k], params.logprobs, params.true_entropy));
                const llama_token token = job.drawn.back().token;
                if (k == sample.draft.size() || token != sample.draft[k] || llama_vocab_is_eog(model_.vocab(), token)) {
                    break;  // the rows after this one belong to another text
                }
            }
        } catch (const RequestError & e) {
            job.error  = e.what();
            job.reason = "refused";
        } catch (const std::exception & e) {
            job.error = e.what();
        }
    });
    for (Job & job : jobs) {
        try {
            for (const Drawn & drawn : job.drawn) {
                if (job.sample->phase != Phase::done) {  // a stop string may end it
                    publish(*job.sample, drawn);
                }
            }
        } catch (const std::exception & e) {
            job.error = e.what();
        }
        const Lock lock(mutex_);
        if (job.error) {
            finish_locked(*job.sample, job.reason, job.error);
        } else {
            settle_draft_locked(*job.sample);
        }
    }
    const Lock lock(mutex_);
    forget_finished_locked();
}

// The request's prompt has been decoded by `leader`. Other samples get their copy of it at the next admission.
void Scheduler::start_samples(Sample & leader) {
    Request & request = leader.request;
    const Lock lock(mutex_);
    request.prefill_to = Clock::now();
    request.last_token = request.prefill_to;
    request.started    = true;
    if (request.samples.size() > 1) {
        places_.hold_prompt(leader);
    }
    leader.phase = Phase::generating;
}

void Scheduler::publish(Sample & sample, const Drawn & drawn) {
    Request & request       = sample.request;
    const bool end          = llama_vocab_is_eog(model_.vocab(), drawn.token);
    const std::string piece = end ? std::string() : model_.piece(drawn.token, request.rendered.count(drawn.token) != 0);

    const Lock lock(mutex_);
    sample.generated.push_back(drawn.token);
    ++stats_.n_generated;
    request.last_token = Clock::now();

    const Records records  = {has_neg_, request.params.logprobs.has_value(), request.params.true_entropy};
    const bool stopped     = sample.output.add(drawn, piece, records);
    const auto n_tokens    = static_cast<int32_t>(sample.generated.size());
    const bool long_enough = request.params.max_tokens && n_tokens >= *request.params.max_tokens;
    // the newest token has no cell left to be decoded into
    const bool full = request.n_tokens(sample) > static_cast<int32_t>(model_.n_ctx());
    if (stopped || end || long_enough || full) {
        settle_draft_locked(sample);
        finish_locked(sample, stopped || end ? "stop" : "length");
    } else if (request.params.notify == Notify::token && sample.output.has_news()) {
        announce_locked(request);
    }
}

// The draft of this step has been judged: the memory keeps what became part of the text, all but the newest token.
void Scheduler::settle_draft_locked(Sample & sample) {
    if (sample.draft.empty() || sample.phase == Phase::done) {
        return;
    }
    const auto n_draft     = static_cast<int32_t>(sample.draft.size());
    const int32_t n_tokens = sample.request.n_tokens(sample) - 1;
    const int32_t n_right  = n_tokens - (sample.n_past - n_draft);
    for (int32_t i = 0; i < n_draft; ++i) {
        ++stats_.drafted[static_cast<size_t>(i)];
        stats_.draft_accepted[static_cast<size_t>(i)] += i < n_right ? 1 : 0;
    }
    sample.draft.clear();
    if (n_right < n_draft && !places_.cut(sample, n_tokens)) {
        throw Error("the memory does not take a wrong draft back");
    }
    drafter_->accept(sample.seq, n_right, n_tokens);
}

// The memory is full, but not of what has been generated: the next step is made without drafts.
bool Scheduler::give_up_drafts_locked() {
    for (const OutputRow & row : batch_rows_) {
        no_room_for_drafts_ = no_room_for_drafts_ || !row.sample->draft.empty();
        row.sample->draft.clear();
    }
    return no_room_for_drafts_;
}

void Scheduler::finish_locked(Sample & sample, const char * reason, const std::optional<std::string> & error) {
    if (sample.phase == Phase::done) {
        return;
    }
    Request & request = sample.request;
    sample.output.finish(reason, error);
    sample.phase = Phase::done;
    closing_ || error ? places_.drop(sample) : places_.drop_and_keep(sample, queue_);
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
        closing_ || error ? places_.drop_held(request) : places_.drop_held_and_keep(request, queue_);
    }
    if (request.finished() || request.params.notify != Notify::request) {
        announce_locked(request);
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
    forget_finished_locked();
}

void Scheduler::forget_finished_locked() {
    queue_.remove_if([](const auto & request) { return request->finished(); });
}

// A decode that ended half-way may have left more behind than was noted.
void Scheduler::distrust_placed_locked() {
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            sample->intact = sample->seq < 0;
        }
    }
}

// Ends what takes part in the batch. What waits for a place is tried again.
void Scheduler::fail_placed_locked(const std::string & message) {
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->seq >= 0) {
                finish_locked(*sample, "error", message);
            }
        }
        places_.drop_held(*request);
    }
    places_.forget_prefixes();
    forget_finished_locked();
}

// After an exception: nothing in the queue can be trusted to go better the next time.
void Scheduler::fail_all(const char * message) noexcept {
    const Lock lock(mutex_);
    // what was thrown may have left the memory in the middle of a change: nothing of it is used or even taken apart
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            sample->seq = -1;
        }
    }
    places_.clear();
    try {
        for (auto & request : queue_) {
            for (auto & sample : request->samples) {
                finish_locked(*sample, "error", message);
            }
        }
        forget_finished_locked();
    } catch (...) {
        abandon_all_locked();
    }
}

// The last resort, which allocates nothing: everything ends with an error, whatever state it is in.
void Scheduler::abandon_all_locked() noexcept {
    for (auto & request : queue_) {
        for (auto & sample : request->samples) {
            if (sample->phase != Phase::done) {
                sample->phase = Phase::done;
                ++request->n_done;
                ++n_finished_;
            }
            if (!sample->output.finished()) {
                sample->output.fail_without_memory();
            }
            sample->seq = -1;
            sample->sampler.reset();
        }
        announce_locked(*request);
    }
    places_.clear();
    queue_.clear();
}

}  // namespace darwin_neg
