"""What `info` says about a file, with gguf-py's reader as the witness and memory worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import pytest

from darwin_neg_cpp.errors import RequestError
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg.head import random_head
from darwin_neg_cpp.neg.info import info
from handmade import write_gguf
from tiny_gguf import HIDDEN, LAYERS, write_tiny_llama

U32 = gguf.GGUFValueType.UINT32


def test_info_equals_what_gguf_py_reads(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    reader = gguf.GGUFReader(path)
    found = info(path)
    assert found.size_bytes == path.stat().st_size
    assert found.architecture == "llama"
    assert found.name == reader.fields["general.name"].contents()
    assert found.quantization == "F32"
    assert found.n_tensors == len(reader.tensors)
    assert found.n_params == sum(t.n_elements for t in reader.tensors)
    assert found.tensor_types == Counter(t.tensor_type.name for t in reader.tensors)
    assert found.n_vocab == len(reader.fields["tokenizer.ggml.tokens"].contents())
    assert (found.n_embd, found.n_layer, found.n_ctx_train) == (HIDDEN, LAYERS, 512)
    assert (found.split_count, found.neg, found.neg_error) == (1, None, None)
    assert found.memory is not None
    assert found.memory.weights == sum(t.n_bytes for t in reader.tensors)


@pytest.mark.parametrize(
    "options", [{"n_ctx": "x"}, {"n_ctx": -1}, {"n_ctx": 1.5}, {"n_parallel": 0}, {"n_ctx": 10**400}]
)
def test_numbers_that_memory_cannot_be_computed_for_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"^{next(iter(options))} must be"):
        info(write_tiny_llama(tmp_path / "tiny.gguf"), **options)


def test_chat_template_and_split_are_told(tmp_path: Path) -> None:
    keys = {
        "split.count": (gguf.GGUFValueType.UINT16, 3),
        "tokenizer.chat_template": (gguf.GGUFValueType.STRING, "{{ x }}"),
    }
    found = info(write_gguf(tmp_path / "m.gguf", "llama", keys, {}))
    assert (found.split_count, found.has_chat_template) == (3, True)
    assert not info(write_tiny_llama(tmp_path / "tiny.gguf")).has_chat_template


def test_key_value_cache_of_plain_attention(tmp_path: Path) -> None:
    memory = info(write_tiny_llama(tmp_path / "tiny.gguf"), n_ctx=256, n_parallel=4).memory
    assert memory is not None
    # every layer: K and V of all heads, two bytes each, 256 tokens; the cache is shared by the sequences
    assert memory.kv_cache == LAYERS * 2 * HIDDEN * 2 * 256
    assert memory.recurrent == 0
    assert memory.total == memory.weights + memory.kv_cache


def test_memory_of_the_9b_hybrid(tmp_path: Path) -> None:
    """Darwin-9B's shape: 8 of 32 layers attend (4 KV heads of 256), 24 are Gated DeltaNet; a 33rd predicts ahead."""
    numbers = {
        "block_count": 33,
        "nextn_predict_layers": 1,
        "embedding_length": 4096,
        "attention.head_count": 16,
        "attention.head_count_kv": 4,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "full_attention_interval": 4,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 32 * 128,
        "ssm.state_size": 128,
        "ssm.group_count": 16,
    }
    keys = {f"qwen35.{name}": (U32, value) for name, value in numbers.items()}
    memory = info(write_gguf(tmp_path / "m.gguf", "qwen35", keys, {}), n_ctx=8192, n_parallel=8).memory
    assert memory is not None
    assert memory.kv_cache == 8 * 4 * (256 + 256) * 2 * 8192
    convolution = 3 * (32 * 128 + 2 * 16 * 128)
    state = 32 * 128 * 128
    assert memory.recurrent == 13 * 24 * 4 * (convolution + state)  # one holds a prompt, 4 are kept prefixes


@pytest.mark.parametrize("kv_heads", [[4, 2, 1, 1], [8, 0, 0, 8]])
def test_key_value_heads_may_differ_between_layers(tmp_path: Path, kv_heads: list[int]) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_embedding_length(512)
    writer.add_block_count(4)
    writer.add_head_count(8)
    writer.add_head_count_kv(kv_heads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    memory = info(tmp_path / "m.gguf", n_ctx=1024).memory
    assert memory is not None
    assert memory.kv_cache == sum(kv_heads) * 2 * 64 * 2 * 1024


def test_head_is_told_for_model_and_side_car(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    head = random_head(HIDDEN, 5, threshold=1.25)
    neg_files.attach(model, head, tmp_path / "with.gguf")
    neg_files.write_side_car(head, model, tmp_path / "side.gguf")
    for path in (tmp_path / "with.gguf", tmp_path / "side.gguf"):
        neg = info(path).neg
        assert neg is not None
        assert (neg["n_embd"], neg["n_reduced"], neg["threshold"], neg["top_k"]) == (HIDDEN, head.n_reduced, 1.25, 20)
        assert neg["source"] == head.source
    assert info(tmp_path / "side.gguf").memory is None


@pytest.mark.parametrize("layers", [0xFFFFFFFF, 0])
def test_absurd_numbers_cost_no_time(tmp_path: Path, layers: int) -> None:
    keys = {
        f"qwen35.{k}": (U32, layers)
        for k in ("block_count", "nextn_predict_layers", "attention.head_count", "embedding_length")
    }
    memory = info(write_gguf(tmp_path / "m.gguf", "qwen35", keys, {})).memory
    assert memory is not None
    assert memory.kv_cache >= 0
    assert memory.recurrent >= 0
