"""Random tiny checkpoints that span what the Qwen3.5 family stores.

They are written tensor by tensor, not by transformers, so that the layouts of other versions and of other programs are
among them.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class Variant:
    """Options of one checkpoint; `text` overrides entries of the text model's configuration."""

    name: str
    arch: str = "Qwen3_5ForConditionalGeneration"
    dtype: str = "BF16"
    tied: bool = False
    stored_head: bool = True  # lm_head.weight is there
    mtp: bool = True
    mtp_blocks: int = 1
    mtp_root: str = "mtp."
    vision: bool = True
    vision_dtype: str = ""  # a different one from the others', and then in a shard before them
    shards: int = 2
    experts: str = ""  # "fused", "single"
    nested: bool = True  # text_config, as multimodal checkpoints have it
    root: str = ""  # before the language model's names, where it is not what transformers writes today
    head_root: str = ""  # before lm_head.weight
    float_a_log: bool = False
    text: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()  # for both converters
    card: bool = False
    types: tuple[str, ...] = ("f32", "f16", "bf16", "q8_0")


VARIANTS = [
    Variant("released-layout", card=True),
    Variant("tied-single-file", tied=True, stored_head=False, mtp=False, vision=False, shards=1),
    Variant("tied-head-stored", tied=True, shards=1),
    Variant("text-only", arch="Qwen3_5ForCausalLM", vision=False, nested=False),
    Variant("equal-heads", text={"linear_num_key_heads": 4, "linear_num_value_heads": 4}),
    Variant("three-values-a-key", text={"linear_num_key_heads": 2, "linear_num_value_heads": 6}),
    Variant("stored-f16", dtype="F16"),
    Variant("stored-f32", dtype="F32", shards=3),
    Variant("mixed-types", float_a_log=True),
    Variant("no-layer-types", text={"layer_types": None, "full_attention_interval": 4}),
    Variant("mtp-dropped", arguments=("--no-mtp",)),
    Variant("rows-of-48", text={"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 3}),
    Variant(
        "yarn",
        text={
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 512,
                "rope_theta": 5e6,
                "partial_rotary_factor": 0.5,
                "mrope_section": [3, 3, 2],
                "beta_fast": 16.0,
                "attention_factor": 1.1,
            }
        },
    ),
    Variant(
        "yarn-original-context-elsewhere",
        text={
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 5e6,
                "partial_rotary_factor": 0.25,
                "mrope_section": [3, 3, 2],
            },
            "original_max_position_embeddings": 512,
        },
        types=("bf16",),
    ),
    Variant("wide-values", text={"linear_value_head_dim": 64}, types=("f32", "q8_0")),
    Variant("two-mtp-blocks", mtp_blocks=2, text={"mtp_num_hidden_layers": 2}, types=("bf16",)),
    Variant("mtp-blocks-not-counted", mtp_blocks=2, text={"mtp_num_hidden_layers": None}, types=("bf16",)),
    Variant(
        "mtp-inside-the-model",
        arch="Qwen3_5ForCausalLM",
        vision=False,
        nested=False,
        mtp_root="model.mtp.",
        types=("bf16",),
    ),
    Variant("mtp-inside-the-language-model", mtp_root="model.language_model.mtp.", types=("bf16",)),
    Variant(
        "older-names",
        root="language_model.model.",
        head_root="language_model.",
        mtp_root="language_model.mtp.",
        types=("bf16",),
    ),
    Variant("tied-from-outside", tied=True, text={"tie_word_embeddings": False}, types=("bf16",)),
    Variant("vision-of-another-type", vision_dtype="F16", shards=3, types=("bf16",)),
    Variant("experts-fused", arch="Qwen3_5MoeForConditionalGeneration", experts="fused"),
    Variant("experts-single", arch="Qwen3_5MoeForCausalLM", experts="single", vision=False, nested=False, mtp=False),
]


def configuration(variant: Variant, vocab: int) -> dict[str, Any]:
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "vocab_size": vocab,
        "max_position_embeddings": 2048,
        "mtp_num_hidden_layers": 1,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e7,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
        "eos_token_id": 151645,
        "tie_word_embeddings": variant.tied,
        "model_type": "qwen3_5_text",
    }
    if variant.experts:
        text |= {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        }
        del text["intermediate_size"]
    text = {key: value for key, value in (text | variant.text).items() if value is not None}
    outer = {"architectures": [variant.arch], "model_type": "qwen3_5", "tie_word_embeddings": variant.tied}
    return outer | ({"text_config": text} if variant.nested else text)


def tensors(variant: Variant, vocab: int, seed: int) -> dict[str, torch.Tensor]:
    config = configuration(variant, vocab)
    c = config.get("text_config", config)
    g = torch.Generator().manual_seed(seed)
    dtype = DTYPES[variant.dtype]
    out: dict[str, torch.Tensor] = {}
    root = variant.root or ("model.language_model." if variant.nested else "model.")

    def add(name: str, *shape: int, scale: float = 0.2) -> None:
        out[name] = (torch.randn(*shape, generator=g) * scale).to(dtype)

    hidden, heads, kv, size = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    k_heads, v_heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
    k_dim, v_dim = c["linear_key_head_dim"], c["linear_value_head_dim"]

    def layer(prefix: str, linear: bool) -> None:
        add(prefix + "input_layernorm.weight", hidden)
        add(prefix + "post_attention_layernorm.weight", hidden)
        if linear:
            a = prefix + "linear_attn."
            add(a + "in_proj_qkv.weight", 2 * k_heads * k_dim + v_heads * v_dim, hidden)
            add(a + "in_proj_z.weight", v_heads * v_dim, hidden)
            add(a + "in_proj_b.weight", v_heads, hidden)
            add(a + "in_proj_a.weight", v_heads, hidden)
            add(a + "conv1d.weight", 2 * k_heads * k_dim + v_heads * v_dim, 1, c["linear_conv_kernel_dim"])
            out[a + "A_log"] = torch.log(torch.rand(v_heads, generator=g) * 16 + 1e-3).to(
                torch.float32 if variant.float_a_log else dtype
            )
            add(a + "dt_bias", v_heads)
            add(a + "norm.weight", v_dim)
            add(a + "out_proj.weight", hidden, v_heads * v_dim)
        else:
            a = prefix + "self_attn."
            add(a + "q_proj.weight", 2 * heads * size, hidden)
            add(a + "k_proj.weight", kv * size, hidden)
            add(a + "v_proj.weight", kv * size, hidden)
            add(a + "o_proj.weight", hidden, heads * size)
            add(a + "q_norm.weight", size)
            add(a + "k_norm.weight", size)
        m = prefix + "mlp."
        if not variant.experts:
            add(m + "gate_proj.weight", c["intermediate_size"], hidden)
            add(m + "up_proj.weight", c["intermediate_size"], hidden)
            add(m + "down_proj.weight", hidden, c["intermediate_size"])
            return
        e, ff, shared = c["num_experts"], c["moe_intermediate_size"], c["shared_expert_intermediate_size"]
        add(m + "gate.weight", e, hidden)
        add(m + "shared_expert_gate.weight", 1, hidden)
        add(m + "shared_expert.gate_proj.weight", shared, hidden)
        add(m + "shared_expert.up_proj.weight", shared, hidden)
        add(m + "shared_expert.down_proj.weight", hidden, shared)
        if variant.experts == "fused":
            add(m + "experts.gate_up_proj", e, 2 * ff, hidden)
            add(m + "experts.down_proj", e, hidden, ff)
        else:
            for i in range(e):
                add(f"{m}experts.{i}.gate_proj.weight", ff, hidden)
                add(f"{m}experts.{i}.up_proj.weight", ff, hidden)
                add(f"{m}experts.{i}.down_proj.weight", hidden, ff)

    add(root + "embed_tokens.weight", vocab, hidden)
    for i in range(c["num_hidden_layers"]):
        layer(f"{root}layers.{i}.", linear=(i + 1) % 4 != 0)
    add(root + "norm.weight", hidden)
    if variant.stored_head:
        head = variant.head_root + "lm_head.weight"
        add(head, vocab, hidden)
        if variant.tied:
            out[head] = out[root + "embed_tokens.weight"].clone()
    if variant.mtp:
        for i in range(variant.mtp_blocks):
            layer(f"{variant.mtp_root}layers.{i}.", linear=False)
        add(f"{variant.mtp_root}fc.weight", hidden, 2 * hidden)
        for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
            add(f"{variant.mtp_root}{name}.weight", hidden)
    if variant.vision:
        add("model.visual.patch_embed.proj.weight", 16, 3, 2, 4, 4)
        add("model.visual.blocks.0.norm1.weight", 16)
    if variant.vision_dtype:
        visual = {name: out.pop(name).to(DTYPES[variant.vision_dtype]) for name in list(out) if ".visual." in name}
        out = visual | out
    return out


def _shard_of(name: str, names: list[str], variant: Variant) -> int:
    if not variant.vision_dtype:
        return names.index(name) % variant.shards
    return 0 if ".visual." in name else 1 + names.index(name) % (variant.shards - 1)


CARD = """---
license: apache-2.0
base_model:
- Qwen/Qwen3.5-9B
tags:
- entropy
language:
- en
---
# A model
"""


def write(variant: Variant, folder: Path, tokenizer: Path, vocab: int, seed: int) -> None:
    """Writes the checkpoint; the tokenizer's files are links to those of `tokenizer`."""
    folder.mkdir(parents=True)
    stored = tensors(variant, vocab, seed)
    names = list(stored)
    if variant.shards == 1:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        index: dict[str, str] = {}
        for i in range(variant.shards):
            file = f"model-{i + 1:05d}-of-{variant.shards:05d}.safetensors"
            part = [name for name in names if _shard_of(name, names, variant) == i]
            save_file({name: stored[name] for name in part}, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    (folder / "config.json").write_text(json.dumps(configuration(variant, vocab)), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        try:
            os.link(tokenizer / name, folder / name)
        except OSError:
            shutil.copy(tokenizer / name, folder / name)
    if variant.card:
        (folder / "README.md").write_text(CARD, "utf-8")
        (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "top_p": 0.95}', "utf-8")
