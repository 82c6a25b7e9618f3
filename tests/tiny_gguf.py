"""A llama-architecture GGUF of a few hundred kilobytes with random weights: loads in llama.cpp and generates (nonsense)."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, CONTEXT = 64, 2, 4, 2, 96, 512
PIECES = ["<unk>", "<s>", "</s>"]


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """SPM tokens, scores and types: three control tokens, all bytes, the printable ASCII characters and some pairs."""
    kinds = gguf.TokenType
    tokens = [piece.encode() for piece in PIECES]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    for byte in range(256):
        tokens.append(f"<0x{byte:02X}>".encode())
        types.append(kinds.BYTE)
    for piece in ["\u2581", *map(chr, range(33, 127)), *(a + b for a in "aeiou\u2581" for b in "nrst")]:
        tokens.append(piece.encode())
        types.append(kinds.NORMAL)
    return tokens, [-float(i) for i in range(len(tokens))], [int(kind) for kind in types]


def write_tiny_gguf(path: Path, *, seed: int = 0, hidden: int = HIDDEN, alignment: int | None = None) -> Path:
    """Writes the model; the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    tokens, scores, types = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_name("tiny random llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:")

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.1 * rng.standard_normal(hidden)).astype(np.float32)

    kv = hidden // HEADS * KV_HEADS
    writer.add_tensor("token_embd.weight", matrix(len(tokens), hidden))
    for i in range(LAYERS):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", norm())
        writer.add_tensor(f"blk.{i}.attn_q.weight", matrix(hidden, hidden))
        writer.add_tensor(f"blk.{i}.attn_k.weight", matrix(kv, hidden))
        writer.add_tensor(f"blk.{i}.attn_v.weight", matrix(kv, hidden))
        writer.add_tensor(f"blk.{i}.attn_output.weight", matrix(hidden, hidden))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", norm())
        writer.add_tensor(f"blk.{i}.ffn_gate.weight", matrix(FFN, hidden))
        writer.add_tensor(f"blk.{i}.ffn_up.weight", matrix(FFN, hidden))
        writer.add_tensor(f"blk.{i}.ffn_down.weight", matrix(hidden, FFN))
    writer.add_tensor("output_norm.weight", norm())
    writer.add_tensor("output.weight", matrix(len(tokens), hidden))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
