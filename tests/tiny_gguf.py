"""Writes a tiny random llama model with a byte-level vocabulary, by the gguf package alone; loads in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, FFN = 64, 2, 4, 96


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
) -> Path:
    """Returns the file. tags: texts that are one token each, from id 258 on. split: at most so many tensors to a file;
    it is then the first of several parts. keys: more of them, each with the type and the value."""
    rng = np.random.default_rng(seed)
    tokens = [*byte_tokens(), "<s>", "</s>", *tags]
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split, small_first_shard=first_without_tensors)
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

    for key, (kind, value) in (keys or {}).items():
        writer.add_key_value(key, value, kind)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * 1.5 * shape[-1] ** -0.5).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, (1 + 0.1 * rng.standard_normal(HIDDEN)).astype(np.float32))

    weight("token_embd.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weight(f"blk.{layer}.{part}.weight", HIDDEN, HIDDEN)
        norm(f"blk.{layer}.ffn_norm.weight")
        weight(f"blk.{layer}.ffn_gate.weight", FFN, HIDDEN)
        weight(f"blk.{layer}.ffn_up.weight", FFN, HIDDEN)
        weight(f"blk.{layer}.ffn_down.weight", HIDDEN, FFN)
    norm("output_norm.weight")
    weight("output.weight", len(tokens), HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"), default=path) if split else path
