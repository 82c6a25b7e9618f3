#pragma once

#include "batch.h"
#include "drafter.h"
#include "inbox.h"
#include "model.h"
#include "mutex.h"
#include "places.h"
#include "prefix_cache.h"
#include "request.h"
#include "sample.h"
#include "update.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace darwin_neg {

struct Stats {
    int64_t n_prompt_decoded = 0;  // prompt tokens evaluated; a prompt shared by n samples counts once
    int64_t n_prompt_reused  = 0;  // prompt tokens that had been evaluated for an earlier request
    int64_t n_recomputed     = 0;  // tokens evaluated again after a sequence had to give up its place
    int64_t n_generated      = 0;
    int64_t n_steps          = 0;
    int64_t n_preempted      = 0;
    int64_t n_requests       = 0;  // ever submitted
    int64_t n_waiting        = 0;  // samples without a place
    int64_t n_running        = 0;
    int64_t n_seq_used       = 0;
    int64_t kv_cells_used    = 0;  // tokens held in memory for those, a shared prompt once
    int64_t n_prefixes       = 0;  // beginnings of texts kept for later prompts
    int64_t prefix_bytes     = 0;  // host memory that others of them take

    std::vector<int64_t> drafted;         // tokens drafted, by their place in the draft; empty where none are made
    std::vector<int64_t> draft_accepted;  // and those that were what the sampler chose
};

// The context that a scheduler makes for a model.
ContextParams context_shape(const Model & model);

// Continuous batching over one llama_context, which the worker thread alone touches.
//
// A step decodes one token of every generating sequence and, in what is left of the batch, pieces of the prompts that
// wait. A prompt with n samples is decoded by its first sample; at its last token the first token of all n samples is
// drawn from the same row. How the samples then come to their sequences is told in places.h.
class Scheduler : public std::enable_shared_from_this<Scheduler> {
public:
    // Held by a shared_ptr, since Requests keep it alive. The model must live until close(). Throws ModelFileError when
    // no context of that size can be made.
    explicit Scheduler(const Model & model);
    ~Scheduler();
    Scheduler(const Scheduler &)             = delete;
    Scheduler & operator=(const Scheduler &) = delete;

    std::shared_ptr<Inbox> inbox() const;

    // A request for each prompt, all queued at once, so that they begin in the same step. chat: what the prompts came
    // from, or null. Everything is checked before anything is queued. Throws RequestError, ContextFullError or
    // NegHeadError.
    Requests submit(std::vector<std::vector<llama_token>> prompts, const RequestParams & params,
                    const std::shared_ptr<Inbox> & inbox, const std::shared_ptr<const ChatPrompt> & chat = nullptr)
        EXCLUDES(mutex_);

    // The next news of a request of this inbox, as its `notify` asks for; nothing after `timeout`, or when the inbox is
    // closed and empty. Several threads may wait on one inbox; each piece of news goes to one of them.
    std::optional<Update> wait(Inbox & inbox, std::chrono::duration<double> timeout) EXCLUDES(mutex_);

    // No more news is wanted from it: those that wait return.
    void close_inbox(Inbox & inbox) EXCLUDES(mutex_);
    // Closed and empty.
    bool ended(const Inbox & inbox) const EXCLUDES(mutex_);

    // See Requests, which calls these. Ids that are not known (any more) are ignored.
    void cancel(const std::vector<int64_t> & ids) EXCLUDES(mutex_);
    void release(int64_t id) noexcept EXCLUDES(mutex_);

    void cancel_all() EXCLUDES(mutex_);

    // Ends everything that runs as "cancelled", and the thread. Answers can still be fetched; the model is not used
    // again.
    void close() EXCLUDES(mutex_, close_mutex_);

    Stats stats() const EXCLUDES(mutex_);

    // The state of the longest kept beginning of these tokens (none given: of the text used last) as llama.cpp writes
    // it; empty if nothing is kept. See PrefixCache.
    PrefixCache::State save_prefix(const std::vector<llama_token> & tokens) EXCLUDES(mutex_);
    // Keeps a state that save_prefix gave, for as long as the model is open. Throws RequestError.
    void load_prefix(PrefixCache::State state) EXCLUDES(mutex_);

private:
    using Clock = Request::Clock;
    using Phase = Sample::Phase;

    std::shared_ptr<Request> make_request(std::vector<llama_token> prompt, const RequestParams & params,
                                          const std::shared_ptr<const ChatPrompt> & chat) const;
    Update take_update_locked(Request & request) REQUIRES(mutex_);
    void announce_locked(Request & request) noexcept REQUIRES(mutex_);
    void ask_to_stop_locked(Request & request) REQUIRES(mutex_);

    // --- worker thread
    void run() noexcept;
    bool step() EXCLUDES(mutex_);
    bool wait_for_work() EXCLUDES(mutex_);
    void draft() EXCLUDES(mutex_);
    void build_batch() EXCLUDES(mutex_);
    bool decode_batch() EXCLUDES(mutex_);
    void count_decoded() EXCLUDES(mutex_);
    void sample_rows() EXCLUDES(mutex_);
    void start_samples(Sample & leader) EXCLUDES(mutex_);
    void publish(Sample & sample, const Drawn & drawn) EXCLUDES(mutex_);
    void settle_draft_locked(Sample & sample) REQUIRES(mutex_);
    bool give_up_drafts_locked() REQUIRES(mutex_);
    void finish_locked(Sample & sample, const char * reason, const std::optional<std::string> & error = std::nullopt)
        REQUIRES(mutex_);
    void make_room_locked() REQUIRES(mutex_);
    void apply_cancellations_locked() REQUIRES(mutex_);
    void forget_finished_locked() REQUIRES(mutex_);
    void distrust_placed_locked() REQUIRES(mutex_);
    void run_on_worker(const std::function<void(PrefixCache &)> & task) EXCLUDES(mutex_);
    void fail_placed_locked(const std::string & message) REQUIRES(mutex_);
    void fail_all(const char * message) noexcept EXCLUDES(mutex_);
    void abandon_all_locked() noexcept REQUIRES(mutex_);

    const Model & model_;
    const bool has_neg_;
    LlamaContextPtr context_;
    std::unique_ptr<Drafter> drafter_;  // or null
    // what decodes a batch; tests put in one that fails
    std::function<int32_t(llama_context *, llama_batch)> decode_ = llama_decode;
    friend struct SchedulerTest;

    // The worker's own: the batch of this step, and whose its rows are.
    struct OutputRow {
        Sample * sample;
        int32_t index;  // in the batch
    };
    struct PrefillPart {
        Sample * sample;
        int32_t n_tokens;
    };
    Batch batch_;
    int32_t n_batch_ = 0;
    std::vector<OutputRow> batch_rows_;
    std::vector<PrefillPart> batch_prefill_;
    bool no_room_for_drafts_ = false;  // in the next step

    mutable Mutex mutex_;
    CondVar work_;  // for the worker: something to do, or closing
    std::map<int64_t, std::shared_ptr<Request>> requests_ GUARDED_BY(mutex_);  // until released
    Queue queue_ GUARDED_BY(mutex_);
    Places places_ GUARDED_BY(mutex_);
    std::list<std::packaged_task<void(PrefixCache &)>> tasks_ GUARDED_BY(mutex_);  // for the worker, between two steps
    int64_t next_id_ GUARDED_BY(mutex_)    = 1;
    int64_t n_finished_ GUARDED_BY(mutex_) = 0;  // samples, ever
    Stats stats_ GUARDED_BY(mutex_);
    bool closing_ GUARDED_BY(mutex_) = false;

    std::atomic<bool> abort_decode_ = false;
    Mutex close_mutex_;                                 // held while close() ends the thread
    std::future<void> ended_ GUARDED_BY(close_mutex_);  // of the thread
    std::thread thread_ GUARDED_BY(close_mutex_);
};

}  // namespace darwin_neg
