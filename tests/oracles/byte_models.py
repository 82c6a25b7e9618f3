"""Tiny random F32 models with a vocabulary of bytes, one for each kind of memory that a model can have.

A conversation costs milliseconds with them, so that hundreds can be compared. Their logits are spread widely, which
keeps the likeliest token clear of the rounding that comes with another shape of batch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import numpy as np

from darwin_neg_cpp.neg import files as neg_files
from oracles import tiny_qwen35
from oracles.neg_reference import random_released_head
from tiny_gguf import byte_tokens, write_tiny_llama

TAGS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
N_VOCAB = 256 + 2 + len(TAGS)

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def write_all(folder: Path, llama_tree: Path, qwen35: Path) -> None:
    """Writes a file for each architecture, with a random head whose gate fires at some tokens and not at others.

    qwen35: the tiny checkpoint as a GGUF file.
    """
    with tempfile.TemporaryDirectory() as temporary:
        bare, head = Path(temporary, "bare.gguf"), Path(temporary, "neg_modules.safetensors")
        for architecture, hidden in (("llama", 64), ("gemma3", 64), ("qwen35", 256), ("qwen35moe", 256)):
            if architecture == "llama":
                write_tiny_llama(bare, chat_template=TEMPLATE, tags=TAGS)
            elif architecture == "gemma3":
                every_second = {"gemma3.attention.sliding_window_pattern": (gguf.GGUFValueType.UINT32, 2)}
                write_tiny_llama(bare, arch="gemma3", chat_template=TEMPLATE, tags=TAGS, keys=every_second)
            elif architecture == "qwen35":
                write_with_byte_vocabulary(bare, qwen35)
            else:
                checkpoint, whole = Path(temporary, "checkpoint"), Path(temporary, "whole.gguf")
                tiny_qwen35.write_checkpoint(checkpoint, llama_tree, experts=True)
                tiny_qwen35.convert(checkpoint, whole, llama_tree)
                write_with_byte_vocabulary(bare, whole)
            random_released_head(head, hidden, 3, 1.0)
            neg_files.attach(bare, head, folder / f"{architecture}.gguf")
            bare.unlink()


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_tokens(), "<s>", "</s>", *TAGS])
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.USER_DEFINED] * 2
    )
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def write_with_byte_vocabulary(out: Path, source: Path) -> None:
    """The same model with the first rows of its vocabulary."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.", "tokenizer.")) and not key.endswith(".vocab_size"):
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_vocabulary(writer)
    for tensor in reader.tensors:
        data = tensor.data[:N_VOCAB] if tensor.name in ("token_embd.weight", "output.weight") else tensor.data
        writer.add_tensor(tensor.name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
