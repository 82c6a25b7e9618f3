"""Reads the header of a safetensors file as the format's own rules have it, and single tensors of it.

Hostile until checked: gguf-py's reader believes the header's length, offsets and shapes, so it is not used here. The rules
are those of the format: names once, offsets that cover the data section without gap or overlap, sizes that follow from
type and shape. Data is read, not mapped: a mapped file that somebody truncates kills the process.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from darwin_neg_cpp.errors import DarwinNegError
from darwin_neg_cpp.input_file import PathLike, read_exactly, shown, shown_path

MAX_HEADER_BYTES = 16 << 20  # model shards of today have less than 1 MB
MAX_DIMS = 8
ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: `shape` in row-major order, bytes [start, end) of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_safetensors_header(file: BinaryIO, path: PathLike, error: type[DarwinNegError]) -> dict[str, StoredTensor]:
    """Tensors of an open safetensors file by name; raises `error` when the file breaks a rule of the format."""
    return _HeaderReader(file, path, error).read()


def read_float_tensor(
    file: BinaryIO, path: PathLike, tensor: StoredTensor, error: type[DarwinNegError]
) -> npt.NDArray[np.float32]:
    """An F32, F16 or BF16 tensor as a float32 array of its shape."""
    raw = read_exactly(file, tensor.end - tensor.start, tensor.start, error, path)
    return floats_from_bytes(raw, tensor.dtype).reshape(tensor.shape)


def floats_from_bytes(raw: bytes | bytearray, dtype: str) -> npt.NDArray[np.float32]:
    """Little-endian F32, F16 or BF16 values as float32, in the order stored."""
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


class _HeaderReader:
    def __init__(self, file: BinaryIO, path: PathLike, error: type[DarwinNegError]) -> None:
        self.file, self.path, self.error = file, path, error
        self.size = os.fstat(file.fileno()).st_size

    def fail(self, what: str, remedy: str = "the file is damaged; download or write it again") -> NoReturn:
        raise self.error(f"{shown_path(self.path)}: {what}; {remedy}")

    def read(self) -> dict[str, StoredTensor]:
        start, entries = self.entries()
        tensors = [self.tensor(name, entry, start) for name, entry in entries.items() if name != "__metadata__"]
        end = start
        for tensor in sorted(tensors, key=lambda t: (t.start, t.end)):
            if tensor.start != end:
                self.fail(f"{shown(tensor.name)}: the tensor's data does not follow that of the tensor before it")
            end = tensor.end
        if end != self.size:
            self.fail(f"the tensors end at byte {end}, the file at {self.size}")
        return {tensor.name: tensor for tensor in tensors}

    def entries(self) -> tuple[int, dict[str, Any]]:
        """Where the data section starts, and the header's JSON object."""
        if self.size == 0:
            self.fail("the file is empty", "download or write it again")
        if self.size < 10:
            self.fail("is not a safetensors file (too short)", "give the neg_modules.safetensors of a release")
        first = read_exactly(self.file, 9, 0, self.error, self.path)
        length = int.from_bytes(first[:8], "little")
        if first[8:] != b"{" or length < 2:
            self.fail(
                "is neither a safetensors file nor GGUF", "give the neg_modules.safetensors of a release, or a side-car"
            )
        if length > self.size - 8:
            self.fail(
                f"the header is given as {length} bytes, the file has {self.size}: it is truncated",
                "download or copy it again",
            )
        if length > MAX_HEADER_BYTES:
            self.fail(f"the header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        raw = read_exactly(self.file, length, 8, self.error, self.path)
        try:
            entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError):  # also bad UTF-8, a name that is there twice, a number of 5,000 digits
            self.fail("the header is not JSON as the format has it")
        if not isinstance(entries, dict):
            self.fail("the header is not a JSON object")
        return 8 + length, entries

    def tensor(self, name: str, entry: Any, data_start: int) -> StoredTensor:
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            self.fail(f"{shown(name)}: the header does not give dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
            self.fail(f"{shown(name)}: the type {shown(str(dtype))} is not known")
        if not _are_sizes(shape) or len(shape) > MAX_DIMS or not _are_sizes(offsets) or len(offsets) != 2:
            self.fail(f"{shown(name)}: shape or data_offsets are not lists of sizes")
        begin, end = offsets
        if end - begin != math.prod(shape) * ITEM_SIZES[dtype] or data_start + end > self.size:
            self.fail(
                f"{shown(name)}: {end - begin} bytes of data for shape {shape} of {dtype}, in a file of {self.size} bytes"
            )
        return StoredTensor(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name is there twice")
    return entries


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
