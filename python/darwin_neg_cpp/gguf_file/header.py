"""Reads the header of a GGUF file: where its keys, tensor infos and data lie.

The gguf package decodes every array into Python objects, which takes 10 seconds for a vocabulary of 248,320 strings.
Editing needs byte ranges alone, so this finds them in 0.06 seconds and decodes single values when they are asked for.
Every count and length is checked against the file. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from ..errors import ModelFileError
from ..files.input_file import BEGIN, not_the_file, open_input, shown, shown_path

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_LISTED = 4096  # elements of an array that is decoded: one for each layer, not one for each token
MAX_NAME = 65535  # bytes of a key; ggml's own limit for tensor names is 64
FIRST_READ = 1 << 20  # bytes; then twice as many each time

_SCALARS = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}


@dataclass(frozen=True)
class KeyValue:
    """One key with the byte range of its whole entry (key, type and value)."""

    key: str
    type: GGUFValueType
    begin: int
    value_at: int
    end: int


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: shape in ggml order (fastest first), data at `offset` from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    size: int

    @property
    def n_elements(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return n


@dataclass(frozen=True)
class Header:
    """A parsed header; `raw` is the file's bytes up to the data section.

    Of a split model (see parts.py) it is the first part's, with the tensors of all parts and the size of all files;
    `parts` then holds the headers of the parts, and is empty otherwise.
    """

    path: str
    version: int
    keys: Mapping[str, KeyValue]
    tensors: Mapping[str, TensorInfo]
    alignment: int
    data_start: int
    file_size: int
    raw: bytes
    parts: tuple[Header, ...] = ()

    def place(self, name: str) -> tuple[str, int]:
        """The file that holds a tensor's data, and where in it the data begins."""
        holder = next((part for part in self.parts if name in part.tensors), self)
        return holder.path, holder.data_start + holder.tensors[name].offset

    def value(self, key: str, default: Any = None) -> Any:
        """A scalar or string value, or `default` when the key is absent or an array."""
        entry = self.keys.get(key)
        if entry is None or entry.type == GGUFValueType.ARRAY:
            return default
        if entry.type == GGUFValueType.STRING:
            return self.raw[entry.value_at + 8 : entry.end].decode("utf-8", "replace")
        return struct.unpack_from(_SCALARS[entry.type], self.raw, entry.value_at)[0]

    def array_length(self, key: str) -> int | None:
        """Number of elements of an array key, None when there is no such array."""
        entry = self.keys.get(key)
        if entry is None or entry.type != GGUFValueType.ARRAY:
            return None
        return int(struct.unpack_from("<Q", self.raw, entry.value_at + 4)[0])

    def integers(self, key: str) -> list[int] | None:
        """A short array of integers; None when the key is absent, of a different type, or as long as a vocabulary."""
        entry, count = self.keys.get(key), self.array_length(key)
        if entry is None or count is None or count > MAX_LISTED:
            return None
        form = _SCALARS.get(GGUFValueType(struct.unpack_from("<I", self.raw, entry.value_at)[0]), "<f")
        if form in ("<f", "<d"):
            return None
        return [int(n) for n in struct.unpack_from(f"<{count}{form[1]}", self.raw, entry.value_at + 12)]


class _Cursor:
    """A place in the header. The file is read as far as the header goes, and no further than a read ahead.

    It is read and not mapped: a mapped file that is cut meanwhile ends the process.
    """

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.buffer = bytearray()
        self.at = 0
        self._file = file

    def fail(self, what: str) -> ModelFileError:
        # `what` holds names from the file, which may contain control characters that a terminal would obey
        remedy = "the file is damaged or incomplete, download or convert it again"
        return ModelFileError(f"{shown_path(self.path)}: {shown(what)}; {remedy}")

    def load(self, end: int) -> None:
        """Has the file's first `end` bytes in the buffer."""
        while len(self.buffer) < end:
            try:
                block = self._file.read(min(self.size, max(FIRST_READ, 2 * len(self.buffer), end)) - len(self.buffer))
            except OSError as error:
                raise ModelFileError(
                    f"{shown_path(self.path)}: cannot be read ({error.strerror}); check the disk"
                ) from error
            if not block:
                raise ModelFileError(f"{shown_path(self.path)}: became shorter while it was read; try again")
            self.buffer += block

    def skip(self, size: int, what: str) -> None:
        if size > self.size - self.at:
            raise self.fail(f"{what} at byte {self.at} runs past the end of the file")
        self.at += size
        self.load(self.at)

    def number(self, form: str, what: str) -> Any:
        begin = self.at
        self.skip(struct.calcsize(form), what)
        return struct.unpack_from(form, self.buffer, begin)[0]

    def text(self, what: str, limit: int) -> str:
        length = self.number("<Q", what)
        if length > limit:
            raise self.fail(f"{what} at byte {self.at - 8} claims a length of {length}")
        begin = self.at
        self.skip(length, what)
        try:
            return self.buffer[begin : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} at byte {begin} is not UTF-8") from None

    def value(self, kind: GGUFValueType, key: str, depth: int = 0) -> None:
        what = f"the value of key '{key}'"
        if kind in _SCALARS:
            self.skip(struct.calcsize(_SCALARS[kind]), what)
        elif kind == GGUFValueType.STRING:
            self.skip(self.number("<Q", what), what)
        else:
            item = self.kind(self.number("<I", what), key)
            count = self.number("<Q", what)
            if item in _SCALARS:
                self.skip(struct.calcsize(_SCALARS[item]) * count, what)
            elif item == GGUFValueType.ARRAY or depth:
                raise self.fail(f"{what} is an array of arrays, which no model uses")
            elif count > (self.size - self.at) // 8:
                raise self.fail(f"{what} claims {count} strings")
            else:
                self.strings(count, what)

    def strings(self, count: int, what: str) -> None:
        # the hot loop: hundreds of thousands of vocabulary entries. Reading past the buffer is an error of `unpack`
        buffer, at, left = self.buffer, self.at, count
        unpack = struct.Struct("<Q").unpack_from
        while left:
            try:
                for left in range(left, 0, -1):  # noqa: B007, B020 (continues where it stopped)
                    at += unpack(buffer, at)[0] + 8
                left = 0
            except (struct.error, OverflowError):
                if at + 8 > self.size:
                    break
                self.load(at + 8)
        if left or at > self.size:
            raise self.fail(f"{what} runs past the end of the file")
        self.at = at
        self.load(at)

    def kind(self, number: int, key: str) -> GGUFValueType:
        try:
            return GGUFValueType(number)
        except ValueError:
            raise self.fail(f"key '{key}' has unknown type {number}") from None


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads and checks a GGUF header. Raises ModelFileError, which names the file and what is wrong."""
    name = os.fspath(path)
    with open_input(name, ModelFileError) as file:
        return _parse(_Cursor(name, file))


def architecture(header: Header) -> str:
    """The model's architecture. Raises ModelFileError for a file that has none."""
    arch = header.value("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise ModelFileError(
            f"{shown_path(header.path)}: general.architecture is missing; give the GGUF file of a model"
        )
    return arch


def _parse(cursor: _Cursor) -> Header:
    name = shown_path(cursor.path)
    if cursor.size == 0:
        raise ModelFileError(f"{name}: the file is empty; give a GGUF model file")
    cursor.load(min(4, cursor.size))
    if cursor.buffer[:4] != MAGIC:
        cursor.load(min(BEGIN, cursor.size))
        what = not_the_file(bytes(cursor.buffer))
        raise ModelFileError(
            f"{name}: not a GGUF file; " + (f"it {what}" if what else "convert the checkpoint to GGUF first")
        )
    cursor.skip(4, "the magic")
    version = cursor.number("<I", "the version")
    if version not in (2, 3):
        hint = "big-endian files are not supported" if version > 0xFFFF else "convert it again with a current tool"
        raise ModelFileError(f"{name}: GGUF version {version} is not supported; {hint}")
    n_tensors = cursor.number("<Q", "the number of tensors")
    n_keys = cursor.number("<Q", "the number of keys")
    left = cursor.size - cursor.at
    # the smallest key entry takes 13 bytes, the smallest tensor info 24
    if n_keys > left // 13 or n_tensors > left // 24:
        raise cursor.fail(f"the header claims {n_keys} keys and {n_tensors} tensors")

    keys: dict[str, KeyValue] = {}
    for _ in range(n_keys):
        begin = cursor.at
        key = cursor.text("a key", MAX_NAME)
        kind = cursor.kind(cursor.number("<I", f"the type of key '{key}'"), key)
        at = cursor.at
        cursor.value(kind, key)
        if key in keys:
            raise cursor.fail(f"key '{key}' appears twice")
        keys[key] = KeyValue(key, kind, begin, at, cursor.at)

    alignment = DEFAULT_ALIGNMENT
    if (entry := keys.get("general.alignment")) is not None:
        if entry.type != GGUFValueType.UINT32:
            raise cursor.fail("general.alignment is not a 32-bit number")
        alignment = struct.unpack_from("<I", cursor.buffer, entry.value_at)[0]
        if alignment == 0 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise cursor.fail(f"general.alignment is {alignment}, not a power of two")

    tensors: dict[str, TensorInfo] = {}
    for _ in range(n_tensors):
        info = _tensor_info(cursor, alignment)
        if info.name in tensors:
            raise cursor.fail(f"tensor '{info.name}' appears twice")
        tensors[info.name] = info
    data_start = -(-cursor.at // alignment) * alignment
    for info in tensors.values():
        if data_start + info.offset + info.size > cursor.size:
            raise cursor.fail(f"the data of tensor '{info.name}' runs past the end of the file")
    _check_overlap(cursor, list(tensors.values()))
    raw = bytes(memoryview(cursor.buffer)[: cursor.at])
    return Header(cursor.path, version, keys, tensors, alignment, data_start, cursor.size, raw)


def _tensor_info(cursor: _Cursor, alignment: int) -> TensorInfo:
    name = cursor.text("a tensor name", MAX_NAME)
    n_dims = cursor.number("<I", f"the dimensions of tensor '{name}'")
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.fail(f"tensor '{name}' has {n_dims} dimensions")
    shape = tuple(cursor.number("<Q", f"the shape of tensor '{name}'") for _ in range(n_dims))
    number = cursor.number("<I", f"the type of tensor '{name}'")
    offset = cursor.number("<Q", f"the offset of tensor '{name}'")
    try:
        kind = GGMLQuantizationType(number)
        block, block_size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise cursor.fail(f"tensor '{name}' has unknown type {number}") from None
    count = 1
    for extent in shape:
        count *= extent
    if count == 0 or count >= 1 << 63:
        raise cursor.fail(f"tensor '{name}' has the impossible shape {list(shape)}")
    if shape[0] % block:
        raise cursor.fail(
            f"tensor '{name}' has rows of {shape[0]}, which is not a multiple of {kind.name}'s block size {block}"
        )
    if offset % alignment:
        raise cursor.fail(f"tensor '{name}' is not aligned to {alignment} bytes")
    return TensorInfo(name, shape, kind, offset, count // block * block_size)


def _check_overlap(cursor: _Cursor, tensors: list[TensorInfo]) -> None:
    tensors.sort(key=lambda info: info.offset)
    for before, after in itertools.pairwise(tensors):
        if before.offset + before.size > after.offset:
            raise cursor.fail(f"tensors '{before.name}' and '{after.name}' overlap")
