"""Describes a GGUF file and the memory it will need, from its header alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import LlamaFileType

from .header import Header, architecture
from .parts import split_count

VISION_ARCH = "clip"  # of projectors, whatever the tower
SAMPLING_KEYS = "general.sampling."
F16_BYTES = 2
F32_BYTES = 4
# sequences that the engine has beside those that generate: one that holds a prompt for its samples, and the prefixes
# that it keeps by default
OTHER_SEQUENCES = 1 + 4


@dataclass(frozen=True)
class Memory:
    """Expected bytes at a context of n_ctx tokens and n_parallel sequences, without compute buffers.

    weights: the tensors' data. kv_cache: 2 (K and V) x attention layers x KV heads x head size x n_ctx x 2 bytes
    (f16); where the file lists KV heads for each layer, their sum replaces layers x heads. recurrent: the float32
    convolution and state (Gated DeltaNet, Mamba) of each recurrent layer, for each sequence: n_parallel and
    OTHER_SEQUENCES.
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
    """A model file or a side-car.

    sampling: its keys `general.sampling.*`, the defaults of requests. neg: the values of its NEG head, None without
    one. neg_error: why it cannot be used.

    The header alone says nothing about the head's weights: `neg.info` fills in these two.
    pre_tokenizer: how text is cut before byte-level BPE, None where the file does not say; "" for other vocabularies.
    part_error: why the parts of a split model could not be read; then only the file `path` is described, and all
    numbers are its own. None otherwise.
    projector: the type of a projector for images or sound (mmproj), which is not a model; its shape is the tower's.
    None for a model.
    """

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
    memory: Memory | None
    sampling: dict[str, float | str]
    neg: dict[str, Any] | None = None
    neg_error: str | None = None
    pre_tokenizer: str | None = ""
    part_error: str | None = None
    projector: str | None = None


def describe(header: Header, *, n_ctx: int = 4096, n_parallel: int = 8) -> ModelInfo:
    """Describes a model file, all but its NEG head."""
    arch = architecture(header)
    # a projector has the shape of its tower of images or, without one, of sound
    towers = [f"{arch}.{tower}" for tower in ("vision", "audio") if f"{arch}.{tower}.block_count" in header.keys]
    shape = towers[0] if arch == VISION_ARCH and towers else arch
    types = Counter(tensor.type.name for tensor in header.tensors.values())
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
        n_embd=_number(header, f"{shape}.embedding_length"),
        n_layer=_number(header, f"{shape}.block_count"),
        n_vocab=header.array_length("tokenizer.ggml.tokens") or (embedding.shape[-1] if embedding else 0),
        has_chat_template="tokenizer.chat_template" in header.keys,
        split_count=split_count(header),
        memory=None if arch == VISION_ARCH else _memory(header, arch, n_ctx, n_parallel),
        pre_tokenizer=pre_tokenizer(header),
        sampling=_sampling(header),
        projector=_projector(header) if arch == VISION_ARCH else None,
    )


def _projector(header: Header) -> str:
    """The type of a projector; those of both images and sound name it twice."""
    names = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")
    return next((value for name in names if isinstance(value := header.value(name), str)), "unknown")


def pre_tokenizer(header: Header) -> str | None:
    """How text is cut before byte-level BPE: None where the file does not say it, "" for other vocabularies."""
    if header.value("tokenizer.ggml.model") != "gpt2":
        return ""
    return header.value("tokenizer.ggml.pre") or None


def _number(header: Header, key: str) -> int:
    value = header.value(key, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _sampling(header: Header) -> dict[str, float | str]:
    """What cannot be written as JSON, such as infinity, as text; 32-bit floats with the digits that they hold."""
    found: dict[str, float | str] = {}
    for key in header.keys:
        value = header.value(key) if key.startswith(SAMPLING_KEYS) else None
        if isinstance(value, float):
            value = float(str(np.float32(value))) if math.isfinite(value) else str(value)
        if value is not None:
            found[key.removeprefix(SAMPLING_KEYS)] = value
    return found


def _quantization(header: Header, types: Counter[str]) -> str:
    number = header.value("general.file_type")
    try:
        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return types.most_common(1)[0][0] if types else "none"


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
        recurrent=recurrent_layers * per_layer * (n_parallel + OTHER_SEQUENCES),
    )
