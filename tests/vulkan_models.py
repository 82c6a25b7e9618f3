"""Tiny models on a device of Vulkan, and how close what they compute is to the CPU's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from darwin_neg_cpp import Generation
from darwin_neg_cpp.neg import formats

# without flash attention and a cache in F16, so that what differs from the CPU is the device's arithmetic
SMALL: dict[str, Any] = {
    "n_ctx": 512,
    "n_parallel": 4,
    "n_threads": 1,
    "prefix_cache": 0,
    "flash_attn": "off",
    "type_k": "f32",
    "type_v": "f32",
}


def released_head(path: Path) -> dict[str, np.ndarray]:
    """The head of a model file or a side-car, as the oracles take it."""
    head = formats.read_head(path)
    return {
        "head.proj_down.weight": head.down_w,
        "head.proj_down.bias": head.down_b,
        "head.proj_out.weight": head.out_w[None, :],
        "head.proj_out.bias": head.out_b,
    }


def assert_close(got: Generation, expected: Generation, tolerance: float) -> None:
    """Equal tokens up to where two logits are as good as equal, and entropies within a tolerance up to there."""
    assert got.neg is not None and got.logprobs is not None
    assert expected.neg is not None and expected.logprobs is not None
    a, b = got.token_ids.tolist(), expected.token_ids.tolist()
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
    if same < len(a):
        top = expected.logprobs.top[same]
        assert top[0] - top[1] < 2 * tolerance, (same, a, b)
    np.testing.assert_allclose(got.neg.entropy[:same], expected.neg.entropy[:same], atol=tolerance)
    np.testing.assert_allclose(got.logprobs.chosen[:same], expected.logprobs.chosen[:same], atol=tolerance)
