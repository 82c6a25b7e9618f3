"""Greedy decoding: the gate changes nothing, and a model without a head is plain llama.cpp."""

from __future__ import annotations

import math
import subprocess

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, Neg, NegHeadError, RequestError
from oracles import stock

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "The three laws of motion are",
    "My favourite colour is",
    "In 1969, humans",
    "List of fruits:\n1.",
    "The opposite of hot is",
    "Dear Sir or Madam,",
    "A triangle has",
    "The speed of light is",
    "Photosynthesis is",
    "To bake bread, you",
    "SELECT name FROM",
    "The moon orbits",
    "If it rains tomorrow,",
    "Shakespeare wrote",
    "One plus one equals",
    "Q: Who are you?\nA:",
]


def test_gate_on_equals_gate_off_token_for_token(smol):
    # ignore_eos is a bias, and with a bias the rows where the gate fires go through gate and chain, not past them
    common = {"max_tokens": 64, "temperature": 0.0, "ignore_eos": True}
    for prompt in PROMPTS:
        # one at a time, so that both runs see the same batch shapes
        on = smol.generate(prompt, neg=Neg(threshold=0.2), **common)
        off = smol.generate(prompt, neg=Neg(enabled=False), **common)
        assert on.token_ids.tolist() == off.token_ids.tolist()
        assert on.neg.active.mean() > 0.2, "the gate must fire for this to mean anything"
        assert not off.neg.active.any()
        np.testing.assert_array_equal(on.neg.entropy, off.neg.entropy)


def test_the_greedy_shortcut_equals_the_whole_chain(smol):
    # a penalty too small to change an order keeps the engine off its shortcut
    whole = {"frequency_penalty": 1e-30, "repeat_last_n": 1}
    common = {"max_tokens": 48, "temperature": 0.0, "logprobs": 2}
    banned = [smol.generate(PROMPTS[1], temperature=0.0, max_tokens=1).token_ids[0], smol.info["n_vocab"] - 1, 0]
    # typical sampling may drop the largest logit: then there is no shortcut
    for typical_p in (0.9, 0.2):
        quick = smol.generate(PROMPTS[1], typical_p=typical_p, **common)
        chain = smol.generate(PROMPTS[1], typical_p=typical_p, **common, **whole)
        assert quick.token_ids.tolist() == chain.token_ids.tolist(), typical_p
    assert quick.token_ids.tolist() != smol.generate(PROMPTS[1], **common).token_ids.tolist()
    for bias in ({}, {int(banned[0]): -math.inf}, {int(b): 1.5 * (i - 1) for i, b in enumerate(banned)}):
        for neg in (Neg(enabled=False), Neg(threshold=0.5), Neg(threshold=0.5, top_k=2)):
            for prompt in PROMPTS[:3]:
                quick = smol.generate(prompt, logit_bias=bias, neg=neg, **common)
                chain = smol.generate(prompt, logit_bias=bias, neg=neg, **common, **whole)
                assert quick.token_ids.tolist() == chain.token_ids.tolist(), (bias, neg, prompt)
                np.testing.assert_array_equal(quick.neg.entropy, chain.neg.entropy)
                np.testing.assert_array_equal(quick.neg.active, chain.neg.active)
                np.testing.assert_array_equal(quick.logprobs.chosen, chain.logprobs.chosen)


def test_bans_that_leave_nothing_of_what_the_gate_kept_are_named(smol):
    first = int(smol.generate(PROMPTS[1], temperature=0.0, max_tokens=1).token_ids[0])
    with pytest.raises(RequestError, match=r"gate kept.*top_k"):
        smol.generate(
            PROMPTS[1], temperature=0.0, logit_bias={first: -math.inf}, max_tokens=32, neg=Neg(threshold=0, top_k=1)
        )


def test_action_sample_departs_from_greedy_where_the_gate_fires(smol):
    common = {"max_tokens": 48, "temperature": 0.0, "ignore_eos": True, "seed": 7}
    greedy = smol.generate(PROMPTS[1], neg=Neg(enabled=False), **common)
    never = smol.generate(PROMPTS[1], neg=Neg(action="sample", threshold=math.inf), **common)
    drawn = smol.generate(PROMPTS[1], neg=Neg(action="sample", threshold=0.5), **common)
    again = smol.generate(PROMPTS[1], neg=Neg(action="sample", threshold=0.5), **common)
    assert never.token_ids.tolist() == greedy.token_ids.tolist()
    assert drawn.token_ids.tolist() == again.token_ids.tolist()
    first = int(np.flatnonzero(drawn.token_ids != greedy.token_ids)[0])
    assert drawn.neg.active[first], "only an active gate may change a greedy choice"


@pytest.mark.slow
def test_model_without_head_equals_stock_llama_completion(smollm2):
    binary = stock.binaries()["llama-completion"]
    with DarwinNEG(smollm2.base, n_ctx=512, n_parallel=1, prefix_cache=0) as llm:
        for prompt in PROMPTS[:5]:
            command = [
                binary,
                "-m",
                str(smollm2.base),
                "-p",
                prompt,
                "-n",
                "48",
                "--temp",
                "0",
                "-no-cnv",
                "-c",
                "512",
                "--no-display-prompt",
            ]
            result = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
            assert result.returncode == 0, result.stderr[-500:]
            mine = llm.generate(prompt, max_tokens=48, temperature=0)
            assert mine.neg is None
            theirs = result.stdout.decode("utf-8").replace(" [end of text]", "")
            assert mine.text.strip() == theirs.strip()


@pytest.mark.slow
def test_quantizing_with_stock_tools_leaves_the_head_bit_equal(smollm2, tmp_path):
    from darwin_neg_cpp.neg import formats as neg_format

    out = tmp_path / "q4_k_m.gguf"
    subprocess.run(
        [stock.binaries()["llama-quantize"], str(smollm2.f32), str(out), "Q4_K_M"], check=True, capture_output=True
    )
    before, after = neg_format.read_head(smollm2.f32), neg_format.read_head(out)
    for name, tensor in before.tensors().items():
        assert tensor.tobytes() == after.tensors()[name].tobytes()
    assert (after.threshold, after.top_k, after.temp_scale, after.source) == (
        before.threshold,
        before.top_k,
        before.temp_scale,
        before.source,
    )
    with DarwinNEG(out, n_ctx=256) as llm:
        assert llm.generate("Hello", max_tokens=4).neg is not None


def test_neg_options_without_a_head_are_refused(smollm2):
    with DarwinNEG(smollm2.base, n_ctx=256) as llm:
        assert llm.neg is None
        with pytest.raises(NegHeadError, match="no NEG head"):
            llm.generate("Hello", neg=Neg(threshold=1.0))
    with pytest.raises(NegHeadError, match="no neg"):
        DarwinNEG(smollm2.base, smollm2.base, n_ctx=256)
