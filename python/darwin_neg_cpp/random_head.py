"""A head of random weights: it exercises the machinery and says nothing about the model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from darwin_neg_cpp.errors import ModelFileError
from darwin_neg_cpp.gguf_header import parse_header
from darwin_neg_cpp.input_file import PathLike, open_input
from darwin_neg_cpp.neg_files import model_backbone
from darwin_neg_cpp.neg_format import DEFAULT_TOP_K, NegHead, read_output_norm


def random_head(
    n_embd: int,
    seed: int,
    *,
    n_reduced: int = 64,
    threshold: float = 1.5,
    top_k: int = DEFAULT_TOP_K,
    hidden_rms: float = 1.0,
) -> NegHead:
    """A head for hidden size `n_embd`, the same for the same seed.

    hidden_rms: root mean square of the elements of the final hidden state. The weights are scaled by it so that
    predicted entropies spread over roughly 0 to 4 nats, as real ones do. The head's `source` says that it is random.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    return NegHead(
        proj_down_w=normal(n_reduced, n_embd, scale=n_embd**-0.5 / hidden_rms),
        proj_down_b=normal(n_reduced, scale=0.1),
        proj_out_w=normal(n_reduced, scale=2.0 * n_reduced**-0.5),
        proj_out_b=np.full(1, 0.5, np.float32),
        threshold=threshold,
        top_k=top_k,
        source=f"random weights, seed {seed}: NOT a trained head",
    )


def random_head_for(gguf: PathLike, seed: int) -> NegHead:
    """A random head that fits the model `gguf`, scaled to the hidden states that its output norm makes."""
    base = model_backbone(gguf)
    with open_input(gguf, ModelFileError) as file:
        norm = read_output_norm(parse_header(file, gguf), file)
    rms = float(np.sqrt(np.mean(np.square(norm, dtype=np.float64)))) if norm is not None and norm.size else 1.0
    return random_head(base.n_embd or 0, seed, hidden_rms=rms if np.isfinite(rms) and rms > 0 else 1.0)
