"""Reads the header of a safetensors file and checks everything in it against the file.

Format: https://huggingface.co/docs/safetensors. The `safetensors` package checks as much, but does not say where a
tensor lies in the file and accepts a duplicate key; the reader of the `gguf` package checks nothing.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import DarwinNegError
from .input_file import BEGIN, not_the_file, open_input, shown, shown_path

MAX_HEADER = 100_000_000  # the format's own limit
MAX_EXTENT = 2**32
MAX_DIMENSIONS = 8

BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A stored tensor: shape as in NumPy (slowest first), data at `offset` from the start of the file."""

    path: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


DAMAGED = "the file is damaged or not a safetensors file, download it again"


def read_header(
    path: str, error: type[DarwinNegError], *, max_header: int = MAX_HEADER, remedy: str = DAMAGED
) -> dict[str, StoredTensor]:
    """Returns the tensors of a file by name, in the file's order.

    Raises `error`, which names the file, the tensor and the remedy, for anything that is wrong.
    """
    with open_input(path, error) as file:
        return _Reader(path, file, error, remedy).tensors(max_header)


class _Reader:
    def __init__(self, path: str, file: BinaryIO, error: type[DarwinNegError], remedy: str) -> None:
        self._path = path
        self._remedy = remedy
        self._file = file
        self._error = error
        self._size = os.fstat(file.fileno()).st_size

    def damaged(self, what: str) -> DarwinNegError:
        return self._error(f"{shown_path(self._path)}: {shown(what)}; {self._remedy}")

    def tensors(self, max_header: int) -> dict[str, StoredTensor]:
        first = self._read(8)
        if len(first) < 8:
            raise self.damaged("is empty" if not first else "is too short for a safetensors header")
        length = struct.unpack("<Q", first)[0]
        if length > max_header and (what := not_the_file(first + self._read(BEGIN))):
            raise self._error(f"{shown_path(self._path)}: {what}")
        if length > max_header:
            raise self.damaged(f"its header claims {length} bytes, more than the limit of {max_header}")
        if length > self._size - 8:
            raise self.damaged(f"its header claims {length} bytes, the file has {self._size}")
        header = self._json(length)
        out: dict[str, StoredTensor] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                out[name] = self._tensor(name, entry, 8 + length)
        self._check_layout(out, 8 + length)
        return out

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise self._error(f"{shown_path(self._path)}: cannot be read ({error.strerror}); check the disk") from error

    def _json(self, length: int) -> Mapping[str, Any]:
        try:
            header = json.loads(self._read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            raise self.damaged(f"the header is not valid JSON ({error})") from None
        if not isinstance(header, dict):
            raise self.damaged("the header is not a JSON object")
        return header

    def _tensor(self, name: str, entry: Any, start: int) -> StoredTensor:
        try:
            shape, dtype, (begin, end) = entry["shape"], entry["dtype"], entry["data_offsets"]
            whole = type(shape) is list and all(type(extent) is int for extent in shape)
            if not (whole and type(begin) is int and type(end) is int and isinstance(dtype, str)):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise self.damaged(f"{name}: its entry in the header is malformed") from None
        if any(not 0 <= extent < MAX_EXTENT for extent in shape) or len(shape) > MAX_DIMENSIONS:
            raise self.damaged(f"{name}: has the impossible shape {shape}")
        if dtype not in BYTES:
            raise self.damaged(f"{name}: has the unknown type {dtype}")
        size = math.prod(shape) * BYTES[dtype]
        if not 0 <= begin <= end <= self._size - start or end - begin != size:
            raise self.damaged(f"{name}: its offsets {begin} to {end} do not match its shape or the file's size")
        return StoredTensor(self._path, name, dtype, tuple(shape), start + begin, size)

    def _check_layout(self, tensors: Mapping[str, StoredTensor], start: int) -> None:
        # the format's own rule: the data has neither gaps nor overlaps, and nothing follows it
        end = start
        for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.size)):
            if tensor.offset != end:
                raise self.damaged(f"{tensor.name}: leaves a gap or overlaps another tensor")
            end = tensor.offset + tensor.size
        if end != self._size:
            raise self.damaged(f"the tensors end at byte {end}, the file at {self._size}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key appears twice")
    return dict(pairs)
