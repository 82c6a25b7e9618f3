"""Keys of a model file with other values, as llama.cpp's loader takes them in the place of the file's own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

from gguf import GGUFValueType

from ..errors import ModelFileError, RequestError
from ..files.input_file import shown
from . import encode
from .header import Header, KeyValue, read_header

Value = bool | int | float | str
Overrides = Sequence[tuple[str, Value]]

INTEGERS = (GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.UINT64, GGUFValueType.INT64, GGUFValueType.UINT16,
            GGUFValueType.INT16, GGUFValueType.UINT8, GGUFValueType.INT8)  # fmt: skip
FLOATS = (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64)
# what the loader decides by before it knows of overrides, or what other parts of the file hang on
FIXED = ("general.architecture", "general.alignment", "tokenizer.ggml.model", "split.no", "split.count",
         "split.tensors.count")  # fmt: skip


def fit_overrides(path: str, overrides: Overrides) -> list[tuple[str, Value]]:
    """The overrides with numbers of the types that the file has them in. Errors: RequestError.

    A value of the wrong type would have no effect, as one in the place of an array.
    """
    if not overrides:
        return []
    try:
        header = read_header(path)
    except ModelFileError:  # llama.cpp refuses it too, or knows a type that we do not
        return list(overrides)
    return [(key, _fit(header, key, value)) for key, value in overrides]


def overridden(header: Header, overrides: Overrides) -> Header:
    """The header as the loader sees it with these overrides."""
    if not overrides:
        return header
    keys, raw = dict(header.keys), bytes(header.raw)
    for key, value in overrides:
        kind = _kind(header, key, value)
        entry = encode.key(key, kind, value)
        value_at = len(raw) + 8 + len(key.encode()) + 4
        keys[key] = KeyValue(key, kind, len(raw), value_at, len(raw) + len(entry))
        raw += entry
    return replace(header, keys=keys, raw=raw)


def _fit(header: Header, key: str, value: Value) -> Value:
    name = f"kv_overrides: {shown(key)}"
    if key in FIXED:
        raise RequestError(f"{name} cannot be overridden, since other parts of the file hang on it")
    entry = header.keys.get(key)
    if entry is None:
        return value
    if entry.type == GGUFValueType.ARRAY:
        raise RequestError(f"{name} is an array in the file, which cannot be overridden")
    if entry.type in FLOATS and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = _kind(header, key, value)
    if not (kind == entry.type or (entry.type in INTEGERS and kind in INTEGERS)):
        raise RequestError(f"{name} is a {entry.type.name.lower()} in the file, got {shown(repr(value))}")
    try:
        encode.key(key, kind, value)
    except (struct.error, OverflowError):
        raise RequestError(f"{name} is a {entry.type.name.lower()} in the file, which cannot be {value}") from None
    return value


def _kind(header: Header, key: str, value: Value) -> GGUFValueType:
    """The file's type of the key where the value is of its kind, or a type that holds the value."""
    there = header.keys[key].type if key in header.keys else None
    if isinstance(value, bool):
        return GGUFValueType.BOOL
    if isinstance(value, int):
        return there if there in INTEGERS else GGUFValueType.INT64
    if isinstance(value, float):
        return there if there in FLOATS else GGUFValueType.FLOAT64
    return GGUFValueType.STRING
