"""Writes a tiny random llama model with a byte-level vocabulary, by the gguf package alone; loads in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, FFN = 64, 2, 4, 96
WINDOW = 32


def byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, from the rule that defines them."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    extra = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(extra)) for b in range(256)]


def write_tiny_llama(
    path: Path,
    seed: int = 0,
    *,
    chat_template: str | None = None,
    tags: Sequence[str] = (),
    pre: str | None = "gpt-2",
    name: str = "tiny",
    split: int = 0,
    first_without_tensors: bool = False,
    add_eos: bool = False,
    keys: Mapping[str, tuple[gguf.GGUFValueType, Any]] | None = None,
    arch: Literal["llama", "gemma3"] = "llama",
    experts: int = 0,
    deltas: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Returns the file. tags: texts that are one token each, from id 258 on. split: at most so many tensors to a file;
    it is then the first of several parts. keys: more of them, each with the type and the value. arch: "gemma3" has a
    sliding window of WINDOW tokens in five of six layers. experts: number of them, 0 is a dense model. deltas: added to
    weights, by name."""
    rng = np.random.default_rng(seed)
    tokens = [*byte_tokens(), "<s>", "</s>", *tags]
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split, small_first_shard=first_without_tensors)
    writer.add_name(name)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    types = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2
    writer.add_token_types(types + [gguf.TokenType.USER_DEFINED] * len(tags))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(True)
    if add_eos:
        writer.add_add_eos_token(True)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    if arch == "gemma3":
        writer.add_sliding_window(WINDOW)
        writer.add_key_length(HIDDEN // HEADS)
        writer.add_value_length(HIDDEN // HEADS)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    for key, (kind, value) in (keys or {}).items():
        writer.add_key_value(key, value, kind)

    def weight(name: str, *shape: int) -> None:
        values = (rng.standard_normal(shape) * 1.5 * shape[-1] ** -0.5).astype(np.float32)
        writer.add_tensor(name, values + (deltas or {}).get(name, np.float32(0)))

    def norm(name: str, size: int = HIDDEN) -> None:
        writer.add_tensor(name, (1 + 0.1 * rng.standard_normal(size)).astype(np.float32))

    weight("token_embd.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weight(f"blk.{layer}.{part}.weight", HIDDEN, HIDDEN)
        norm(f"blk.{layer}.ffn_norm.weight")
        of, each = ("_exps", (experts,)) if experts else ("", ())
        weight(f"blk.{layer}.ffn_gate{of}.weight", *each, FFN, HIDDEN)
        weight(f"blk.{layer}.ffn_up{of}.weight", *each, FFN, HIDDEN)
        weight(f"blk.{layer}.ffn_down{of}.weight", *each, HIDDEN, FFN)
        if experts:
            weight(f"blk.{layer}.ffn_gate_inp.weight", experts, HIDDEN)
        if arch == "gemma3":
            for part in ("post_attention_norm", "post_ffw_norm"):
                norm(f"blk.{layer}.{part}.weight")
            for part in ("attn_q_norm", "attn_k_norm"):
                norm(f"blk.{layer}.{part}.weight", HIDDEN // HEADS)
    norm("output_norm.weight")
    if arch != "gemma3":
        weight("output.weight", len(tokens), HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"), default=path) if split else path


def write_adapter(
    path: Path,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    alpha: float = 8.0,
    keys: Mapping[str, str | float | None] | None = None,
) -> Path:
    """Returns the file of a LoRA adapter: A and B of each weight, as llama.cpp's converter has them.

    keys: others; None leaves one out."""
    values = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    all_keys = {**values, "adapter.lora.alpha": alpha, **(keys or {})}
    writer = gguf.GGUFWriter(path, str(all_keys.pop("general.architecture")))
    for key, value in all_keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_float32(key, value)
    for name, (a, b) in parts.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
