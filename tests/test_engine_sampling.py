"""Sampled decoding: what the gate allows, what a seed fixes, what samples of one prompt share."""

from __future__ import annotations

import numpy as np

from darwin_neg_cpp import Neg

PROMPT = "Once upon a time, in a village by the sea, there lived"


def ranks(llm, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """Rank of each token among the logits that it was drawn from, from a separate teacher-forced pass."""
    logits = llm._engine.evaluate([prompt + tokens], logits=True)["logits"][len(prompt) - 1 : -1]
    chosen = logits[np.arange(len(tokens)), tokens]
    return (logits > chosen[:, None]).sum(axis=1)


def test_gate_forced_on_emits_only_top_k_tokens(smol):
    prompt = smol.tokenize(PROMPT)
    hot = {"max_tokens": 60, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True}
    free_ranks, gated_ranks = [], []
    for seed in range(4):
        gated = smol.generate(prompt, seed=seed, neg=Neg(threshold=0.0, top_k=5), logprobs=5, **hot)
        assert gated.neg.active.all()
        for token, top in zip(gated.token_ids, gated.logprobs.top_ids, strict=True):
            assert token in top
        gated_ranks += ranks(smol, prompt, gated.token_ids.tolist()).tolist()
        free = smol.generate(prompt, seed=seed, neg=Neg(enabled=False), **hot)
        free_ranks += ranks(smol, prompt, free.token_ids.tolist()).tolist()
    assert max(free_ranks) > 1000, "without the gate such a temperature leaves the top"
    # exact above, by the row itself; this second look decodes in another batch shape, whose rounding swaps neighbours
    assert max(gated_ranks) < 20


def test_gate_acts_only_above_its_threshold(smol):
    hot = {"max_tokens": 80, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 3, "ignore_eos": True}
    out = smol.generate(PROMPT, neg=Neg(threshold=1.0, top_k=2), logprobs=2, **hot)
    inside = np.array([token in top for token, top in zip(out.token_ids, out.logprobs.top_ids, strict=True)])
    assert out.neg.active.any() and not out.neg.active.all()
    assert inside[out.neg.active].all()
    assert not inside[~out.neg.active].all()


def test_same_seed_gives_same_tokens_run_after_run(smol):
    runs = [smol.generate(PROMPT, max_tokens=40, temperature=1.0, seed=11).token_ids.tolist() for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert smol.generate(PROMPT, max_tokens=40, temperature=1.0, seed=12).token_ids.tolist() != runs[0]


def test_drawn_seed_is_reported_and_repeats_the_answer(smol):
    first = smol.generate(PROMPT, max_tokens=24, temperature=1.0)
    again = smol.generate(PROMPT, max_tokens=24, temperature=1.0, seed=first.seed)
    assert again.token_ids.tolist() == first.token_ids.tolist()
    assert smol.generate(PROMPT, max_tokens=24, temperature=1.0).seed != first.seed


def test_sixteen_samples_decode_the_prompt_once_and_differ(smol):
    prompt = smol.tokenize(PROMPT)
    before = smol.stats()["n_prompt_decoded"]
    out = smol.generate(prompt, n=16, max_tokens=24, temperature=1.0, seed=5)
    assert smol.stats()["n_prompt_decoded"] - before == len(prompt)
    assert [one.index for one in out] == list(range(16))
    assert len({tuple(one.token_ids.tolist()) for one in out}) == 16
    assert smol.stats()["n_seq_used"] == 0


def test_sample_k_depends_on_seed_and_k_alone(smol):
    """The first token of sample k comes from the same row whatever else runs, so it must not change with n or neighbours."""
    hot = {"max_tokens": 1, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 42}
    few = [one.token_ids[0] for one in smol.generate(PROMPT, n=4, **hot)]
    many = [one.token_ids[0] for one in smol.generate(PROMPT, n=12, **hot)]
    assert few == many[:4]
    assert len(set(many)) > 3
    alone = smol.generate(PROMPT, n=1, **hot)
    assert alone.token_ids[0] == many[0]


def test_every_token_has_an_entropy_and_a_gate_state(smol):
    for one in smol.generate([PROMPT, "Hello", "2 + 2 ="], max_tokens=20, temperature=1.0, seed=1):
        assert one.neg.entropy.dtype == np.float32 and one.neg.active.dtype == np.bool_
        assert len(one.neg.entropy) == len(one.neg.active) == len(one.token_ids) > 0
        assert np.isfinite(one.neg.entropy).all() and (one.neg.entropy >= 0).all()
        assert one.neg.activation_rate == one.neg.active.mean()
