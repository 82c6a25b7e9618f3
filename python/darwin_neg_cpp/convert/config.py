"""Reads the hyper-parameters of a Qwen3.5 checkpoint from config.json, and adds them to a GGUF file's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import GGUFWriter, RopeScalingType

from ..errors import ModelFileError
from ..files.input_file import shown

ARCHITECTURES = {
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Qwen3_5ForCausalLM": "qwen35",
    "Qwen3_5MoeForConditionalGeneration": "qwen35moe",
    "Qwen3_5MoeForCausalLM": "qwen35moe",
}
DEFAULT_MROPE_SECTION = (11, 11, 10)
# more than any model has, and little enough to make a list of
MAX_SIZE = 2**31 - 1
MAX_LAYERS = 10_000
MAX_VOCAB = 1 << 24
MAX_HEADS = MAX_EXPERTS = 1 << 16
MAX_F32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Shape:
    """The hyper-parameters that decide which tensors there are, and their shapes."""

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
    """config.json, with the text model's values in front. Every look-up is checked, and every error names the key."""

    def __init__(self, path: str, config: Mapping[str, Any]) -> None:
        self.path = path
        text = config.get("text_config", {})
        if not isinstance(text, dict):
            raise self.wrong("text_config", "is not an object")
        self.values = {**config, **text}
        # the outer object decides whether embeddings are tied, as in transformers
        self._outer = config
        architectures = config.get("architectures")
        if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
            raise self.wrong("architectures", "does not name one architecture")
        self.hf_arch = architectures[0]
        if self.hf_arch not in ARCHITECTURES:
            raise ModelFileError(
                f"{path}: {shown(self.hf_arch)} is not an architecture that this converter knows "
                f"({', '.join(ARCHITECTURES)}); "
                "convert it with llama.cpp's convert_hf_to_gguf.py and join the head with `darwin-neg neg attach`"
            )
        if config.get("quantization_config") or self.values.get("quantization_config"):
            raise self.wrong(
                "quantization_config", "is set: the checkpoint is quantized already; give the original one"
            )

    def wrong(self, key: str, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {key} {what}; download the file again or correct it")

    def section(self, name: str) -> dict[str, Any]:
        """An object of config.json, empty without one. Its name goes before its keys, as errors show them."""
        found = self._outer.get(name)
        if found is not None and not isinstance(found, dict):
            raise self.wrong(name, "is not an object")
        return {f"{name}.{key}": value for key, value in (found or {}).items()}

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
        """Returns the shape. n_mtp: number of blocks for multi-token prediction."""
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
            raise self.wrong(
                "linear_num_value_heads", f"is {shape.v_heads}, which is not a multiple of linear_num_key_heads"
            )
        return shape

    def _layer_types(self, n_layers: int) -> tuple[bool, ...]:
        types = self.values.get("layer_types")
        if types is None:
            interval = self.integer("full_attention_interval", 4)
            return tuple((i + 1) % interval != 0 for i in range(n_layers))
        if not isinstance(types, list) or len(types) != n_layers:
            raise self.wrong("layer_types", f"does not have one entry for each of the {n_layers} layers")
        if unknown := [kind for kind in types if kind not in ("linear_attention", "full_attention")]:
            raise self.wrong("layer_types", f"holds the unknown type {shown(str(unknown[0]))}")
        return tuple(kind == "linear_attention" for kind in types)

    def rope(self) -> Mapping[str, Any]:
        rope = self.values.get("rope_parameters")
        if rope is None:
            rope = self.values.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise self.wrong("rope_parameters", "is not an object")
        out = dict(rope)
        # older configurations have them outside
        for key in ("rope_theta", "partial_rotary_factor"):
            if key not in out and self.values.get(key) is not None:
                out[key] = self.values[key]
        return out


def add_keys(writer: GGUFWriter, config: Config, shape: Shape) -> None:
    """Adds the architecture's hyper-parameters."""
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
        # from there alone, and without it the whole context, as in transformers
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
