"""The Qwen3.5 family in GGUF: which tensor goes where, in what shape and type, and the hyper-parameters.

What llama.cpp wants differs from what transformers stores in five ways, all of them here:
norm weights get 1 added (except the one inside linear attention), A_log becomes -exp(A_log), the convolution loses its middle
dimension, the value heads of linear attention are reordered, and experts are stacked.

Value heads: transformers groups them by key head (k0v0 k0v1 k1v0 k1v1), ggml repeats key heads like tiles (k0v0 k1v0 k0v1 k1v1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, RopeScalingType

from ..errors import ModelFileError
from ..files.input_file import shown, shown_path
from ..files.safetensors_header import StoredTensor
from .checkpoint import Checkpoint

ARCHITECTURES = {
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Qwen3_5ForCausalLM": "qwen35",
    "Qwen3_5MoeForConditionalGeneration": "qwen35moe",
    "Qwen3_5MoeForCausalLM": "qwen35moe",
}
FLOATS = ("F32", "F16", "BF16")
Order = npt.NDArray[np.intp]
DEFAULT_MROPE_SECTION = (11, 11, 10)
# more than any model has, and little enough to make a list of
MAX_SIZE = 2**31 - 1
MAX_LAYERS = 10_000
MAX_VOCAB = 1 << 24
MAX_HEADS = MAX_EXPERTS = 1 << 16
MAX_F32 = float(np.finfo(np.float32).max)

# Parts of a checkpoint that a language model file does not hold.
NOT_LANGUAGE = ("visual.", "vision_tower.")
MTP = re.compile(r"mtp\.layers\.(\d{1,6})\.")


@dataclass(frozen=True)
class Piece:
    """`count` consecutive rows of a stored tensor, seen as a matrix whose rows are its last dimension."""

    source: StoredTensor
    first: int
    count: int


@dataclass(frozen=True)
class Output:
    """A tensor of the file to be written.

    shape: as in NumPy. pieces: its rows, in order. values: "copy", "plus_one" or "neg_exp". columns: for each column the one that
    it is taken from.
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


@dataclass(frozen=True)
class Shape:
    """The hyper-parameters that decide over tensors."""

    arch: str
    n_layers: int
    n_mtp: int
    hidden: int
    n_ff: int
    vocab: int
    n_heads: int
    n_heads_kv: int
    head_dim: int
    linear_attention: tuple[bool, ...]
    k_heads: int
    v_heads: int
    k_dim: int
    v_dim: int
    conv: int
    tied: bool
    own_head: bool  # lm_head.weight must be there
    n_experts: int
    n_ff_expert: int
    n_ff_shared: int

    @property
    def is_moe(self) -> bool:
        return self.arch == "qwen35moe"


class Config:
    """config.json with the text model's part laid over it. Every look-up is checked and every error names the key."""

    def __init__(self, path: str, config: Mapping[str, Any]) -> None:
        self.path = path
        text = config.get("text_config", {})
        if not isinstance(text, dict):
            raise self.wrong("text_config", "is not an object")
        self.values = {**config, **text}
        # the outer object decides over tied embeddings, as in transformers
        self._outer = config
        architectures = config.get("architectures")
        if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
            raise self.wrong("architectures", "does not name one architecture")
        self.hf_arch = architectures[0]
        if self.hf_arch not in ARCHITECTURES:
            raise ModelFileError(
                f"{path}: {shown(self.hf_arch)} is not an architecture that this converter knows ({', '.join(ARCHITECTURES)}); "
                "convert it with llama.cpp's convert_hf_to_gguf.py and join the head with `darwin-neg neg attach`"
            )
        if config.get("quantization_config") or self.values.get("quantization_config"):
            raise self.wrong(
                "quantization_config", "is set: the checkpoint is quantized already; give the original one"
            )

    def wrong(self, key: str, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {key} {what}; get the file again or correct it")

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        low: int = 1,
        high: int = MAX_SIZE,
        of: Mapping[str, Any] | None = None,
    ) -> int:
        value = (self.values if of is None else of).get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.wrong(key, "is missing")
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"is {shown(repr(value))}, expected a whole number from {low} to {high}")
        return value

    def number(
        self, of: Mapping[str, Any], key: str, default: float | None = None, *, low: float = 0.0, high: float = MAX_F32
    ) -> float:
        value = of.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.wrong(key, "is missing")
        # a comparison takes whole numbers of any length, where a conversion would not
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.wrong(key, f"is {shown(repr(value))}, expected a number from {low:g} to {high:g}")
        return float(value)

    def shape(self, *, n_mtp: int) -> Shape:
        """n_mtp: blocks of multi-token prediction."""
        n_layers = self.integer("num_hidden_layers", high=MAX_LAYERS)
        hidden, n_heads = self.integer("hidden_size"), self.integer("num_attention_heads", high=MAX_HEADS)
        moe = ARCHITECTURES[self.hf_arch] == "qwen35moe"
        tied = self._outer.get("tie_word_embeddings") is True
        shape = Shape(
            arch=ARCHITECTURES[self.hf_arch],
            n_layers=n_layers,
            n_mtp=n_mtp,
            hidden=hidden,
            n_ff=0 if moe else self.integer("intermediate_size"),
            vocab=self.integer("vocab_size", high=MAX_VOCAB),
            n_heads=n_heads,
            n_heads_kv=self.integer("num_key_value_heads", high=MAX_HEADS),
            head_dim=self.integer("head_dim", max(1, hidden // n_heads)),
            linear_attention=self._layer_types(n_layers),
            k_heads=self.integer("linear_num_key_heads", high=MAX_HEADS),
            v_heads=self.integer("linear_num_value_heads", high=MAX_HEADS),
            k_dim=self.integer("linear_key_head_dim"),
            v_dim=self.integer("linear_value_head_dim"),
            conv=self.integer("linear_conv_kernel_dim"),
            tied=tied,
            own_head=not tied and self.values.get("tie_word_embeddings") is not True,
            n_experts=self.integer("num_experts", high=MAX_EXPERTS) if moe else 0,
            n_ff_expert=self.integer("moe_intermediate_size") if moe else 0,
            n_ff_shared=self.integer("shared_expert_intermediate_size") if moe else 0,
        )
        if shape.v_heads % shape.k_heads != 0:
            raise self.wrong("linear_num_value_heads", f"is {shape.v_heads}, no multiple of linear_num_key_heads")
        return shape

    def _layer_types(self, n_layers: int) -> tuple[bool, ...]:
        types = self.values.get("layer_types")
        if types is None:
            interval = self.integer("full_attention_interval", 4)
            return tuple((i + 1) % interval != 0 for i in range(n_layers))
        if not isinstance(types, list) or len(types) != n_layers:
            raise self.wrong("layer_types", f"has not one entry for each of the {n_layers} layers")
        if unknown := [one for one in types if one not in ("linear_attention", "full_attention")]:
            raise self.wrong("layer_types", f"holds the unknown type {shown(str(unknown[0]))}")
        return tuple(one == "linear_attention" for one in types)

    def rope(self) -> Mapping[str, Any]:
        rope = self.values.get("rope_parameters")
        if rope is None:
            rope = self.values.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise self.wrong("rope_parameters", "is not an object")
        out = dict(rope)
        # where older configurations kept them
        for key in ("rope_theta", "partial_rotary_factor"):
            if key not in out and self.values.get(key) is not None:
                out[key] = self.values[key]
        return out


# ---------------------------------------------------------------------------------------------------------------------
# keys


def add_keys(writer: GGUFWriter, config: Config, shape: Shape) -> None:
    """The architecture's hyper-parameters."""
    rope = config.rope()
    writer.add_block_count(shape.n_layers + shape.n_mtp)
    if config.values.get("max_position_embeddings") is not None:
        writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(shape.hidden)
    if config.values.get("intermediate_size") is not None:
        writer.add_feed_forward_length(config.integer("intermediate_size"))
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_heads_kv)
    _add_rope_scaling(writer, config, rope)
    writer.add_rope_dimension_sections(_mrope_section(config, rope))
    if rope.get("rope_theta") is not None:
        writer.add_rope_freq_base(config.number(rope, "rope_theta"))
    writer.add_layer_norm_rms_eps(config.number(config.values, "rms_norm_eps", 1e-6, high=1.0))
    if shape.is_moe:
        writer.add_expert_count(shape.n_experts)
        writer.add_expert_used_count(config.integer("num_experts_per_tok"))
        writer.add_expert_feed_forward_length(shape.n_ff_expert)
        writer.add_expert_shared_feed_forward_length(shape.n_ff_shared)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    if shape.n_mtp:
        writer.add_nextn_predict_layers(shape.n_mtp)
    writer.add_ssm_conv_kernel(shape.conv)
    writer.add_ssm_state_size(shape.k_dim)
    writer.add_ssm_group_count(shape.k_heads)
    writer.add_ssm_time_step_rank(shape.v_heads)
    writer.add_ssm_inner_size(shape.v_dim * shape.v_heads)
    writer.add_array(f"{shape.arch}.attention.recurrent_layers", [*shape.linear_attention, *[False] * shape.n_mtp])
    writer.add_full_attention_interval(config.integer("full_attention_interval", 4))
    factor = config.number(rope, "partial_rotary_factor", 0.25, high=1.0)
    writer.add_rope_dimension_count(int(shape.head_dim * factor))


def _mrope_section(config: Config, rope: Mapping[str, Any]) -> list[int]:
    section = rope.get("mrope_section", DEFAULT_MROPE_SECTION)
    if (
        not isinstance(section, (list, tuple))
        or len(section) > 4
        or not all(type(n) is int and 0 <= n <= MAX_SIZE for n in section)
    ):
        raise config.wrong("mrope_section", "is not a list of at most four sizes")
    return [*section, 0, 0, 0, 0][:4]


def _add_rope_scaling(writer: GGUFWriter, config: Config, rope: Mapping[str, Any]) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "mrope", None):
        return
    if kind not in ("linear", "yarn"):
        raise config.wrong("rope_type", f"is {shown(str(kind))}, expected default, linear or yarn")
    writer.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.number(rope, "factor"))
    if kind == "yarn":
        # from there alone, and without it the whole context, as transformers takes it
        original = "original_max_position_embeddings"
        writer.add_rope_scaling_orig_ctx_len(
            config.integer("max_position_embeddings")
            if rope.get(original) is None
            else config.integer(original, of=rope)
        )
        for keys, add in (
            (("extrapolation_factor",), writer.add_rope_scaling_yarn_ext_factor),
            (("attention_factor", "attn_factor"), writer.add_rope_scaling_yarn_attn_factor),
            (("beta_fast",), writer.add_rope_scaling_yarn_beta_fast),
            (("beta_slow",), writer.add_rope_scaling_yarn_beta_slow),
        ):
            for key in keys:
                if rope.get(key) is not None:
                    add(config.number(rope, key))
                    break


# ---------------------------------------------------------------------------------------------------------------------
# tensors


def language_tensors(checkpoint: Checkpoint, *, mtp: bool) -> dict[str, StoredTensor]:
    """The language model's tensors under plain names: embed_tokens.weight, layers.0..., mtp..., norm.weight, lm_head.weight.

    What transformers has put around the language model over time falls away as in llama.cpp's converter. mtp: keep the blocks for
    multi-token prediction.
    """
    out: dict[str, StoredTensor] = {}
    for stored in checkpoint.tensors.values():
        name = stored.name.replace("language_model.", "").removeprefix("model.")
        if name.startswith(NOT_LANGUAGE) or (name.startswith("mtp.") and not mtp):
            continue
        if name in out:
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: the same tensor is there as {shown(out[name].name)}; get the file again"
            )
        out[name] = stored
    return out


def mtp_blocks(config: Config, names: Iterable[str]) -> int:
    """How many blocks for multi-token prediction are among the tensors: as config.json says, else by their numbers."""
    names = list(names)
    if not any(name.startswith("mtp.") for name in names):
        return 0
    found = [int(match[1]) + 1 for name in names if (match := MTP.match(name))]
    return config.integer("mtp_num_hidden_layers", 0, low=0, high=MAX_LAYERS) or max(found, default=0)


class Planner:
    """Takes tensors out of a checkpoint one by one, each checked for its shape and type; what is left over in the end is an error."""

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor], shape: Shape, default: Type) -> None:
        self._folder = folder
        self._left = dict(tensors)
        self._shape = shape
        self._default = default

    def outputs(self) -> list[Output]:
        out = list(self._all())
        if self._left:
            stored = next(iter(self._left.values()))
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: is no tensor of a {self._shape.arch} model with this config.json; "
                "get both files again, or convert with llama.cpp's converter"
            )
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
            raise self._missing("lm_head.weight")
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
        stored = self._take(source + "conv1d.weight", (keys + values, 1, s.conv))
        pieces = _reordered(stored, keys, s.v_dim, order)
        yield Output(target + "ssm_conv1d.weight", (keys + values, s.conv), Type.F32, pieces)
        for name, to, change in (("A_log", "ssm_a", "neg_exp"), ("dt_bias", "ssm_dt.bias", "copy")):
            stored = self._take(source + name, (s.v_heads,))
            yield Output(target + to, (s.v_heads,), Type.F32, (Piece(stored, 0, 1),), change, order)
        stored = self._take(source + "norm.weight", (s.v_dim,))
        yield Output(target + "ssm_norm.weight", (s.v_dim,), Type.F32, (Piece(stored, 0, 1),))
        stored = self._take(source + "out_proj.weight", (s.hidden, values))
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
            both = self._take(source + "experts.gate_up_proj", (e, 2 * ff, s.hidden))
            down = self._take(source + "experts.down_proj", (e, s.hidden, ff))
            pieces["gate"] = [Piece(both, i * 2 * ff, ff) for i in range(e)]
            pieces["up"] = [Piece(both, i * 2 * ff + ff, ff) for i in range(e)]
            pieces["down"] = [Piece(down, 0, e * s.hidden)]
        else:
            for name, rows, columns in (("gate", ff, s.hidden), ("up", ff, s.hidden), ("down", s.hidden, ff)):
                each = (self._take(f"{source}experts.{i}.{name}_proj.weight", (rows, columns)) for i in range(e))
                pieces[name] = [Piece(stored, 0, rows) for stored in each]
        for name, shape in (("gate", (e, ff, s.hidden)), ("up", (e, ff, s.hidden)), ("down", (e, s.hidden, ff))):
            yield Output(f"{target}ffn_{name}_exps.weight", shape, self._default, tuple(pieces[name]))

    # --- one tensor

    def _norm(self, source: str, target: str, size: int) -> Output:
        stored = self._take(source, (size,))
        return Output(target, (size,), Type.F32, (Piece(stored, 0, 1),), "plus_one")

    def _matrix(self, source: str, target: str, shape: tuple[int, int], kind: Type | None = None) -> Output:
        stored = self._take(source, shape)
        return Output(target, shape, self._default if kind is None else kind, (Piece(stored, 0, shape[0]),))

    def _rows(self, source: str, target: str, shape: tuple[int, int], fixed: int, head: int, order: Order) -> Output:
        """A matrix whose rows behind the first `fixed` ones are heads of `head` rows, to be put in `order`."""
        stored = self._take(source, shape)
        return Output(target, shape, self._default, _reordered(stored, fixed, head, order))

    def _take(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        stored = self._left.pop(name, None)
        if stored is None:
            raise self._missing(name)
        if stored.shape != shape:
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: has shape {list(stored.shape)}, config.json asks for {list(shape)}; "
                "get both files again"
            )
        if stored.dtype not in FLOATS:
            raise ModelFileError(
                f"{shown_path(stored.path)}: {shown(stored.name)}: has type {stored.dtype}, expected F32, F16 or BF16; get the original checkpoint"
            )
        return stored

    def _missing(self, name: str) -> ModelFileError:
        return ModelFileError(
            f"{shown_path(self._folder)}: {name}: the tensor is missing; download the checkpoint again"
        )


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
