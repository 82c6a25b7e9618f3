"""Writes Hugging Face tokenizer files for the real vocabulary that llama.cpp ships for testing.

It holds the 151,936 tokens of the Qwen family. The files are written from the GGUF vocabulary's own tokens and merges,
so that llama.cpp's converter recognises the pre-tokenizer by its hash.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# The family's published pre-tokenizer expression.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def vocabulary(gguf_vocab: Path) -> tuple[list[str], list[tuple[str, str]], list[int]]:
    """(tokens, merges, token types) of a GGUF vocabulary."""
    fields = gguf.GGUFReader(gguf_vocab).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    return tokens, merges, fields["tokenizer.ggml.token_type"].contents()


def write_tokenizer(gguf_vocab: Path, folder: Path, chat_template: str) -> PreTrainedTokenizerFast:
    tokens, merges, types = vocabulary(gguf_vocab)
    normal = {token: i for i, token in enumerate(tokens) if types[i] == gguf.TokenType.NORMAL}
    control = [(i, token) for i, token in enumerate(tokens) if types[i] == gguf.TokenType.CONTROL]
    tokenizer = Tokenizer(models.BPE(vocab=normal, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # the GGUF file stores nothing after the control tokens but padding, so their ids follow the normal ones
    assert [i for i, _ in control] == list(range(len(normal), len(normal) + len(control)))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for _, token in control])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return fast
