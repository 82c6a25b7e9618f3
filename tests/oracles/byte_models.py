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
WINDOW = 24  # tokens that the sliding layers of the gemma3 look back

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
                write_gemma3(bare)
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


def write_gemma3(out: Path, seed: int = 0) -> None:
    """Four layers, of which every second one sees all tokens."""
    hidden, heads, ffn, layers = 64, 4, 96, 4
    head_dim = hidden // heads
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(out, "gemma3")
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(WINDOW)
    writer.add_sliding_window_pattern(2)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_vocabulary(writer)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, (rng.standard_normal(shape) * 1.5 * shape[-1] ** -0.5).astype(np.float32))

    def norm(name: str, size: int = hidden) -> None:
        writer.add_tensor(name, (1 + 0.1 * rng.standard_normal(size)).astype(np.float32))

    weight("token_embd.weight", N_VOCAB, hidden)
    for layer in range(layers):
        block = f"blk.{layer}."
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            norm(f"{block}{name}.weight")
        for name in ("attn_q_norm", "attn_k_norm"):
            norm(f"{block}{name}.weight", head_dim)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weight(f"{block}{name}.weight", hidden, hidden)
        weight(f"{block}ffn_gate.weight", ffn, hidden)
        weight(f"{block}ffn_up.weight", ffn, hidden)
        weight(f"{block}ffn_down.weight", hidden, ffn)
    norm("output_norm.weight")
    weight("output.weight", N_VOCAB, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
