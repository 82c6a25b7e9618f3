"""A tiny random checkpoint of the released layout.

It is a Qwen3_5ForConditionalGeneration with vision tower, mtp.* block and NEG modules. The language model has the
family's shape in small (hidden 256, four layers of which the fourth is full attention) and the real tokenizer. Weights
are random but scaled so that decoding is not degenerate: greedy tokens vary and the arg-max is clear.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from .neg_reference import random_released_head
from .qwen_tokenizer import write_tokenizer

HIDDEN = 256
VOCAB = 151_936
THRESHOLD = 1.0
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 192,
}

Model = Qwen3_5ForConditionalGeneration | Qwen3_5MoeForConditionalGeneration


def config(*, tied: bool = False, experts: bool = False, **text: Any) -> Qwen3_5Config | Qwen3_5MoeConfig:
    """text: entries of the text model's configuration other than the released layout's."""
    if experts:
        text = EXPERTS | text
    return (Qwen3_5MoeConfig if experts else Qwen3_5Config)(
        text_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 64,
            "linear_value_head_dim": 64,
            "vocab_size": VOCAB,
            "max_position_embeddings": 4096,
            "mtp_num_hidden_layers": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000_000.0,
                "partial_rotary_factor": 0.25,
                "mrope_section": [3, 3, 2],
                "mrope_interleaved": True,
            },
            "eos_token_id": 151645,
            "bos_token_id": 151643,
            "tie_word_embeddings": tied,
            **text,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 16,
        },
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        tie_word_embeddings=tied,
        architectures=[f"Qwen3_5{'Moe' if experts else ''}ForConditionalGeneration"],
    )


def build_model(seed: int, **options: Any) -> Model:
    torch.manual_seed(seed)
    made = config(**options)
    kind = Qwen3_5MoeForConditionalGeneration if options.get("experts") else Qwen3_5ForConditionalGeneration
    model = kind._from_config(made, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                fan_in = weight.shape[-1] if "conv1d" not in name else weight.shape[-1] * weight.shape[-2]
                weight.normal_(0.0, 1.4 * fan_in**-0.5)
            elif "norm" in name:
                weight.add_(0.1 * torch.randn_like(weight))
        # sharp enough that the arg-max is clear, soft enough that sampling has a choice
        model.lm_head.weight.mul_(1.2)
        # with tied embeddings small against what the layers add to it, or each token would call for itself
        model.model.language_model.embed_tokens.weight.normal_(0.0, 0.15 if options.get("tied") else 1.0)
        # everything representable in BF16, so that the stored shards and the model in memory agree exactly
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16).to(torch.float32))
    return model.eval()


def write_checkpoint(
    folder: Path, llama_tree: Path, seed: int = 0, dtype: torch.dtype = torch.bfloat16, **options: Any
) -> Model:
    """Writes config, two shards with an index, tokenizer and neg_modules.safetensors; returns the model in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model(seed, **options)
    # A_log stays float32 as in the released files: its exponential is taken
    tensors = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    tensors |= {name: value.to(dtype) for name, value in _mtp_block(tensors).items()}
    names = sorted(tensors)
    half = len(names) // 2
    index: dict[str, str] = {}
    for i, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{i:05d}-of-00002.safetensors"
        save_file({name: tensors[name].clone() for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}), "utf-8")
    model.config.save_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text("utf-8"))
    stored["architectures"] = model.config.architectures
    (folder / "config.json").write_text(json.dumps(stored, indent=1), "utf-8")
    template = (llama_tree / "models" / "templates" / "Qwen3.5-4B.jinja").read_text("utf-8")
    write_tokenizer(llama_tree / "models" / "ggml-vocab-qwen35.gguf", folder, template)
    random_released_head(folder / "neg_modules.safetensors", HIDDEN, seed + 1, THRESHOLD)
    return model


def _mtp_block(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The released shards' multi-token-prediction block: a full-attention layer with its norms and projection."""
    layer = "model.language_model.layers.3."
    block = {
        f"mtp.layers.0.{name.removeprefix(layer)}": value.clone()
        for name, value in tensors.items()
        if name.startswith(layer)
    }
    for name in ("mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight"):
        block[name] = torch.zeros(HIDDEN)
    block["mtp.fc.weight"] = torch.randn(HIDDEN, 2 * HIDDEN) * 0.05
    return block


def convert(folder: Path, out: Path, llama_tree: Path, outtype: str = "f32") -> None:
    """llama.cpp's own converter of the pinned tree."""
    command = [
        sys.executable,
        str(llama_tree / "convert_hf_to_gguf.py"),
        str(folder),
        "--outfile",
        str(out),
        "--outtype",
        outtype,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"llama.cpp's converter failed:\n{result.stderr[-3000:]}")
