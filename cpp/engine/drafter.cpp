#include "drafter.h"

#include "errors.h"

#include "llama-ext.h"

#include <algorithm>
#include <string>
#include <utility>

namespace darwin_neg {

namespace {

// The shortest text that prompt lookup takes for a repetition.
constexpr uint16_t k_lookup = 3;

bool is_recurrent(const Model & model) {
    return llama_model_is_recurrent(model.get()) || llama_model_is_hybrid(model.get());
}

}  // namespace

std::unique_ptr<Drafter> Drafter::make(const Model & model, llama_context * target) {
    if (model.params().n_draft() == 0) {
        return nullptr;
    }
    return std::unique_ptr<Drafter>(new Drafter(model, target));
}

Drafter::Drafter(const Model & model, llama_context * target)
    : n_max_(static_cast<int32_t>(model.params().n_draft())),
      max_parallel_(model.params().mtp_max_parallel),
      recurrent_(is_recurrent(model)),
      observed_to_(llama_n_seq_max(target), -1) {
    const ModelParams & p = model.params();
    if (recurrent_ && llama_n_rs_seq(target) < p.n_draft()) {
        throw RequestError(p.model_path + ": architecture '" + model.architecture() +
                           "' cannot take tokens back, which drafts need; leave draft and mtp out");
    }
    common_params_speculative params;
    params.types.clear();
    if (p.draft == "ngram") {
        params.types.push_back(COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE);
        params.ngram_simple.size_n = k_lookup;
        // it proposes nothing shorter than what it looks up; `limit` cuts the rest
        params.ngram_simple.size_m = std::max(k_lookup, static_cast<uint16_t>(p.draft_max));
    }
    if (p.mtp > 0) {
        params.types.push_back(COMMON_SPECULATIVE_TYPE_DRAFT_MTP);
        // a draft is decoded behind what the target holds, and taken back before that grows
        ContextParams shape           = {model.n_ctx() + p.mtp_max_parallel * (p.mtp + 1), p.n_batch, p.n_ubatch,
                                         llama_n_seq_max(target)};
        shape.n_outputs               = shape.n_seq;
        shape.drafts_for              = target;
        context_                      = model.make_context(shape);
        params.draft.n_max            = static_cast<int32_t>(p.mtp);
        params.draft.ctx_tgt          = target;
        params.draft.ctx_dft          = context_.get();
        params.draft.backend_sampling = p.n_gpu_layers != 0 && llama_model_n_devices(model.get()) > 0;
    }
    speculative_.reset(common_speculative_init(params, llama_n_seq_max(target)));
}

bool Drafter::may_draft(size_t n_generating, size_t n_prompts) const {
    // Several prompts beside the drafts end in decodes of several sequences after that of the drafts, and those may
    // move the recurrent states of others, but not the snapshots to which a wrong draft would return.
    return n_generating > 0 && n_generating <= max_parallel_ && (!recurrent_ || n_prompts <= 1);
}

void Drafter::draft(std::vector<Job> & jobs) {
    if (script_) {
        for (Job & job : jobs) {
            job.draft = script_(job);
        }
    } else {
        draft_by_model(jobs);
    }
    for (Job & job : jobs) {
        job.draft.resize(std::min(job.draft.size(), static_cast<size_t>(std::max(job.limit, 0))));
    }
    level(jobs);
}

void Drafter::draft_by_model(std::vector<Job> & jobs) {
    std::vector<std::pair<llama_seq_id, llama_pos>> drafting;
    for (Job & job : jobs) {
        const auto pos = static_cast<llama_pos>(job.tokens.size()) - 1;
        if (job.limit < 1 || (context_ && !continues_at(job.seq, pos))) {
            continue;
        }
        common_speculative_draft_params & params = common_speculative_get_draft_params(speculative_.get(), job.seq);
        params.drafting                          = true;
        params.n_max                             = job.limit;
        params.pos0                              = pos;
        params.id_last                           = job.tokens.back();
        params.result                            = &job.draft;
        job.tokens.pop_back();
        params.prompt = &job.tokens;
        drafting.emplace_back(job.seq, pos);
    }
    common_speculative_draft(speculative_.get());
    if (context_) {
        for (const auto & [seq, pos] : drafting) {
            llama_memory_seq_rm(llama_get_memory(context_.get()), seq, pos, -1);
        }
    }
}

// Whether what the MTP block knows of a sequence ends just before `pos`. Not so for a copy of another sequence.
bool Drafter::continues_at(llama_seq_id seq, llama_pos pos) const {
    return observed_to_[static_cast<size_t>(seq)] == pos &&
           llama_memory_seq_pos_max(llama_get_memory(context_.get()), seq) == pos - 1;
}

// Shortens drafts to one length, that with the most tokens, and leaves out those that do not reach it: each further
// length would be another decode.
void Drafter::level(std::vector<Job> & jobs) const {
    size_t best   = 0;
    size_t length = 0;
    for (size_t n = 1; n <= static_cast<size_t>(n_max_); ++n) {
        const auto reach =
            std::count_if(jobs.begin(), jobs.end(), [n](const Job & job) { return job.draft.size() >= n; });
        if (n * static_cast<size_t>(reach) > best) {
            best   = n * static_cast<size_t>(reach);
            length = n;
        }
    }
    for (Job & job : jobs) {
        job.draft.resize(job.draft.size() < length ? 0 : length);
    }
}

void Drafter::observe(const Batch & batch) {
    if (!context_) {
        return;
    }
    llama_memory_t memory   = llama_get_memory(context_.get());
    const llama_batch & all = batch.get();
    observed_.clear();
    std::vector<std::pair<llama_seq_id, llama_pos>> ends;
    for (int32_t i = 0; i < all.n_tokens; ++i) {
        const llama_seq_id seq = all.seq_id[i][0];
        const llama_pos pos    = all.pos[i];
        observed_.add(all.token[i], pos, seq, false);
        if (ends.empty() || ends.back().first != seq) {
            ends.emplace_back(seq, pos);
            // tokens that were taken back since, or a beginning without what comes between
            llama_memory_seq_rm(memory, seq, llama_memory_seq_pos_max(memory, seq) < pos - 1 ? 0 : pos, -1);
        }
        ends.back().second = pos + 1;
    }
    const bool ok = common_speculative_process(speculative_.get(), observed_);
    for (const auto & [seq, end] : ends) {
        observed_to_[static_cast<size_t>(seq)] = ok ? end : -1;
        if (!ok) {
            llama_memory_seq_rm(memory, seq, -1, -1);
        }
    }
}

void Drafter::accept(llama_seq_id seq, int32_t n, llama_pos n_tokens) {
    if (!script_) {
        common_speculative_accept(speculative_.get(), seq, static_cast<uint16_t>(n));
    }
    llama_pos & end = observed_to_[static_cast<size_t>(seq)];
    end             = std::min(end, n_tokens);  // -1 stays
}

}  // namespace darwin_neg
