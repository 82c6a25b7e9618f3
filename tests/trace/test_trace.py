"""Traces against evaluation and generation."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SmolLM2
from darwin_neg_cpp import ContextFullError, DarwinNEG, Neg, NegHeadError, RequestError, SamplingParams
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.cli.trace import figures, json_text
from darwin_neg_cpp.trace import Trace, render_page, trace_generation, trace_text
from darwin_neg_cpp.trace.trace import decode_each


def test_a_trace_says_of_each_token_what_the_model_said_before_it(smol: DarwinNEG) -> None:
    found = trace_generation(smol, "The capital of France is", SamplingParams(max_tokens=24, seed=5, temperature=1.0))
    plain = smol.generate("The capital of France is", max_tokens=24, seed=5, temperature=1.0, logprobs=5)
    n = found.prompt_tokens
    assert [token.id for token in found.tokens[n:]] == plain.token_ids.tolist()
    assert [token.predicted for token in found.tokens[n:]] == pytest.approx(plain.neg.entropy.tolist())
    assert [token.active for token in found.tokens[n:]] == plain.neg.active.tolist()
    # generation decodes token by token, the trace all at once: the quantized kernels round differently
    np.testing.assert_allclose([token.logprob for token in found.tokens[n:]], plain.logprobs.chosen, atol=0.6)
    all_at_once = smol.score([token.id for token in found.tokens], top=5)
    assert [token.true for token in found.tokens[1:]] == all_at_once.entropy[:-1].tolist()
    for i, one in enumerate(found.tokens[1:]):
        assert [p for _, p in one.top] == pytest.approx(np.exp(all_at_once.top_logprobs[i]).tolist())
    first = found.tokens[0]
    assert (first.predicted, first.true, first.logprob, first.top) == (None, None, None, ())
    summary = found.summary()
    assert summary["tokens"] == 24
    assert summary["activation_rate"] == pytest.approx(plain.neg.activation_rate)


def test_a_trace_has_the_uncertain_stretches_of_its_answer(smol: DarwinNEG) -> None:
    # characters of several tokens are what this is about; what is sampled differs from CPU to CPU
    for seed in range(40):
        params = SamplingParams(max_tokens=40, seed=seed, temperature=1.5, min_p=0.0, top_k=0, top_p=1.0)
        out = smol.generate("한국어 😀 “", params)
        if out.ends_inside is not None and out.ends_inside.any():
            break
    else:
        raise AssertionError("no answer has a character of several tokens")
    assert out.neg is not None
    limit = float(np.median(out.neg.entropy))
    params = dataclasses.replace(params, neg=Neg(threshold=limit))
    out = smol.generate("한국어 😀 “", params)
    found = trace_generation(smol, "한국어 😀 “", params)
    text = "".join(token.text for token in found.tokens)
    given = len("".join(token.text for token in found.tokens[: found.prompt_tokens]))
    spans = out.uncertain_spans(limit)
    assert [span.text for span in found.spans] == [span.text for span in spans] and spans
    assert [span.start - given for span in found.spans] == [span.start for span in spans]
    assert all(text[span.start : span.end] == span.text for span in found.spans)
    assert json.loads(json_text(found))["spans"][0]["max_entropy"] == pytest.approx(spans[0].max_entropy)
    assert f"Uncertain stretches: {len(spans)}<" in render_page(found)
    whole = trace_text(smol, "The capital of France is Paris.", neg=Neg(threshold=0.0))
    assert [span.text for span in whole.spans] == ["The capital of France is Paris."[len(whole.tokens[0].text) :]]


@pytest.mark.parametrize("text", ["Hello  world\n\n\tdef f(): 한국어 😀 ends", "é", "  two"])
def test_the_pieces_make_the_text(smol: DarwinNEG, tiny_qwen: Any, text: str) -> None:
    assert "".join(decode_each(smol.session, smol.tokenize(text))[0]) == text
    with DarwinNEG(tiny_qwen.model, n_ctx=64, n_parallel=1) as llm:
        assert "".join(decode_each(llm.session, llm.tokenize(text))[0]) == text


def test_a_model_without_a_head_is_traced_too(smollm2: SmolLM2) -> None:
    with DarwinNEG(smollm2.base, n_ctx=128, n_parallel=1) as llm:
        found = trace_text(llm, "A short text of a few words.")
    assert found.threshold is None and all(token.predicted is None and not token.active for token in found.tokens)
    assert found.tokens[-1].true is not None and "activation_rate" not in found.summary()
    assert "no NEG head" in render_page(found)


@pytest.mark.parametrize("given", [True, False])
def test_a_trace_has_the_gate_of_the_request(smol: DarwinNEG, given: bool) -> None:
    def traced(neg: Neg) -> Trace:
        if given:
            return trace_text(smol, "The capital of France is Paris, a city on the Seine.", neg=neg)
        return trace_generation(smol, "The capital of France is", SamplingParams(max_tokens=8, seed=5, neg=neg))

    usual = trace_text(smol, "The capital of France is")
    limit = float(np.median([token.predicted for token in usual.tokens[1:] if token.predicted is not None])) * 0.99
    found = traced(Neg(threshold=limit, top_k=5))
    assert smol.neg is not None and limit != pytest.approx(smol.neg["threshold"])
    assert (found.action, found.threshold, found.top_k) == ("mask", limit, 5)
    for one in found.tokens[1:]:
        assert one.predicted is not None and one.active == (one.predicted > limit), "of the prompt too"
    assert len({token.active for token in found.tokens[1:]}) == 2
    assert f"gate: mask, threshold {limit:.5g} nats, top 5" in render_page(found)
    assert json.loads(json_text(found))["threshold"] == limit
    for off in (Neg(enabled=False), Neg(action="off", threshold=limit)):
        found = traced(off)
        assert (found.action, found.threshold, found.top_k) == ("off", None, None)
        assert not any(token.active for token in found.tokens) and found.tokens[1].predicted is not None
        html = render_page(found)
        assert "gate: off; head" in html and "gate off]" in figures(found) and 'class="limit"' not in html
        assert "<dt>gate active" not in html and "correlation" in html
    never = traced(Neg(threshold=math.inf))
    assert never.threshold == math.inf and not any(token.active for token in never.tokens)


def test_a_gate_cannot_be_asked_of_a_model_without_a_head(smollm2: SmolLM2) -> None:
    with (
        DarwinNEG(smollm2.base, n_ctx=64, n_parallel=1) as llm,
        pytest.raises(NegHeadError, match="has no NEG head"),
    ):
        trace_text(llm, "A short text.", neg=Neg(threshold=1.0))


def test_an_answer_that_fills_the_context_is_traced_to_its_end(tiny_llama: Path) -> None:
    params = SamplingParams(ignore_eos=True, temperature=1.0, seed=3)
    with DarwinNEG(tiny_llama, n_ctx=48, n_parallel=1) as llm:
        answer = llm.generate([1, 2, 3], params, logprobs=0)
        found = trace_generation(llm, [1, 2, 3], params)
    assert len(found.tokens) == 49, "the last token is generated and not decoded"
    assert [token.id for token in found.tokens[3:]] == answer.token_ids.tolist()
    last = found.tokens[-1]
    assert last.logprob == pytest.approx(float(answer.logprobs.chosen[-1])) and last.true is not None and last.top
    # the model, with weights in float32, gives the same in both ways
    given = [token.logprob for token in found.tokens[3:]]
    np.testing.assert_allclose(given, answer.logprobs.chosen, atol=0.05)


def test_a_text_that_is_longer_than_the_context_is_refused(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, n_threads=1) as llm:
        whole = trace_text(llm, "a" * 63)  # and the start token
        assert len(whole.tokens) == 64
        with pytest.raises(
            ContextFullError, match=r"^the text has 65 tokens, the context holds 64; shorten it or raise"
        ):
            trace_text(llm, "a" * 64)
    assert main(["trace", "-m", str(tiny_llama), "-c", "64", "-t", "1", "--text", "a" * 64]) == 2
    assert "the text has 65 tokens, the context holds 64; shorten it or raise --n-ctx" in capsys.readouterr().err


def test_a_trace_is_of_one_sample(smol: DarwinNEG) -> None:
    with pytest.raises(RequestError, match="n must be 1 for a trace, got 2"):
        trace_generation(smol, "Once", SamplingParams(n=2, max_tokens=2))
