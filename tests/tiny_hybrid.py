"""Writes a tiny qwen35 model with a multi-token-prediction block, by the gguf package alone; loads in milliseconds.

The trunk is a bigram table with noise: the output row of the token that follows `t` is the embedding of `t`, and a
recurrent and an attention layer add a little to it. The block looks at the newest token's embedding only, so that it
guesses the trunk's choice most of the time (`block="good"`) or never (`block="random"`). The state that a wrong guess
leaves behind, or a wrong rollback, shows in logits, entropies and soon in tokens.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tiny_gguf import byte_tokens

HIDDEN, FFN, HEADS, HEAD, STATE, V_HEADS = 64, 96, 2, 32, 32, 2
RECURRENT, ATTENTION, BLOCK = 0, 1, 2  # layers
NOISE = 1.0  # of a layer's matrices; more of it, and fewer drafts are right


def write_tiny_hybrid(
    path: Path, *, block: str | None = "good", blocks: int = 1, head: bool = True, seed: int = 0
) -> Path:
    """block: "good", "random" or None. blocks: how many the header claims."""
    rng = np.random.default_rng(seed)
    tokens = [*byte_tokens(), "<s>", "</s>"]
    writer = gguf.GGUFWriter(path, "qwen35")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2 + (blocks if block else 0))
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(16)
    writer.add_rope_dimension_sections([3, 3, 2, 0])
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_group_count(1)
    writer.add_ssm_time_step_rank(V_HEADS)
    writer.add_ssm_inner_size(STATE * V_HEADS)
    writer.add_full_attention_interval(2)
    if block:
        writer.add_nextn_predict_layers(blocks)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(True)

    def add(name: str, values: np.ndarray) -> None:
        writer.add_tensor(name, values.astype(np.float32))

    def matrix(name: str, *shape: int, scale: float = NOISE) -> None:
        add(name, rng.standard_normal(shape) * scale * shape[-1] ** -0.5)

    def norm(name: str, size: int = HIDDEN) -> None:
        add(name, 1 + 0.1 * rng.standard_normal(size))

    def attention(layer: int, scale: float) -> None:
        matrix(f"blk.{layer}.attn_q.weight", 2 * HEADS * HEAD, HIDDEN, scale=scale)
        matrix(f"blk.{layer}.attn_k.weight", HEAD, HIDDEN, scale=scale)
        matrix(f"blk.{layer}.attn_v.weight", HEAD, HIDDEN, scale=scale)
        matrix(f"blk.{layer}.attn_output.weight", HIDDEN, HEADS * HEAD, scale=scale)
        norm(f"blk.{layer}.attn_q_norm.weight", HEAD)
        norm(f"blk.{layer}.attn_k_norm.weight", HEAD)

    def rest_of_layer(layer: int, scale: float) -> None:
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.post_attention_norm.weight")
        matrix(f"blk.{layer}.ffn_gate.weight", FFN, HIDDEN, scale=scale)
        matrix(f"blk.{layer}.ffn_up.weight", FFN, HIDDEN, scale=scale)
        matrix(f"blk.{layer}.ffn_down.weight", HIDDEN, FFN, scale=scale)

    embeddings = rng.standard_normal((len(tokens), HIDDEN))
    follower = rng.permutation(256)
    output = 0.1 * rng.standard_normal((len(tokens), HIDDEN))
    output[follower] = 0.12 * embeddings[:256]
    add("token_embd.weight", embeddings)
    add("output.weight", output)
    add("output_norm.weight", np.ones(HIDDEN))

    wide = STATE * (2 + V_HEADS)
    matrix("blk.0.attn_qkv.weight", wide, HIDDEN, scale=1.5)
    matrix("blk.0.attn_gate.weight", STATE * V_HEADS, HIDDEN, scale=1.5)
    matrix("blk.0.ssm_conv1d.weight", wide, 4, scale=1.5)
    matrix("blk.0.ssm_alpha.weight", V_HEADS, HIDDEN)
    matrix("blk.0.ssm_beta.weight", V_HEADS, HIDDEN)
    add("blk.0.ssm_dt.bias", np.zeros(V_HEADS))
    add("blk.0.ssm_a", np.full(V_HEADS, -0.05))  # forgets slowly
    norm("blk.0.ssm_norm.weight", STATE)
    matrix("blk.0.ssm_out.weight", HIDDEN, STATE * V_HEADS)
    rest_of_layer(RECURRENT, NOISE)
    attention(ATTENTION, 1.0)
    rest_of_layer(ATTENTION, NOISE)
    if block:
        for layer in range(BLOCK, BLOCK + blocks):
            attention(layer, 0.05)
            rest_of_layer(layer, 0.05)
            half = np.eye(HIDDEN) if block == "good" else rng.standard_normal((HIDDEN, HIDDEN))
            add(f"blk.{layer}.nextn.eh_proj.weight", np.concatenate([half, np.zeros((HIDDEN, HIDDEN))], axis=1))
            for name in ("enorm", "hnorm", "shared_head_norm"):
                add(f"blk.{layer}.nextn.{name}.weight", np.ones(HIDDEN))
    if head:
        matrix("neg.proj_down.w", 16, HIDDEN, scale=1.6)
        add("neg.proj_down.b", 0.1 * rng.standard_normal(16))
        add("neg.proj_out.w", 0.7 * rng.standard_normal(16))
        add("neg.proj_out.b", 0.5 * rng.standard_normal(1))
        writer.add_uint32("neg.version", 1)
        writer.add_float32("neg.threshold", 0.7)
        writer.add_uint32("neg.top_k", 5)
        writer.add_float32("neg.temp_scale", 0.6)
        writer.add_bool("neg.temp_enabled", False)
        writer.add_string("neg.source", "test")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
