"""Tokenizer files of a few hundred tokens, for checkpoints that are converted many times."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from darwin_neg_cpp.convert.tokenizer import PRE_TOKENIZERS

VOCAB = 300


def byte_characters() -> list[str]:
    """The characters that stand for the 256 bytes in byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(other)) for byte in range(256)]


def tokenizer_json() -> dict[str, Any]:
    (split,) = (expression for expression, name in PRE_TOKENIZERS.items() if name == "qwen35")
    vocab = {token: i for i, token in enumerate(byte_characters())}
    merges = [["t", "h"], ["th", "e"], ["i", "n"], ["Ġ", "the"]]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    added = [
        {"id": len(vocab) + i, "content": token, "special": True}
        | dict.fromkeys(("normalized", "single_word", "lstrip", "rstrip"), False)
        for i, token in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def write(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = tokenizer_json()
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}", "utf-8")
    return folder


def write_checkpoint(
    folder: Path,
    tokenizer: Path,
    *,
    hidden: int = 64,
    n_ff: int = 96,
    head: bool = True,
    text: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Writes a checkpoint of variants.py with this vocabulary and a random NEG head; it shares no file with another."""
    from .neg_reference import random_released_head
    from .variants import Variant
    from .variants import write as write_variant

    text = {"hidden_size": hidden, "intermediate_size": n_ff, "eos_token_id": 262} | (text or {})
    variant = Variant("tiny", text=text, **options)
    write_variant(variant, folder, tokenizer, VOCAB, 1)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()  # a link to the shared one, which must not be written through
        shutil.copy(tokenizer / name, folder / name)
    if head:
        random_released_head(folder / "neg_modules.safetensors", hidden, 2, 1.0)
    return folder


def write_quantizable(base: Path) -> Path:
    """A checkpoint below `base` of which every row is a multiple of the largest block."""
    shape = {"head_dim": 64, "linear_num_value_heads": 4, "linear_value_head_dim": 64}
    return write_checkpoint(base / "checkpoint", write(base / "tokenizer"), hidden=256, n_ff=256, text=shape)
