"""Reads NEG heads out of GGUF and safetensors files. Layout and meaning: docs/format.md."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from ..errors import ModelFileError, NegHeadError
from ..files.input_file import PathLike, open_input, read_exactly, sha256_file, shown, shown_path
from ..files.safetensors_header import StoredTensor
from ..files.safetensors_header import read_header as read_stored
from ..gguf_file.header import Header
from ..gguf_file.parts import read_model
from .head import (
    DOWN_B,
    DOWN_W,
    F32,
    MAX_REDUCED,
    MAX_WEIGHTS,
    OUT_B,
    OUT_W,
    REATTACH,
    TENSORS,
    VERSION,
    NegHead,
    check,
    check_gate,
)

SIDE_CAR_ARCH = "neg"  # general.architecture of a side-car
HALF_OR_FULL = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
MAX_SAFETENSORS_HEADER = 1 << 20  # six tensors need a few hundred bytes
DOWNLOAD = "download the released file again"

# names in the released neg_modules.safetensors
RELEASED = {
    "head.proj_down.weight": DOWN_W,
    "head.proj_down.bias": DOWN_B,
    "head.proj_out.weight": OUT_W,
    "head.proj_out.bias": OUT_B,
}
RELEASED_THRESHOLD = "gate.threshold"
RELEASED_TEMP_SCALE = "gate.temp_scale"
RELEASED_NAMES = {*RELEASED, RELEASED_THRESHOLD, RELEASED_TEMP_SCALE}


def read_head(path: PathLike) -> NegHead:
    """Reads a head from neg_modules.safetensors, a side-car, or a model file that carries one."""
    name = os.fspath(path)
    with open_input(name, NegHeadError) as file:
        magic = file.read(4)
    if not magic:
        raise NegHeadError(f"{shown_path(name)}: the file is empty; download it again")
    return read_gguf(name) if magic == b"GGUF" else read_safetensors(name)


# --- GGUF


def has_neg(header: Header) -> bool:
    """Whether the file has any neg.* key or tensor."""
    return any(key.startswith("neg.") for key in header.keys) or any(name.startswith("neg.") for name in header.tensors)


def read_gguf(path: str) -> NegHead:
    """Reads the head of a side-car or of a model file. Raises NegHeadError when it is incomplete."""
    try:
        header = read_model(path)
    except ModelFileError as error:
        raise NegHeadError(str(error)) from None
    return head_of(header)


def head_of(header: Header) -> NegHead:
    """Reads and checks the head of a GGUF file whose header has been read. Raises NegHeadError."""
    path = shown_path(header.path)
    if not has_neg(header):
        raise NegHeadError(
            f"{path}: holds no NEG head; give neg_modules.safetensors, a side-car, or a model with a head"
        )
    version = _key(header, "neg.version", GGUFValueType.UINT32)
    if version != VERSION:
        raise NegHeadError(f"{path}: neg.version: is {version}, this version reads {VERSION}; update darwin-neg-cpp")
    if unknown := sorted(name for name in header.tensors if name.startswith("neg.") and name not in TENSORS):
        raise NegHeadError(f"{path}: {shown(unknown[0])}: is not a tensor of a NEG head; {REATTACH}")
    _check_tensors(header)
    threshold = _key(header, "neg.threshold", GGUFValueType.FLOAT32)
    top_k = _key(header, "neg.top_k", GGUFValueType.UINT32)
    temp_scale = _key(header, "neg.temp_scale", GGUFValueType.FLOAT32)
    temp_enabled = _key(header, "neg.temp_enabled", GGUFValueType.BOOL)
    check_gate(path, threshold, top_k, temp_scale)  # before megabytes of weights are read
    tensors = {name: _gguf_tensor(header, name) for name in TENSORS}
    head = NegHead(
        down_w=tensors[DOWN_W],
        down_b=tensors[DOWN_B].reshape(-1),
        out_w=tensors[OUT_W].reshape(-1),
        out_b=tensors[OUT_B].reshape(-1),
        threshold=threshold,
        top_k=top_k,
        temp_scale=temp_scale,
        temp_enabled=temp_enabled,
        source=_text(header, "neg.source"),
        base_arch=_text(header, "neg.base_arch"),
        base_norm_sha256=_text(header, "neg.base_norm_sha256"),
    )
    return check(head, path)


def _check_tensors(header: Header) -> None:
    """Checks that the four tensors are there with the right types and shapes."""
    for name in TENSORS:
        info = header.tensors.get(name)
        if info is None:
            raise NegHeadError(f"{shown_path(header.path)}: {name}: the tensor is missing; {REATTACH}")
        # the runtime accepts the large one in half precision too
        if info.type not in (HALF_OR_FULL if name == DOWN_W else HALF_OR_FULL[:1]):
            raise NegHeadError(
                f"{shown_path(header.path)}: {name}: has type {info.type.name}, expected F32; {REATTACH}"
            )
    hidden = _hidden_size(header)
    shape = header.tensors[DOWN_W].shape
    fits = len(shape) == 2 and shape[1] <= MAX_REDUCED and shape[0] * shape[1] <= MAX_WEIGHTS
    if not fits or (hidden is not None and shape[0] != hidden):
        raise NegHeadError(
            f"{shown_path(header.path)}: {DOWN_W}: has shape {list(shape)}, expected [{hidden or 'hidden'}, reduced]; "
            f"{REATTACH}"
        )
    for name, extent in ((DOWN_B, shape[1]), (OUT_W, shape[1]), (OUT_B, 1)):
        found = header.tensors[name].shape
        if found[0] != extent or math.prod(found) != extent:  # [n] and [n, 1] are the same to ggml
            raise NegHeadError(
                f"{shown_path(header.path)}: {name}: has shape {list(found)}, expected [{extent}]; {REATTACH}"
            )


def _hidden_size(header: Header) -> int | None:
    """The hidden size that the file itself states; None when it does not."""
    arch = header.value("general.architecture")
    size = header.value("neg.n_embd" if arch == SIDE_CAR_ARCH else f"{arch}.embedding_length")
    return size if isinstance(size, int) else None


def _key(header: Header, key: str, kind: GGUFValueType) -> Any:
    entry = header.keys.get(key)
    if entry is None:
        raise NegHeadError(f"{shown_path(header.path)}: {key}: the key is missing; {REATTACH}")
    if entry.type != kind:
        raise NegHeadError(
            f"{shown_path(header.path)}: {key}: has type {entry.type.name}, expected {kind.name}; {REATTACH}"
        )
    return header.value(key)


def _text(header: Header, key: str) -> str:
    value = header.value(key, "")
    return value if isinstance(value, str) else ""


def _gguf_tensor(header: Header, name: str) -> F32:
    info = header.tensors[name]
    path, offset = header.place(name)
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(info.size)
    if len(data) != info.size:
        raise NegHeadError(f"{shown_path(header.path)}: {name}: the file became shorter while it was read; try again")
    return _to_f32(data, info.type.name).reshape(tuple(reversed(info.shape)))


# --- safetensors


def read_safetensors(path: str) -> NegHead:
    """Reads the released layout. Any other content is refused, so that nothing is dropped silently."""
    stored = read_stored(
        path,
        NegHeadError,
        max_header=MAX_SAFETENSORS_HEADER,
        remedy="it is neither a GGUF file nor a sound safetensors file, download it again",
    )
    # before anything is read: a shard of a model may have gigabytes
    if unknown := sorted(stored.keys() - RELEASED_NAMES):
        raise NegHeadError(
            f"{shown_path(path)}: {shown(unknown[0])}: is not a tensor of a NEG head; "
            "give neg_modules.safetensors, which holds the head alone"
        )
    return head_of_stored(stored, path, f"{os.path.basename(path)} sha256:{sha256_file(path)}")


def head_of_stored(stored: Mapping[str, StoredTensor], path: str, source: str) -> NegHead:
    """Builds a head from tensors of safetensors files, by their released names. path: the name used in errors."""
    path = shown_path(path)
    for name in (RELEASED_THRESHOLD, *RELEASED):
        if name not in stored:
            raise NegHeadError(f"{path}: {name}: the tensor is missing; download the released file again")
    data = {name: _read_f32(tensor) for name, tensor in stored.items() if name in RELEASED_NAMES}
    temp_scale = _scalar(path, data, RELEASED_TEMP_SCALE) if RELEASED_TEMP_SCALE in data else 1.0
    threshold = _scalar(path, data, RELEASED_THRESHOLD)
    tensors = {name: data[released] for released, name in RELEASED.items()}
    down_w, out_w = tensors[DOWN_W], tensors[OUT_W]
    if down_w.ndim != 2:
        raise NegHeadError(
            f"{path}: head.proj_down.weight: has shape {list(down_w.shape)}, expected [reduced, hidden]; {DOWNLOAD}"
        )
    if out_w.shape != (1, down_w.shape[0]):
        raise NegHeadError(
            f"{path}: head.proj_out.weight: has shape {list(out_w.shape)}, expected [1, {down_w.shape[0]}]; {DOWNLOAD}"
        )
    head = NegHead(
        down_w,
        tensors[DOWN_B],
        out_w.reshape(-1),
        tensors[OUT_B].reshape(-1),
        threshold,
        temp_scale=temp_scale,
        source=source,
    )
    return check(head, path)


def _scalar(path: str, data: dict[str, F32], name: str) -> float:
    if data[name].size != 1:
        raise NegHeadError(f"{path}: {name}: has shape {list(data[name].shape)}, expected one number; {DOWNLOAD}")
    return float(data[name].reshape(-1)[0])


def _read_f32(tensor: StoredTensor) -> F32:
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise NegHeadError(
            f"{shown_path(tensor.path)}: {tensor.name}: has type {tensor.dtype}, expected F32, F16 or BF16; {DOWNLOAD}"
        )
    if math.prod(tensor.shape) > MAX_WEIGHTS:
        raise NegHeadError(
            f"{shown_path(tensor.path)}: {tensor.name}: has the impossible shape {list(tensor.shape)}; {DOWNLOAD}"
        )
    with open_input(tensor.path, NegHeadError) as file:
        data = read_exactly(file, tensor.size, tensor.offset, NegHeadError, tensor.path)
    return _to_f32(data, tensor.dtype).reshape(tensor.shape)


def _to_f32(data: bytes | bytearray, dtype: str) -> F32:
    if dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
