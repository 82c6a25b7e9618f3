"""Sampled decoding: what the gate allows, what a seed fixes, what samples of one prompt share."""

from __future__ import annotations

import dataclasses

import numpy as np

from darwin_neg_cpp import DarwinNEG, Neg
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format

PROMPT = "Once upon a time, in a village by the sea, there lived"


def ranks(llm, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """Rank of each token among the logits that it was drawn from, from a separate teacher-forced pass."""
    logits = llm.session.engine.score([prompt + tokens], logits=True)["logits"][len(prompt) - 1 : -1]
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


FREE = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True}


def test_temp_scale_divides_the_kept_logits_when_asked_for_or_when_the_model_says_so(smol, smollm2, tmp_path):
    """Where every row is gated, dividing by temp_scale at temperature 1 is decoding at that temperature."""
    scale = smol.neg["temp_scale"]
    assert 0.5 < scale < 0.7 and not smol.neg["temp_enabled"]
    common = {"max_tokens": 40, "seed": 5, **FREE}

    def tokens(llm: DarwinNEG, temperature: float, use: bool | None) -> list[int]:
        neg = Neg(threshold=0.0, top_k=5, use_temp_scale=use)
        return llm.generate(PROMPT, temperature=temperature, neg=neg, **common).token_ids.tolist()

    plain, scaled = tokens(smol, 1.0, False), tokens(smol, 1.0, True)
    assert scaled == tokens(smol, scale, False) != plain
    assert tokens(smol, 1.0, None) == plain
    enabled = dataclasses.replace(neg_format.read_head(smollm2.model), temp_enabled=True)
    neg_files.write_side_car(enabled, smollm2.base, tmp_path / "enabled.gguf")
    with DarwinNEG(smollm2.base, tmp_path / "enabled.gguf", n_ctx=512) as llm:
        assert tokens(llm, 1.0, None) == scaled and tokens(llm, 1.0, False) == plain


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
    assert [sample.index for sample in out] == list(range(16))
    assert len({tuple(sample.token_ids.tolist()) for sample in out}) == 16
    assert smol.stats()["n_seq_used"] == 0


def test_sample_k_depends_on_seed_and_k_alone(smol):
    """Whatever else runs, sample k draws its first token from the same row: n and neighbours must not change it."""
    hot = {"max_tokens": 1, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 42}
    few = [sample.token_ids[0] for sample in smol.generate(PROMPT, n=4, **hot)]
    many = [sample.token_ids[0] for sample in smol.generate(PROMPT, n=12, **hot)]
    assert few == many[:4]
    assert len(set(many)) > 3
    alone = smol.generate(PROMPT, n=1, **hot)
    assert alone.token_ids[0] == many[0]


def test_whole_samples_depend_on_seed_and_k_alone(tiny_llama):
    """On F32 weights the batch shape does not change the choice, so whole answers can be compared."""
    hot = {"max_tokens": 30, "temperature": 1.5, "seed": 9, **FREE}
    with DarwinNEG(tiny_llama, n_ctx=512, n_parallel=4) as llm:
        many = [sample.token_ids.tolist() for sample in llm.generate("hello", n=6, **hot)]
        assert [sample.token_ids.tolist() for sample in llm.generate("hello", n=2, **hot)] == many[:2]
        beside = llm.generate(["other", "hello", "third"], n=3, **hot)
        assert [sample.token_ids.tolist() for sample in beside[1]] == many[:3]


def test_each_sample_may_have_a_temperature_of_its_own(smol):
    common = {"max_tokens": 24, "seed": 3, "ignore_eos": True}
    outs = smol.generate(PROMPT, n=3, temperature=[0.0, 1.0, 0.0], **common)
    first, drawn, last = (sample.token_ids.tolist() for sample in outs)
    assert first == last != drawn
    # its first token comes from the row that all share, and from sample 1's own seed
    assert drawn[0] == smol.generate(PROMPT, n=2, temperature=1.0, **common)[1].token_ids[0]


def test_every_token_has_an_entropy_and_a_gate_state(smol):
    for one in smol.generate([PROMPT, "Hello", "2 + 2 ="], max_tokens=20, temperature=1.0, seed=1):
        assert one.neg.entropy.dtype == np.float32 and one.neg.active.dtype == np.bool_
        assert len(one.neg.entropy) == len(one.neg.active) == len(one.token_ids) > 0
        assert np.isfinite(one.neg.entropy).all() and (one.neg.entropy >= 0).all()
        assert one.neg.activation_rate == one.neg.active.mean()
