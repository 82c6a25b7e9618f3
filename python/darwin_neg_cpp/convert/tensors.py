"""Maps the tensors of a Qwen3.5 checkpoint to those of a GGUF file: which goes where, in what shape and type.

What llama.cpp wants differs from what transformers stores in five ways, all of them here: norm weights get 1 added
(except the one inside linear attention), A_log becomes -exp(A_log), the convolution loses its middle dimension, the
value heads of linear attention are reordered, and experts are stacked.

Value heads: transformers groups them by key head (k0v0 k0v1 k1v0 k1v1), ggml repeats key heads like tiles (k0v0 k1v0
k0v1 k1v1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from ..errors import ModelFileError
from ..files.input_file import shown, shown_path
from ..files.safetensors_header import StoredTensor
from .checkpoint import Checkpoint
from .config import MAX_LAYERS, Config, Shape

FLOATS = ("F32", "F16", "BF16")
Order = npt.NDArray[np.intp]
# Parts of a checkpoint that a language model file does not hold.
NOT_LANGUAGE = ("visual.", "vision_tower.")
MTP = re.compile(r"mtp\.layers\.(\d{1,6})\.")
WITHOUT_MTP = "or leave out the prediction of further tokens: `darwin-neg convert --no-mtp`"


@dataclass(frozen=True)
class Piece:
    """`count` consecutive rows of a stored tensor, seen as a matrix whose rows are its last dimension."""

    source: StoredTensor
    first: int
    count: int


@dataclass(frozen=True)
class Output:
    """A tensor of the file to be written.

    shape: as in NumPy. pieces: its rows, in order. values: "copy", "plus_one" or "neg_exp". columns: for each column
    the stored one that it is taken from.
    """

    name: str
    shape: tuple[int, ...]
    type: Type
    pieces: tuple[Piece, ...]
    values: str = "copy"
    columns: Order | None = None

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])


def language_tensors(checkpoint: Checkpoint, *, mtp: bool) -> dict[str, StoredTensor]:
    """Returns the language model's tensors by plain names: embed_tokens.weight, layers.0..., lm_head.weight.

    Prefixes that transformers has added over time are removed as in llama.cpp's converter. mtp: keep the blocks for
    multi-token prediction, mtp...
    """
    out: dict[str, StoredTensor] = {}
    for stored in checkpoint.tensors.values():
        name = stored.name.replace("language_model.", "").removeprefix("model.")
        if name.startswith(NOT_LANGUAGE) or (name.startswith("mtp.") and not mtp):
            continue
        put_tensor(out, name, stored)
    return out


def put_tensor(tensors: dict[str, StoredTensor], name: str, stored: StoredTensor) -> None:
    """Enters a tensor under a name without prefixes. Raises ModelFileError where another one has the name."""
    if name in tensors:
        raise ModelFileError(
            f"{shown_path(stored.path)}: {shown(stored.name)}: is the same tensor as {shown(tensors[name].name)}; "
            "download the file again"
        )
    tensors[name] = stored


def mtp_blocks(config: Config, names: Iterable[str]) -> int:
    """The number of blocks for multi-token prediction among the tensors: from config.json, else from their names."""
    names = list(names)
    if not any(name.startswith("mtp.") for name in names):
        return 0
    found = [int(match[1]) + 1 for name in names if (match := MTP.match(name))]
    return config.integer("mtp_num_hidden_layers", 0, low=0, high=MAX_LAYERS) or max(found, default=0)


class Taker:
    """Takes a checkpoint's tensors one by one and checks shapes and types. A tensor that is left over is an error."""

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor], whole: str) -> None:
        """whole: what all the tensors make up, in errors."""
        self._folder = folder
        self._left = dict(tensors)
        self._whole = whole

    def check_nothing_left(self) -> None:
        if self._left:
            name, stored = next(iter(self._left.items()))
            remedy = WITHOUT_MTP if name.startswith("mtp.") else "or convert with llama.cpp's converter"
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: is not a tensor of {self._whole} "
                f"with this config.json; download both files again, {remedy}"
            )

    def take(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        stored = self._left.pop(name, None)
        if stored is None:
            raise self.missing(name)
        if stored.shape != shape:
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: has shape {list(stored.shape)}, "
                f"config.json asks for {list(shape)}; download both files again{_or_without(name)}"
            )
        if stored.dtype not in FLOATS:
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: has type {stored.dtype}, "
                f"expected F32, F16 or BF16; download the original checkpoint{_or_without(name)}"
            )
        return stored

    def missing(self, name: str) -> ModelFileError:
        return ModelFileError(
            f"{shown_path(self._folder)}: {name}: the tensor is missing; download the checkpoint again"
            f"{_or_without(name)}"
        )


class Planner(Taker):
    """Plans the language model's tensors."""

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor], shape: Shape, default: Type) -> None:
        super().__init__(folder, tensors, f"a {shape.arch} model")
        self._shape = shape
        self._default = default

    def outputs(self) -> list[Output]:
        out = list(self._all())
        self.check_nothing_left()
        return out

    def _all(self) -> Iterator[Output]:
        s = self._shape
        yield self._matrix("embed_tokens.weight", "token_embd.weight", (s.vocab, s.hidden))
        yield self._norm("norm.weight", "output_norm.weight", s.hidden)
        if "lm_head.weight" in self._left:
            head = self._matrix("lm_head.weight", "output.weight", (s.vocab, s.hidden))
            if not s.tied:
                yield head
        elif s.own_head:
            raise self.missing("lm_head.weight")
        for i in range(s.n_layers):
            yield from self._layer(f"layers.{i}.", f"blk.{i}.", linear=s.linear_attention[i])
        for i in range(s.n_mtp):
            yield from self._layer(f"mtp.layers.{i}.", f"blk.{s.n_layers + i}.", linear=False)
        if s.n_mtp:
            block = f"blk.{s.n_layers}.nextn."
            yield self._matrix("mtp.fc.weight", block + "eh_proj.weight", (s.hidden, 2 * s.hidden))
            yield self._norm("mtp.pre_fc_norm_embedding.weight", block + "enorm.weight", s.hidden)
            yield self._norm("mtp.pre_fc_norm_hidden.weight", block + "hnorm.weight", s.hidden)
            yield self._norm("mtp.norm.weight", block + "shared_head_norm.weight", s.hidden)

    def _layer(self, source: str, target: str, *, linear: bool) -> Iterator[Output]:
        s = self._shape
        yield self._norm(source + "input_layernorm.weight", target + "attn_norm.weight", s.hidden)
        yield self._norm(source + "post_attention_layernorm.weight", target + "post_attention_norm.weight", s.hidden)
        attention = self._linear_attention if linear else self._full_attention
        yield from attention(source + ("linear_attn." if linear else "self_attn."), target)
        yield from (self._experts if s.is_moe else self._mlp)(source + "mlp.", target)

    def _full_attention(self, source: str, target: str) -> Iterator[Output]:
        s = self._shape
        # the query projection holds the output gate too
        for name, to, rows in (
            ("q_proj", "attn_q", 2 * s.n_heads * s.head_dim),
            ("k_proj", "attn_k", s.n_heads_kv * s.head_dim),
            ("v_proj", "attn_v", s.n_heads_kv * s.head_dim),
        ):
            yield self._matrix(f"{source}{name}.weight", f"{target}{to}.weight", (rows, s.hidden))
        yield self._matrix(source + "o_proj.weight", target + "attn_output.weight", (s.hidden, s.n_heads * s.head_dim))
        yield self._norm(source + "q_norm.weight", target + "attn_q_norm.weight", s.head_dim)
        yield self._norm(source + "k_norm.weight", target + "attn_k_norm.weight", s.head_dim)

    def _linear_attention(self, source: str, target: str) -> Iterator[Output]:
        s = self._shape
        keys, values = 2 * s.k_heads * s.k_dim, s.v_heads * s.v_dim
        order = value_heads(s)
        yield self._rows(
            source + "in_proj_qkv.weight", target + "attn_qkv.weight", (keys + values, s.hidden), keys, s.v_dim, order
        )
        yield self._rows(
            source + "in_proj_z.weight", target + "attn_gate.weight", (values, s.hidden), 0, s.v_dim, order
        )
        yield self._rows(source + "in_proj_b.weight", target + "ssm_beta.weight", (s.v_heads, s.hidden), 0, 1, order)
        yield self._rows(source + "in_proj_a.weight", target + "ssm_alpha.weight", (s.v_heads, s.hidden), 0, 1, order)
        stored = self.take(source + "conv1d.weight", (keys + values, 1, s.conv))
        pieces = _reordered(stored, keys, s.v_dim, order)
        yield Output(target + "ssm_conv1d.weight", (keys + values, s.conv), Type.F32, pieces)
        for name, to, change in (("A_log", "ssm_a", "neg_exp"), ("dt_bias", "ssm_dt.bias", "copy")):
            stored = self.take(source + name, (s.v_heads,))
            yield Output(target + to, (s.v_heads,), Type.F32, (Piece(stored, 0, 1),), change, order)
        stored = self.take(source + "norm.weight", (s.v_dim,))
        yield Output(target + "ssm_norm.weight", (s.v_dim,), Type.F32, (Piece(stored, 0, 1),))
        stored = self.take(source + "out_proj.weight", (s.hidden, values))
        columns = (order[:, None] * s.v_dim + np.arange(s.v_dim)).reshape(-1)
        yield Output(
            target + "ssm_out.weight",
            (s.hidden, values),
            self._default,
            (Piece(stored, 0, s.hidden),),
            columns=None if s.k_heads == s.v_heads else columns,
        )

    def _mlp(self, source: str, target: str) -> Iterator[Output]:
        s = self._shape
        yield self._matrix(source + "gate_proj.weight", target + "ffn_gate.weight", (s.n_ff, s.hidden))
        yield self._matrix(source + "up_proj.weight", target + "ffn_up.weight", (s.n_ff, s.hidden))
        yield self._matrix(source + "down_proj.weight", target + "ffn_down.weight", (s.hidden, s.n_ff))

    def _experts(self, source: str, target: str) -> Iterator[Output]:
        s = self._shape
        e, ff = s.n_experts, s.n_ff_expert
        yield self._matrix(source + "gate.weight", target + "ffn_gate_inp.weight", (e, s.hidden), Type.F32)
        yield self._matrix(
            source + "shared_expert_gate.weight", target + "ffn_gate_inp_shexp.weight", (1, s.hidden), Type.F32
        )
        for name, rows, columns in (
            ("gate", s.n_ff_shared, s.hidden),
            ("up", s.n_ff_shared, s.hidden),
            ("down", s.hidden, s.n_ff_shared),
        ):
            yield self._matrix(
                f"{source}shared_expert.{name}_proj.weight", f"{target}ffn_{name}_shexp.weight", (rows, columns)
            )
        pieces: dict[str, Sequence[Piece]] = {}
        if source + "experts.gate_up_proj" in self._left:
            both = self.take(source + "experts.gate_up_proj", (e, 2 * ff, s.hidden))
            down = self.take(source + "experts.down_proj", (e, s.hidden, ff))
            pieces["gate"] = [Piece(both, i * 2 * ff, ff) for i in range(e)]
            pieces["up"] = [Piece(both, i * 2 * ff + ff, ff) for i in range(e)]
            pieces["down"] = [Piece(down, 0, e * s.hidden)]
        else:
            for name, rows, columns in (("gate", ff, s.hidden), ("up", ff, s.hidden), ("down", s.hidden, ff)):
                each = (self.take(f"{source}experts.{i}.{name}_proj.weight", (rows, columns)) for i in range(e))
                pieces[name] = [Piece(stored, 0, rows) for stored in each]
        for name, shape in (("gate", (e, ff, s.hidden)), ("up", (e, ff, s.hidden)), ("down", (e, s.hidden, ff))):
            yield Output(f"{target}ffn_{name}_exps.weight", shape, self._default, tuple(pieces[name]))

    # --- one tensor

    def _norm(self, source: str, target: str, size: int) -> Output:
        stored = self.take(source, (size,))
        return Output(target, (size,), Type.F32, (Piece(stored, 0, 1),), "plus_one")

    def _matrix(self, source: str, target: str, shape: tuple[int, int], kind: Type | None = None) -> Output:
        stored = self.take(source, shape)
        return Output(target, shape, self._default if kind is None else kind, (Piece(stored, 0, shape[0]),))

    def _rows(self, source: str, target: str, shape: tuple[int, int], fixed: int, head: int, order: Order) -> Output:
        """A matrix whose rows after the first `fixed` ones are heads of `head` rows, to be put in `order`."""
        stored = self.take(source, shape)
        return Output(target, shape, self._default, _reordered(stored, fixed, head, order))


def _or_without(name: str) -> str:
    """The other way out where a tensor is of a part that a model can do without."""
    return f", {WITHOUT_MTP}" if name.startswith("mtp.") else ""


def value_heads(shape: Shape) -> Order:
    """For each place in tile order the value head, in transformers' order, that goes there."""
    order: Order = np.arange(shape.v_heads, dtype=np.intp).reshape(shape.k_heads, -1).T.reshape(-1)
    return order


def _reordered(stored: StoredTensor, fixed: int, head: int, order: Order) -> tuple[Piece, ...]:
    runs: list[tuple[int, int]] = [(0, fixed)] if fixed else []
    for i in order.tolist():
        first = fixed + i * head
        if runs and sum(runs[-1]) == first:
            runs[-1] = (runs[-1][0], runs[-1][1] + head)
        else:
            runs.append((first, head))
    return tuple(Piece(stored, first, count) for first, count in runs)
