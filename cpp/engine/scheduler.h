#pragma once

#include "model.h"
#include "request.h"
#include "sampler.h"
#include "text_stream.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace darwin_neg {

struct Stats {
    int64_t n_prompt_decoded = 0;  // prompt tokens evaluated; a prompt shared by n samples counts once
    int64_t n_recomputed     = 0;  // tokens evaluated again after a sequence had to give up its place
    int64_t n_generated      = 0;
    int64_t n_steps          = 0;
    int64_t n_preempted      = 0;
    int64_t n_requests       = 0;  // ever submitted
    int64_t n_waiting        = 0;  // samples without a place
    int64_t n_running        = 0;
    int64_t n_seq_used       = 0;
    int64_t kv_cells_used    = 0;  // tokens held in memory, a shared prompt once
};

// Continuous batching over one llama_context. All members but the worker thread's own are guarded by `mutex_`; the context is
// touched by the worker thread alone.
//
// A step decodes one token of every generating sequence and, in what is left of the batch, pieces of the prompts that wait.
// A prompt with n samples is decoded by its first sample; at its last token the first token of all n samples is drawn from the
// same row, and the memory (attention cells and recurrent state alike) is copied to a sequence for each sample as places become
// free. Sequence n_parallel, one more than can generate, holds such a prompt until its last sample has started.
class Scheduler {
public:
    // The model must outlive the scheduler. Throws ModelFileError when no context of that size can be made.
    explicit Scheduler(const Model & model);
    ~Scheduler();
    Scheduler(const Scheduler &)             = delete;
    Scheduler & operator=(const Scheduler &) = delete;

    // A request for each prompt, all queued at once, so that they begin in the same step. Everything is checked before anything is
    // queued. Throws RequestError, ContextFullError or NegHeadError.
    std::vector<int64_t> submit(std::vector<std::vector<llama_token>> prompts, const RequestParams & params);

    // What is new of a request; nothing after `timeout`. A stream request answers as soon as anything is new, another one when
    // all its samples are finished. Throws RequestError for an id that is not known (any more).
    std::optional<Update> wait(int64_t id, std::chrono::duration<double> timeout);

    // Requests whose wait() would return at once, each reported once per piece of news.
    std::vector<int64_t> wait_any(std::chrono::duration<double> timeout);

    void cancel(int64_t id);
    void cancel_all();
    void release(int64_t id);
    void close();

    Stats stats() const;

private:
    struct Request;
    struct Sample;
    std::shared_ptr<Request> make_request(std::vector<llama_token> prompt, const RequestParams & params) const;

    using Clock = std::chrono::steady_clock;

    // --- worker thread, without the lock unless named *_locked ---
    void run();
    void admit_locked();
    bool place_sample_locked(Sample & sample);
    void build_batch();
    bool decode_batch();
    void sample_rows();
    void start_samples(Sample & leader);
    void publish(Sample & sample, const Drawn & drawn);
    void finish_locked(Sample & sample, const std::string & reason, const std::optional<std::string> & error = std::nullopt);
    void drop_sequence_locked(Sample & sample);
    void drop_holder_locked(Request & request);
    void preempt_locked(Sample & sample);
    bool make_room_locked();
    void apply_cancellations_locked();
    void fail_all_locked(const std::string & message);
    void copy_sequence(llama_seq_id from, llama_seq_id to);
    int64_t cells_used_locked(bool with_pending) const;
    void notify_locked(Request & request);
    void ask_to_stop_locked(Request & request);

    const Model & model_;
    LlamaContextPtr context_;
    llama_memory_t memory_ = nullptr;
    // what decodes a batch; tests put in one that fails
    std::function<int32_t(llama_context *, llama_batch)> decode_ = llama_decode;
    friend struct SchedulerTest;
    int32_t n_batch_   = 0;
    llama_batch batch_ = {};
    std::vector<Sample *> batch_rows_;      // for each output row of the batch in order: whose it is
    std::vector<int32_t> batch_row_index_;  // its index in the batch
    std::vector<Sample *> batch_prefill_;
    std::vector<int32_t> batch_prefill_count_;

    mutable std::mutex mutex_;
    std::condition_variable work_;  // for the worker: something to do, or closing
    std::condition_variable news_;  // for wait() and wait_any()

    std::map<int64_t, std::shared_ptr<Request>> requests_;  // until released
    std::list<std::shared_ptr<Request>> queue_;             // not finished, by arrival
    std::vector<llama_seq_id> free_seqs_;
    Request * holder_ = nullptr;  // whose prompt sits in sequence n_parallel
    std::set<int64_t> fresh_;     // for wait_any
    int64_t next_id_    = 1;
    int64_t n_finished_ = 0;  // samples, ever
    Stats stats_;
    bool closing_                   = false;
    std::atomic<bool> abort_decode_ = false;
    std::thread thread_;
};

}  // namespace darwin_neg
