"""Generation on a Vulkan device against the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, Neg
from vulkan_models import assert_close

Load = Callable[..., DarwinNEG]

PROMPT = "hello world, this is a text of which every byte is a token"
GREEDY = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True, "logprobs": 2}
# products of more than eight rows round their factors to F16 there
TOLERANCE = 2e-2


@pytest.fixture(scope="module")
def cpu(load: Load, name: str) -> DarwinNEG:
    return load(name, devices=[])


@pytest.mark.parametrize("n_gpu_layers", [0, 1, 2, -1])
def test_answers_are_the_cpus_however_many_layers_are_on_the_device(
    load: Load, cpu: DarwinNEG, name: str, n_gpu_layers: int
) -> None:
    llm = load(name, n_gpu_layers=n_gpu_layers)
    for prompt in (PROMPT, "x"):
        assert_close(llm.generate(prompt, **GREEDY), cpu.generate(prompt, **GREEDY), TOLERANCE)


def test_a_record_is_that_of_the_same_text_given(load: Load, name: str) -> None:
    """Token by token, and all of a text in a batch."""
    llm = load(name)
    out = llm.generate(PROMPT, true_entropy=True, **GREEDY)
    given = llm.score([*llm.tokenize(PROMPT), *out.token_ids.tolist()])
    n = len(out.token_ids)
    np.testing.assert_allclose(out.neg.entropy, given.neg.entropy[-n - 1 : -1], atol=TOLERANCE)
    np.testing.assert_allclose(out.true_entropy, given.entropy[-n - 1 : -1], atol=TOLERANCE)


def test_batches_and_samples_are_those_of_single_requests(load: Load, name: str) -> None:
    llm = load(name)
    prompts = [PROMPT[i:] for i in range(6)]
    batch = llm.generate(prompts, **GREEDY)
    for prompt, got in zip(prompts, batch, strict=True):
        assert_close(got, llm.generate(prompt, **GREEDY), TOLERANCE)
    many = llm.generate(PROMPT, n=9, **GREEDY)  # more than run side by side
    alone = llm.generate(PROMPT, **GREEDY)
    for got in many:
        assert_close(got, alone, TOLERANCE)
    hot = llm.generate(PROMPT, n=3, temperature=1.5, seed=3, max_tokens=12, ignore_eos=True)
    assert len({tuple(sample.token_ids.tolist()) for sample in hot}) == 3
    assert llm.stats()["n_seq_used"] == llm.stats()["kv_cells_used"] == 0


def test_a_cancelled_request_frees_its_place(load: Load, name: str) -> None:
    llm = load(name)
    with llm.stream(PROMPT, max_tokens=400, ignore_eos=True) as stream:
        next(stream)
    after = llm.generate(PROMPT, **GREEDY)
    assert_close(after, load(name, devices=[]).generate(PROMPT, **GREEDY), TOLERANCE)
    assert llm.stats()["n_seq_used"] == llm.stats()["kv_cells_used"] == 0


def test_a_prompt_that_begins_like_an_earlier_one(load: Load, name: str) -> None:
    keeps, plain = load(name, prefix_cache=4), load(name)
    text = plain.tokenize(PROMPT)
    for turn in range(3):
        got, expected = keeps.generate(text, **GREEDY), plain.generate(text, **GREEDY)
        assert_close(got, expected, TOLERANCE)
        assert got.cached_tokens > 0 if turn else got.cached_tokens == 0
        text = [*text, *got.token_ids.tolist(), *plain.tokenize(f" and {turn} ")[1:]]


@pytest.mark.parametrize("mtp", [1, 3])
def test_drafts_of_the_models_own_block(load: Load, mtp: int) -> None:
    """The block's drafts are drawn in the graph, on the device."""
    plain, drafting = load("hybrid"), load("hybrid", mtp=mtp, mtp_max_parallel=4)
    for options in ({}, {"neg": Neg(threshold=0.5, top_k=3)}, {"temperature": 1.0, "seed": 5}):
        got, expected = (llm.generate(PROMPT, **{**GREEDY, **options}) for llm in (drafting, plain))
        assert_close(got, expected, TOLERANCE)
    # several at once: later rows of logits than the first begin at no multiple of what the device asks for
    prompts = ["hello", "fox", "abcabc", "the end"]
    batches = [llm.generate(prompts, **GREEDY) for llm in (drafting, plain)]
    for got, expected in zip(*batches, strict=True):
        assert_close(got, expected, TOLERANCE)
    stats = drafting.stats()
    assert sum(stats["drafted"]) > sum(stats["draft_accepted"]) > 0
