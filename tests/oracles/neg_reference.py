"""The NEG head and gate in float64 NumPy, written from their definition and sharing no code with the package.

u = gelu(W_down h + b_down)       exact (erf) GELU
e = softplus(W_out u + b_out)     predicted entropy, nats
active = e > threshold; where active only the top_k largest logits stay, ties to the lowest index, divided by temp_scale
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

_erf = np.vectorize(math.erf, otypes=[np.float64])


def head_entropy(tensors: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """Predicted entropies, float64 [n], of LM-head inputs [n, hidden]. `tensors` in the released layout."""
    x = hidden.astype(np.float64)
    u = x @ tensors["head.proj_down.weight"].astype(np.float64).T + tensors["head.proj_down.bias"].astype(np.float64)
    u = u * 0.5 * (1.0 + _erf(u / math.sqrt(2.0)))
    z = u @ tensors["head.proj_out.weight"].astype(np.float64)[0] + float(tensors["head.proj_out.bias"][0])
    return np.logaddexp(0.0, z)


def gate(logits: np.ndarray, entropy: np.ndarray, threshold: float, top_k: int, temp_scale: float = 1.0) -> np.ndarray:
    """Gated logits [rows, n]; dropped ones are -inf."""
    out = logits.copy()
    for row, e in enumerate(entropy):
        if not e > threshold:
            continue
        order = np.argsort(-logits[row], kind="stable")  # stable: ties keep index order
        out[row] = -np.inf
        kept = order[:top_k]
        out[row, kept] = logits[row, kept] / np.float32(temp_scale)
    return out


def entropy_of(logits: np.ndarray) -> np.ndarray:
    """Entropy in nats of softmax(logits), float64 [n]."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    p = np.exp(x)
    p /= p.sum(axis=-1, keepdims=True)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


def random_released_head(
    path: Path,
    hidden: int,
    seed: int,
    threshold: float,
    reduced: int | None = None,
    gain: float = 2.0,
    bias: float = 0.5,
) -> dict[str, np.ndarray]:
    """Writes a seeded random head in the layout of the released neg_modules.safetensors and returns its tensors."""
    rng = np.random.default_rng(seed)
    r = reduced or hidden // 4
    tensors = {
        "head.proj_down.weight": (rng.standard_normal((r, hidden)) / math.sqrt(hidden)).astype(np.float32),
        "head.proj_down.bias": (rng.standard_normal(r) * 0.1).astype(np.float32),
        "head.proj_out.weight": (rng.standard_normal((1, r)) * gain / math.sqrt(r)).astype(np.float32),
        "head.proj_out.bias": np.array([bias], np.float32),
        "gate.threshold": np.array(threshold, np.float32),
        "gate.temp_scale": np.array(0.5983633399009705, np.float32),
    }
    save_file(tensors, path)
    return load_file(path)
