"""Measured entropies of generated tokens: of the model's own distribution, whatever is drawn from it and however."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, Generation, RequestError, SamplingParams
from darwin_neg_cpp.results import Chunk
from oracles import neg_reference
from tiny_gguf import write_tiny_llama

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
PROMPT = "hello world"
HOT: dict[str, Any] = {"temperature": 1.6, "top_k": 0, "min_p": 0.0, "seed": 3, "max_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DarwinNEG]:
    file = write_tiny_llama(tmp_path_factory.mktemp("true-entropy") / "tiny.gguf")
    # keys in full precision and no flash attention: the shape of a batch then moves no entropy
    exact: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off", "prefix_cache": 0}
    with DarwinNEG(file, n_ctx=512, n_parallel=4, n_threads=1, chat_template=TEMPLATE, **exact) as model:
        yield model


def check(llm: DarwinNEG, prompt: str, out: Generation) -> None:
    """Holds the entropies against NumPy's, in float64 of the logits of the finished text."""
    given = llm.tokenize(prompt)
    logits = llm.session.engine.score([[*given, *out.token_ids.tolist()]], logits=True)["logits"]
    expected = neg_reference.entropy_of(logits)[len(given) - 1 : -1]
    assert out.true_entropy is not None and out.true_entropy.dtype == np.float32
    assert len(out.true_entropy) == len(out.token_ids)
    np.testing.assert_allclose(out.true_entropy, expected, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True},
        HOT,
        {**HOT, "logprobs": 4},
        {**HOT, "grammar": "root ::= [a-e]+"},
        {**HOT, "logit_bias": {97: 8.0}, "repeat_penalty": 1.4},
        {**HOT, "stop": ["e", "a", "\x7f"]},
        {**HOT, "mirostat": 2},
        {**HOT, "max_tokens": 0},
    ],
    ids=["greedy", "sampled", "with logprobs", "grammar", "biases", "stop", "mirostat", "nothing"],
)
def test_equals_numpy_on_the_same_logits_and_changes_no_token(llm: DarwinNEG, options: dict[str, Any]) -> None:
    out = llm.generate(PROMPT, true_entropy=True, **options)
    check(llm, PROMPT, out)
    plain = llm.generate(PROMPT, **options)
    assert plain.true_entropy is None
    assert plain.token_ids.tolist() == out.token_ids.tolist() and plain.text == out.text
    assert out.stop == plain.stop and len(out.token_ids) == (
        options["max_tokens"] if out.stop is None else len(plain.pieces)
    )
    if out.logprobs is not None and plain.logprobs is not None:
        np.testing.assert_array_equal(out.logprobs.top, plain.logprobs.top)


def test_every_sample_of_every_prompt_of_a_batch_has_its_own(llm: DarwinNEG) -> None:
    prompts = ["one", "another one", "and a third"]
    batch = llm.generate(prompts, n=5, true_entropy=True, **{**HOT, "max_tokens": 12})
    assert len({tuple(sample.token_ids) for samples in batch for sample in samples}) == 15
    for prompt, samples in zip(prompts, batch, strict=True):
        for sample in samples:
            check(llm, prompt, sample)


def joined(chunks: list[Chunk]) -> np.ndarray:
    assert all(len(chunk.true_entropy) == len(chunk.token_ids) for chunk in chunks)  # type: ignore[arg-type]
    return np.concatenate([chunk.true_entropy for chunk in chunks if chunk.true_entropy is not None])


def test_streams_chats_and_asyncio_have_the_same(llm: DarwinNEG) -> None:
    params = SamplingParams(true_entropy=True, stop=["\x01\x02"], **HOT)
    expected = llm.generate(PROMPT, params).true_entropy
    messages = [{"role": "user", "content": PROMPT}]

    async def everything() -> list[Any]:
        return [
            (await llm.agenerate(PROMPT, params)).true_entropy,
            (await llm.achat(messages, params)).true_entropy,
            joined([chunk async for chunk in llm.astream(PROMPT, params)]),
        ]

    with llm.stream(PROMPT, params) as chunks:
        found = [joined(list(chunks))]
    found += [llm.chat(messages, params).true_entropy, *asyncio.run(everything())]
    found.append(joined([part.chunk for part in llm.stream_chat(messages, params)]))
    assert all(part.true_entropy is None for part in llm.stream_chat(messages, max_tokens=2))
    for values in found:
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_is_part_of_openais_form_only_where_it_was_asked_for(llm: DarwinNEG) -> None:
    out = llm.generate(PROMPT, true_entropy=True, **HOT)
    (choice,) = json.loads(json.dumps(out.to_openai(), allow_nan=False))["choices"]
    assert out.true_entropy is not None
    assert choice["true_entropy"] == [float(value) for value in out.true_entropy]
    assert "true_entropy" not in llm.generate(PROMPT, **HOT).to_openai()["choices"][0]


@pytest.mark.parametrize("value", [1, "yes", None, 0.5])
def test_is_a_flag(value: Any) -> None:
    with pytest.raises(RequestError, match="true_entropy must be True or False"):
        SamplingParams(true_entropy=value)


def test_is_there_of_an_answer_that_was_cut_off(llm: DarwinNEG, tmp_path: Path) -> None:
    with llm.stream(PROMPT, true_entropy=True, temperature=0.0, ignore_eos=True, max_tokens=400) as chunks:
        first = next(chunks)
        chunks.cancel()
        rest = list(chunks)
    assert rest[-1].finish_reason == "cancelled"
    assert len(joined([first, *rest])) == sum(len(chunk.token_ids) for chunk in [first, *rest])
