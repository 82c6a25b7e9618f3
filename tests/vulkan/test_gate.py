"""The gate on a Vulkan device and on the host, which sees the device's logits."""

from __future__ import annotations

import numpy as np
import pytest

from darwin_neg_cpp import Neg, _core
from oracles import neg_reference


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [258, 1_000, 50_257, 151_936, 248_320])
def test_the_gate_in_the_graph_equals_the_reference(device: str, n: int, ties: bool) -> None:
    rng = np.random.default_rng(n)
    logits = rng.normal(size=(4, n)).astype(np.float32) * 3
    if ties:  # values in halves: many are equal at rank k
        logits = (np.round(logits * 2) / 2 + 0.0).astype(np.float32)
    entropy = np.array([0.5, 2.0, np.nan, 1.5], np.float32)
    for k in (1, 20):
        got = _core.gate_apply_graph(logits, entropy, 1.0, k, 1.0, device)
        np.testing.assert_array_equal(got, neg_reference.gate(logits, entropy, 1.0, k))
        np.testing.assert_array_equal(_core.gate_apply(logits, entropy, 1.0, k, 1.0), got)


def test_the_host_gates_what_the_device_computed(load, name: str) -> None:
    """With k = 1 a hot sample is the likeliest token where the gate fires, and some other elsewhere."""
    llm = load(name)
    scored = llm.score("the text that is scored")
    threshold = float(np.median(scored.neg.entropy))
    options = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1, "ignore_eos": True, "logprobs": 1}
    out = llm.generate("the text", max_tokens=60, neg=Neg(threshold=threshold, top_k=1), **options)
    np.testing.assert_array_equal(out.neg.active, out.neg.entropy > np.float32(threshold))
    likeliest = out.token_ids == out.logprobs.top_ids[:, 0]
    assert likeliest[out.neg.active].all() and not likeliest[~out.neg.active].all()
    assert 5 < out.neg.active.sum() < 55
