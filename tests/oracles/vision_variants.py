"""Random tiny checkpoints with whole vision towers, in the layouts that the Qwen3.5 family and its relatives store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import variants

VOCAB = 300
TEXT_WIDTH = 64


@dataclass(frozen=True)
class VisionVariant:
    """Options of one checkpoint.

    vision: entries of vision_config, None to leave one out. deepstack: layers whose output is projected too. files: of
    the images' settings, by name. mixed: a vector in F32 among weights of another type.
    """

    name: str
    arch: str = "Qwen3_5ForConditionalGeneration"
    dtype: str = "BF16"
    root: str = "model.visual."
    shards: int = 2
    deepstack: tuple[int, ...] | None = None
    vision: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=lambda: {"preprocessor_config.json": HALVES})
    mixed: bool = False
    card: bool = False
    epsilon: float | None = 1e-6
    types: tuple[str, ...] = ("f32", "f16", "bf16", "q8_0", "auto")


HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 65536}}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
MOE = "Qwen3_5MoeForConditionalGeneration"

VARIANTS = [
    VisionVariant("released-layout", card=True),
    VisionVariant("older-names", root="visual.", shards=1),
    VisionVariant("experts", arch=MOE, shards=3),
    VisionVariant("experts-with-deepstack", arch=MOE, deepstack=(0, 2)),
    VisionVariant("stored-f16", dtype="F16", deepstack=(1,)),
    VisionVariant("stored-f32", dtype="F32", shards=3, deepstack=()),
    VisionVariant("mixed-types", mixed=True, types=("f16", "bf16", "auto")),
    # as the released towers: 4304 is not a multiple of a block, twelve layers are sorted as texts
    VisionVariant("rows-of-72", vision={"intermediate_size": 72, "depth": 12, "hidden_size": 48, "num_heads": 3}),
    VisionVariant("deepstack-out-of-order", deepstack=(2, 0, 1), types=("bf16",)),
    VisionVariant("image-size-said", vision={"image_size": 96}, types=("bf16",)),
    VisionVariant(
        "newer-processor",
        files={
            "preprocessor_config.json": HALVES,
            "processor_config.json": {"image_processor": CLIP, "video_processor": HALVES},
        },
        types=("bf16",),
    ),
    VisionVariant("nested-settings", files={"preprocessor_config.json": {"media_proc_cfg": CLIP}}, types=("bf16",)),
    VisionVariant("processor-alone", files={"processor_config.json": {"image_processor": HALVES}}, types=("bf16",)),
    VisionVariant("another-epsilon", epsilon=3e-5, types=("bf16",)),
    VisionVariant("no-epsilon", epsilon=None, types=("bf16",)),
    # what transformers does not write, because it is its default
    VisionVariant(
        "defaults-left-out",
        vision={"patch_size": None, "in_channels": None, "spatial_merge_size": None, "temporal_patch_size": None},
        types=("bf16",),
    ),
]

DEFAULTS = {"patch_size": 16}


def vision_config(variant: VisionVariant) -> dict[str, Any]:
    config = {
        "model_type": "qwen3_5_vision",
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": TEXT_WIDTH,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": None if variant.deepstack is None else list(variant.deepstack),
        **variant.vision,
    }
    return {key: value for key, value in config.items() if value is not None}


def tower(variant: VisionVariant, generator: torch.Generator) -> dict[str, torch.Tensor]:
    c = DEFAULTS | vision_config(variant)
    out: dict[str, torch.Tensor] = {}
    hidden, merged = c["hidden_size"], 4 * c["hidden_size"]

    def add(name: str, *shape: int) -> None:
        out[variant.root + name] = (torch.randn(*shape, generator=generator) * 0.3).to(variants.DTYPES[variant.dtype])

    def linear(name: str, rows: int, columns: int) -> None:
        add(name + ".weight", rows, columns)
        add(name + ".bias", rows)

    def norm(name: str, size: int) -> None:
        add(name + ".weight", size)
        add(name + ".bias", size)

    add("patch_embed.proj.weight", hidden, 3, 2, c["patch_size"], c["patch_size"])
    add("patch_embed.proj.bias", hidden)
    add("pos_embed.weight", c["num_position_embeddings"], hidden)
    for i in range(c["depth"]):
        norm(f"blocks.{i}.norm1", hidden)
        norm(f"blocks.{i}.norm2", hidden)
        linear(f"blocks.{i}.attn.qkv", 3 * hidden, hidden)
        linear(f"blocks.{i}.attn.proj", hidden, hidden)
        linear(f"blocks.{i}.mlp.linear_fc1", c["intermediate_size"], hidden)
        linear(f"blocks.{i}.mlp.linear_fc2", hidden, c["intermediate_size"])
    mergers = {"merger": hidden} | {f"deepstack_merger_list.{i}": merged for i in range(len(variant.deepstack or ()))}
    for name, normed in mergers.items():
        norm(f"{name}.norm", normed)
        linear(f"{name}.linear_fc1", merged, merged)
        linear(f"{name}.linear_fc2", c["out_hidden_size"], merged)
    if variant.mixed:
        # the first matrix by name decides the type that auto takes
        name = variant.root + "blocks.0.attn.proj.weight"
        out[name] = out[name].to(torch.float32)
        out[variant.root + "blocks.0.attn.qkv.weight"] = out[variant.root + "blocks.0.attn.qkv.weight"].to(
            torch.float16
        )
    return out


def text_variant(variant: VisionVariant) -> variants.Variant:
    experts = "fused" if variant.arch == MOE else ""
    return variants.Variant(variant.name, variant.arch, dtype=variant.dtype, vision=False, experts=experts)


def configuration(variant: VisionVariant) -> dict[str, Any]:
    config = variants.configuration(text_variant(variant), VOCAB)
    text = config["text_config"]
    text["rms_norm_eps"] = variant.epsilon
    if variant.epsilon is None:
        del text["rms_norm_eps"]
    if variant.arch == MOE:
        config["model_type"], text["model_type"] = "qwen3_5_moe", "qwen3_5_moe_text"
    return config | {"vision_config": vision_config(variant)}


def write(variant: VisionVariant, folder: Path, seed: int) -> None:
    """Writes the checkpoint without a tokenizer, which no projector needs."""
    folder.mkdir(parents=True)
    stored = tower(variant, torch.Generator().manual_seed(seed))
    stored |= variants.tensors(text_variant(variant), VOCAB, seed)
    names = list(stored)
    index: dict[str, str] = {}
    for i in range(variant.shards):
        file = f"model-{i + 1:05d}-of-{variant.shards:05d}.safetensors" if variant.shards > 1 else "model.safetensors"
        part = names[i :: variant.shards]
        save_file({name: stored[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    if variant.shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    for name, value in {"config.json": configuration(variant), **variant.files}.items():
        (folder / name).write_text(json.dumps(value), "utf-8")
    if variant.card:
        (folder / "README.md").write_text(variants.CARD, "utf-8")
        (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "top_p": 0.95}', "utf-8")
