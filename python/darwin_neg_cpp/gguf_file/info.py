"""What a GGUF file is and what it will need, from its header alone."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from gguf import LlamaFileType

from ..errors import NegHeadError
from ..neg import formats as neg_format
from ..neg.files import architecture
from .header import Header, read_header

F16_BYTES = 2
F32_BYTES = 4


@dataclass(frozen=True)
class Memory:
    """Expected bytes at a context of n_ctx tokens and n_parallel sequences, without compute buffers.

    weights: the tensors' data. kv_cache: 2 (K and V) x attention layers x KV heads x head size x n_ctx x 2 bytes (f16);
    where the file lists KV heads for each layer, their sum takes the place of layers x heads.
    recurrent: per sequence (n_parallel + 1) and recurrent layer, the float32 convolution and state (Gated DeltaNet, Mamba).
    """

    n_ctx: int
    n_parallel: int
    weights: int
    kv_cache: int
    recurrent: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.recurrent


@dataclass(frozen=True)
class ModelInfo:
    """`neg` is None without a head; `neg_error` says why a head that is there cannot be used."""

    path: str
    size_bytes: int
    architecture: str
    name: str
    quantization: str
    tensor_types: dict[str, int]
    n_tensors: int
    n_params: int
    n_ctx_train: int
    n_embd: int
    n_layer: int
    n_vocab: int
    has_chat_template: bool
    split_count: int
    neg: dict[str, Any] | None
    neg_error: str | None
    memory: Memory | None


def info(path: str | os.PathLike[str], *, n_ctx: int = 4096, n_parallel: int = 8) -> ModelInfo:
    """Describes a model file or a side-car. Raises ModelFileError when the header is not sound."""
    header = read_header(path)
    arch = architecture(header)
    types = Counter(tensor.type.name for tensor in header.tensors.values())
    neg, neg_error = _neg(header)
    embedding = header.tensors.get("token_embd.weight")
    return ModelInfo(
        path=header.path,
        size_bytes=header.file_size,
        architecture=arch,
        name=str(header.value("general.name", "")),
        quantization=_quantization(header, types),
        tensor_types=dict(types.most_common()),
        n_tensors=len(header.tensors),
        n_params=sum(tensor.n_elements for tensor in header.tensors.values()),
        n_ctx_train=_number(header, f"{arch}.context_length"),
        n_embd=_number(header, f"{arch}.embedding_length") or _number(header, "neg.n_embd"),
        n_layer=_number(header, f"{arch}.block_count"),
        n_vocab=header.array_length("tokenizer.ggml.tokens") or (embedding.shape[-1] if embedding else 0),
        has_chat_template="tokenizer.chat_template" in header.keys,
        split_count=_number(header, "split.count") or 1,
        neg=neg,
        neg_error=neg_error,
        memory=None if arch == neg_format.SIDE_CAR_ARCH else _memory(header, arch, n_ctx, n_parallel),
    )


def _number(header: Header, key: str) -> int:
    value = header.value(key, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _quantization(header: Header, types: Counter[str]) -> str:
    number = header.value("general.file_type")
    try:
        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return types.most_common(1)[0][0] if types else "none"


def _neg(header: Header) -> tuple[dict[str, Any] | None, str | None]:
    if not neg_format.has_neg(header):
        return None, None
    try:
        head = neg_format.head_of(header)
    except NegHeadError as error:
        return None, str(error)
    return {
        "n_embd": head.n_embd,
        "n_reduced": head.n_reduced,
        "threshold": head.threshold,
        "top_k": head.top_k,
        "temp_scale": head.temp_scale,
        "temp_enabled": head.temp_enabled,
        "source": head.source,
    }, None


def _memory(header: Header, arch: str, n_ctx: int, n_parallel: int) -> Memory:
    layers = _number(header, f"{arch}.block_count")
    heads = _number(header, f"{arch}.attention.head_count") or 1
    hidden = _number(header, f"{arch}.embedding_length")
    kv_heads = _number(header, f"{arch}.attention.head_count_kv") or heads
    listed = header.integers(f"{arch}.attention.head_count_kv")
    key = _number(header, f"{arch}.attention.key_length") or hidden // heads
    value = _number(header, f"{arch}.attention.value_length") or hidden // heads
    mtp = _number(header, f"{arch}.nextn_predict_layers")
    interval = _number(header, f"{arch}.full_attention_interval")
    attention = (layers - mtp) // interval if interval else layers - mtp
    inner, state = _number(header, f"{arch}.ssm.inner_size"), _number(header, f"{arch}.ssm.state_size")
    conv, groups = _number(header, f"{arch}.ssm.conv_kernel"), _number(header, f"{arch}.ssm.group_count")
    recurrent_layers = layers - mtp - attention if interval else 0
    per_layer = (max(0, conv - 1) * (inner + 2 * groups * state) + inner * state) * F32_BYTES
    return Memory(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        weights=sum(tensor.size for tensor in header.tensors.values()),
        kv_cache=(attention * kv_heads if listed is None else sum(listed)) * (key + value) * n_ctx * F16_BYTES,
        recurrent=recurrent_layers * per_layer * (n_parallel + 1),
    )
