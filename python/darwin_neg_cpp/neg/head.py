"""The NEG head as data: its values, and the checks that every head passes. Layout and meaning: docs/format.md."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFValueType

from ..errors import NegHeadError

VERSION = 1
DEFAULT_TOP_K = 20
MAX_REDUCED = 65536
MAX_WEIGHTS = 1 << 28  # 1 GiB in F32; the released head has 4 million

DOWN_W, DOWN_B, OUT_W, OUT_B = "neg.proj_down.w", "neg.proj_down.b", "neg.proj_out.w", "neg.proj_out.b"
TENSORS = (DOWN_W, DOWN_B, OUT_W, OUT_B)
REATTACH = "attach the head again with `darwin-neg neg attach`"

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NegHead:
    """A NEG head and its gate.

    down_w: [reduced, hidden], down_b: [reduced], out_w: [reduced], out_b: [1], all float32, finite.
    threshold: in nats, >= 0 or inf. top_k >= 1. temp_scale > 0. source: the file or repository it came from, with its
    SHA-256. base_arch, base_norm_sha256: the backbone that a side-car belongs to; "" when it does not say.
    """

    down_w: F32
    down_b: F32
    out_w: F32
    out_b: F32
    threshold: float
    top_k: int = DEFAULT_TOP_K
    temp_scale: float = 1.0
    temp_enabled: bool = False
    source: str = ""
    base_arch: str = ""
    base_norm_sha256: str = ""

    @property
    def n_embd(self) -> int:
        return int(self.down_w.shape[1])

    @property
    def n_reduced(self) -> int:
        return int(self.down_w.shape[0])

    def tensors(self) -> dict[str, F32]:
        """The tensors by their GGUF names, in file order."""
        return {DOWN_W: self.down_w, DOWN_B: self.down_b, OUT_W: self.out_w, OUT_B: self.out_b}

    def keys(self) -> list[tuple[str, GGUFValueType, Any]]:
        """The neg.* keys of a model file that carries the head."""
        return [
            ("neg.version", GGUFValueType.UINT32, VERSION),
            ("neg.threshold", GGUFValueType.FLOAT32, self.threshold),
            ("neg.top_k", GGUFValueType.UINT32, self.top_k),
            ("neg.temp_scale", GGUFValueType.FLOAT32, self.temp_scale),
            ("neg.temp_enabled", GGUFValueType.BOOL, self.temp_enabled),
            ("neg.source", GGUFValueType.STRING, self.source),
        ]


def check(head: NegHead, path: str) -> NegHead:
    """Returns the head, or raises NegHeadError, which names `path`, the tensor or value, and the remedy."""
    reduced, hidden = head.down_w.shape if head.down_w.ndim == 2 else (0, 0)
    if not (1 <= reduced <= MAX_REDUCED and hidden >= 1):
        raise NegHeadError(
            f"{path}: {DOWN_W}: has shape {list(head.down_w.shape)}, expected [reduced, hidden]; {REATTACH}"
        )
    expected = {DOWN_W: (reduced, hidden), DOWN_B: (reduced,), OUT_W: (reduced,), OUT_B: (1,)}
    for name, tensor in head.tensors().items():
        if tensor.shape != expected[name]:
            raise NegHeadError(
                f"{path}: {name}: has shape {list(tensor.shape)}, expected {list(expected[name])}; {REATTACH}"
            )
        if not np.isfinite(tensor).all():
            raise NegHeadError(
                f"{path}: {name}: holds values that are not finite numbers; the file is damaged, download it again"
            )
    check_gate(path, head.threshold, head.top_k, head.temp_scale)
    return head


def check_gate(path: str, threshold: float, top_k: int, temp_scale: float) -> None:
    if math.isnan(threshold) or threshold < 0:
        raise NegHeadError(f"{path}: neg.threshold: is {threshold}, expected a number of nats >= 0; {REATTACH}")
    if not 1 <= top_k < 2**31:
        raise NegHeadError(f"{path}: neg.top_k: is {top_k}, expected at least 1; {REATTACH}")
    if not math.isfinite(temp_scale) or temp_scale <= 0:
        raise NegHeadError(f"{path}: neg.temp_scale: is {temp_scale}, expected a finite number > 0; {REATTACH}")


def random_head(n_embd: int, seed: int, *, n_reduced: int | None = None, threshold: float = 1.0) -> NegHead:
    """Makes a random head, whose predictions mean nothing, to try things out on a model that has no trained head."""
    rng = np.random.default_rng(seed)
    reduced = n_reduced or max(1, n_embd // 4)

    def normal(*shape: int, scale: float) -> F32:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    head = NegHead(
        down_w=normal(reduced, n_embd, scale=n_embd**-0.5),
        down_b=normal(reduced, scale=0.1),
        out_w=normal(reduced, scale=2.0 * reduced**-0.5),
        out_b=np.zeros(1, np.float32),
        threshold=float(np.float32(threshold)),
        source=f"RANDOM head, seed {seed}: not trained, its predictions mean nothing",
    )
    return check(head, "random head")


def with_backbone(head: NegHead, arch: str, norm_sha256: str) -> NegHead:
    """Returns the head bound to a backbone, as a side-car stores it."""
    return replace(head, base_arch=arch, base_norm_sha256=norm_sha256)
