"""Computes the rows of a plan's tensors from those of the checkpoint, a piece at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

from ..errors import ModelFileError
from ..files.input_file import shown_path
from ..files.positions import Bytes, read_at
from .plan import Placed
from .tensors import Output

CHUNK = 1 << 20  # bytes as F32 that each thread works on at once: what a core keeps near it
_NUMPY: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class Chunk:
    """Rows `first` to `first + count` of an output, which go to `offset` in the file."""

    output: Output
    type: Type
    first: int
    count: int
    offset: int
    size: int


class Inputs:
    """Opens each shard once, and closes them all together."""

    def __init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()  # guards _files

    def read(self, path: str, target: Bytes, offset: int) -> None:
        try:
            with self._lock:
                if path not in self._files:
                    self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close())
                file = self._files[path]
            read_at(file, target, offset, path)
        except OSError as error:
            raise ModelFileError(
                f"{shown_path(path)}: cannot be read ({error.strerror}); check that it is still there, and the disk"
            ) from error

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def chunks_of(placed: Placed, data_start: int) -> Iterator[Chunk]:
    """Divides a tensor into pieces of whole rows."""
    output, info = placed.output, placed.info
    rows = max(1, output.n_rows)
    row_size = info.size // rows
    step = max(1, CHUNK // max(1, output.shape[-1] * 4))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        offset = data_start + info.offset + first * row_size
        yield Chunk(output, info.type, first, count, offset, count * row_size)


def convert_rows(inputs: Inputs, chunk: Chunk) -> Bytes:
    """Computes the bytes of some rows like llama.cpp's converter: in F16 where the rows are stored so, else in F32."""
    with np.errstate(over="ignore", invalid="ignore"):  # too large becomes inf and NaN stays NaN, as there
        return _convert(inputs, chunk)


def _convert(inputs: Inputs, chunk: Chunk) -> Bytes:
    output = chunk.output
    dtype = output.pieces[0].source.dtype
    raw = _gather(inputs, chunk)
    if output.values == "copy" and output.columns is None and dtype == chunk.type.name:
        return raw.reshape(-1)
    stored = raw.reshape(-1).view(_NUMPY[dtype]).reshape(chunk.count, -1)
    if output.columns is not None:
        stored = np.take(stored, output.columns, axis=1)
        if output.values == "copy" and dtype == chunk.type.name:
            return stored.reshape(-1).view(np.uint8)
    values: npt.NDArray[Any] = stored
    if dtype == "BF16":
        wide = stored.astype(np.uint32)
        wide <<= np.uint32(16)
        values = wide.view(np.float32)
    if output.values == "plus_one":
        values = values + values.dtype.type(1)
    elif output.values == "neg_exp":
        # in float64, then rounded: the float32 exponentials of NumPy and torch are off by one in the last place at
        # times
        values = -np.exp(values.astype(np.float64)).astype(values.dtype)
    if chunk.type == Type.F32:
        values = values.astype("<f4", copy=False)
    elif chunk.type == Type.F16:
        values = values.astype("<f2", copy=False)
    elif chunk.type == Type.Q8_0:
        return q8_0(values.astype(np.float32, copy=False)).reshape(-1)
    else:
        values = quantize(np.ascontiguousarray(values, np.float32), chunk.type)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def q8_0(values: npt.NDArray[np.float32]) -> Bytes:
    """Quantizes blocks of 32 values to [blocks, 34]. gguf's own routine gives the same bytes, on one core alone."""
    blocks = np.ascontiguousarray(values).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        scaled = blocks * np.where(scale == 0, np.float32(0), 1 / scale)
    # halves are rounded away from zero; rint rounds them to even
    rounded = np.rint(scaled)
    half = np.copysign(np.float32(0.5), scaled)
    rounded += np.where(scaled - rounded == half, half + half, np.float32(0))
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    out[:, 2:] = rounded.astype(np.int8).view(np.uint8)
    return out


def _gather(inputs: Inputs, chunk: Chunk) -> Bytes:
    """Reads the stored bytes of the chunk's rows, [rows, bytes of a row]."""
    output = chunk.output
    source = output.pieces[0].source
    row = output.shape[-1] * _NUMPY[source.dtype].itemsize
    data = np.empty((chunk.count, row), np.uint8)
    begin = 0  # of the piece, in rows of the output
    for piece in output.pieces:
        low, high = max(begin, chunk.first), min(begin + piece.count, chunk.first + chunk.count)
        if low < high:
            target = data[low - chunk.first : high - chunk.first].reshape(-1)
            inputs.read(piece.source.path, target, piece.source.offset + (piece.first + low - begin) * row)
        begin += piece.count
        if begin >= chunk.first + chunk.count:
            break
    return data
