"""Encodes the header of a GGUF file. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gguf import GGUFValueType

from .header import TensorInfo

VERSION = 3
ALIGNMENT = 32

_FORMS = {
    GGUFValueType.UINT8: "<B", GGUFValueType.INT8: "<b", GGUFValueType.UINT16: "<H", GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I", GGUFValueType.INT32: "<i", GGUFValueType.UINT64: "<Q", GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT32: "<f", GGUFValueType.FLOAT64: "<d", GGUFValueType.BOOL: "<?",
}  # fmt: skip


def start(n_tensors: int, n_keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", VERSION, n_tensors, n_keys)


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: GGUFValueType, value: Any, element: GGUFValueType | None = None) -> bytes:
    """Encodes one key with its value. element: the type of an array's elements, by default that of the first one."""
    if kind == GGUFValueType.ARRAY:
        return text(name) + struct.pack("<I", kind) + _array(value, element)
    body = text(value) if kind == GGUFValueType.STRING else struct.pack(_FORMS[kind], value)
    return text(name) + struct.pack("<I", kind) + body


def info(tensor: TensorInfo) -> bytes:
    dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
    return text(tensor.name) + dims + struct.pack("<IQ", tensor.type, tensor.offset)


def _array(values: Sequence[Any], element: GGUFValueType | None) -> bytes:
    kind = element if element is not None else GGUFValueType.get_type(values[0])
    head = struct.pack("<IQ", kind, len(values))
    if kind == GGUFValueType.STRING:
        # hundreds of thousands of them in a vocabulary
        return head + b"".join(_texts(values))
    return head + np.asarray(values).astype(_FORMS[kind]).tobytes()


def _texts(values: Iterable[str]) -> Iterable[bytes]:
    pack = struct.Struct("<Q").pack
    for value in values:
        data = value.encode("utf-8")
        yield pack(len(data))
        yield data
