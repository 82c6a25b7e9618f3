"""Capture against torch and NumPy, and what a model with broken numbers gets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from conftest import SmolLM2, TinyQwen
from darwin_neg_cpp import DarwinNEG, RequestError
from darwin_neg_cpp.engine import scoring
from oracles import neg_reference
from training_runs import SENTENCES


@pytest.mark.filterwarnings("ignore")
def test_capture_equals_torch_on_the_tiny_checkpoint(tiny_qwen: TinyQwen) -> None:
    from transformers import Qwen3_5ForConditionalGeneration

    model = Qwen3_5ForConditionalGeneration.from_pretrained(
        tiny_qwen.checkpoint, dtype="float32", attn_implementation="eager"
    ).eval()
    hidden: list[torch.Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _module, args: hidden.append(args[0][0].float()))
    with DarwinNEG(tiny_qwen.model, n_ctx=512, n_parallel=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        texts = [llm.tokenize(text) for text in SENTENCES]
        for text, got in zip(texts, llm.score_many(texts, hidden=True, top=4), strict=True):
            hidden.clear()
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([text])).logits[0].double().numpy()
            np.testing.assert_allclose(got.hidden, hidden[0].numpy(), atol=1e-3)
            np.testing.assert_allclose(got.entropy, neg_reference.entropy_of(logits), atol=1e-4)
            logprobs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            logprobs -= logits.max(1, keepdims=True)
            following = [logprobs[i, token] for i, token in enumerate(text[1:])]
            np.testing.assert_allclose(got.logprobs[:-1], following, atol=1e-3)
            assert math.isnan(got.logprobs[-1])
            best = np.sort(logprobs, axis=1)[:, ::-1][:, :4]
            np.testing.assert_allclose(got.top_logprobs, best, atol=1e-3)
            np.testing.assert_allclose(np.take_along_axis(logprobs, got.top_ids, 1), best, atol=1e-3)


def test_capture_equals_a_slow_pass_over_logits_on_smollm2(smollm2: SmolLM2, smol: DarwinNEG) -> None:
    head = load_file(smollm2.head)
    for text in SENTENCES[:3]:
        tokens = smol.tokenize(text)
        logits = smol.session.engine.score([tokens], logits=True)["logits"]
        got = smol.score(tokens, hidden=True)
        np.testing.assert_allclose(got.entropy, neg_reference.entropy_of(logits), atol=1e-4)
        np.testing.assert_allclose(got.neg.entropy, neg_reference.head_entropy(head, got.hidden), atol=1e-4)
        assert (got.neg.active == (got.neg.entropy > np.float32(smol.neg["threshold"]))).all()


def test_texts_in_a_batch_get_what_each_gets_alone(smollm2: SmolLM2, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several calls into the engine, each of several batches. In float32: where weights are quantized, the number of
    # rows decides how they are multiplied, and entropies move by some 0.05 nats with it.
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 600)
    with DarwinNEG(smollm2.f32, n_ctx=512, n_parallel=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        texts = [llm.tokenize(sentence) for sentence in SENTENCES[:6]]
        alone = [llm.score(text) for text in texts]
        many = list(llm.score_many(texts * 4))
    assert [scored.token_ids.tolist() for scored in many] == texts * 4
    for got, expected in zip(many, alone * 4, strict=True):
        np.testing.assert_allclose(got.entropy, expected.entropy, atol=1e-3)
        np.testing.assert_allclose(got.neg.entropy, expected.neg.entropy, atol=1e-3)
        np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-3)


def test_what_cannot_be_evaluated_is_refused(smol: DarwinNEG) -> None:
    for call, message in (
        (lambda: smol.score([]), "no tokens"),
        (lambda: list(smol.score_many([[1, 2], []])), "no tokens"),
        (lambda: smol.score([10**6]), "outside the vocabulary"),
        (lambda: smol.score("hello", top=-1), "top must be"),
        (lambda: smol.score([5] * 5000), "context holds"),
    ):
        with pytest.raises(Exception, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_model_whose_numbers_are_broken_is_refused(tiny_llama: Path, tmp_path: Path, monkeypatch) -> None:
    from darwin_neg_cpp.training.capture import capture

    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1) as llm:
        good = llm.score([1, 2, 3], hidden=True)
        good.hidden[1, 0] = np.nan
        monkeypatch.setattr(llm.session, "score", lambda *_, **__: iter([good]))
        with pytest.raises(RequestError, match="no finite numbers"):
            capture(llm.session, [(1, 2, 3)], tmp_path, "train", lambda *_: None, model="")
