"""Writes a GGUF file with keys and tensors added to, or removed from, an existing one.

Keys are copied byte for byte and tensor data in long runs, so a 6 GB file takes about as long as `cp`, with little
memory. Samples of what was copied are compared while it is still in the page cache, so that no file is read from the
disk twice; comparing all of it would take another 0.3 s/GB, half as long as the copy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType

from ..errors import ModelFileError, OutputError
from ..files.input_file import shown_path
from ..files.output_file import copy_range, replacing
from ..files.progress import Progress, no_progress
from . import encode as gguf_encode
from .header import Header, TensorInfo, read_header
from .parts import refuse_split

Keys = Sequence[tuple[str, GGUFValueType, Any]]  # single values and texts
Tensors = Mapping[str, npt.NDArray[np.float32]]

_PIECE = 1 << 24  # bytes copied, then compared
_STRIDE = 1 << 18  # a hole or a shift of this many bytes in a copy cannot be missed
_SAMPLE = 4096  # bytes compared every _STRIDE, and at both ends of each copied tensor


def write_new(out: Path, keys: Keys, tensors: Tensors) -> None:
    """Writes a small GGUF file from scratch (a side-car)."""
    header = Header(str(out), gguf_encode.VERSION, {}, {}, gguf_encode.ALIGNMENT, 0, 0, b"")
    with replacing(out) as (file, temp):
        _write(file, None, header, keys, tensors, no_progress)
        file.flush()
        _verify(read_header(temp), header, keys, tensors, None)


def write_edited(
    source: Header,
    out: Path,
    *,
    add_keys: Keys = (),
    add_tensors: Tensors | None = None,
    drop: Callable[[str], bool] = lambda _name: False,
    progress: Progress | None = None,
) -> None:
    """Copies `source` to `out` without the keys and tensors for which `drop(name)` holds, and with new ones.

    Verified before the file gets its name: a block of every 256 KiB that were copied; then, through the header read
    again, old keys byte for byte, new keys by value, tensor infos, new tensors bit for bit, and both ends of each
    copied tensor.
    """
    refuse_split(source)
    kept = replace(
        source,
        keys={name: entry for name, entry in source.keys.items() if not drop(name)},
        tensors={name: info for name, info in source.tensors.items() if not drop(name)},
    )
    tensors = add_tensors or {}
    if clash := [name for name in tensors if name in kept.tensors]:
        raise ModelFileError(f"{shown_path(source.path)}: has a tensor {clash[0]} already; detach the head first")
    with open(source.path, "rb") as original, replacing(out) as (file, temp):
        _write(file, original, kept, add_keys, tensors, progress or no_progress)
        file.flush()
        _verify(read_header(temp), kept, add_keys, tensors, original)


def _write(
    file: BinaryIO, original: BinaryIO | None, kept: Header, keys: Keys, tensors: Tensors, progress: Progress
) -> None:
    align = kept.alignment
    old = sorted(kept.tensors.values(), key=lambda info: info.offset)
    infos: list[TensorInfo] = []
    end = 0
    for info in old:
        infos.append(replace(info, offset=end))
        end = gguf_encode.aligned(end + info.size, align)
    for name, data in tensors.items():
        infos.append(TensorInfo(name, tuple(reversed(data.shape)), GGMLQuantizationType.F32, end, data.nbytes))
        end = gguf_encode.aligned(end + data.nbytes, align)
    new_keys = [entry for entry in keys if entry[0] not in kept.keys]

    # the order of tensor infos is kept, whatever the order of their data
    by_name = {info.name: info for info in infos}
    order = [by_name[name] for name in kept.tensors] + infos[len(old) :]
    head = [gguf_encode.start(len(infos), len(kept.keys) + len(new_keys))]
    head += [kept.raw[entry.begin : entry.end] for entry in kept.keys.values()]
    head += [gguf_encode.key(*entry) for entry in new_keys]
    head += [gguf_encode.info(info) for info in order]
    start = b"".join(head)
    file.write(start)
    file.write(bytes(gguf_encode.aligned(len(start), align) - len(start)))

    total = sum(info.size for info in infos)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    base = file.tell()
    for first, last, size in _runs(old, infos):
        _pad_to(file, base + first.offset)
        assert original is not None
        _copy(original, file, kept.data_start + last.offset, size, count)
    for info in infos[len(old) :]:
        _pad_to(file, base + info.offset)
        file.write(np.ascontiguousarray(tensors[info.name], dtype="<f4").tobytes())
        count(info.size)
    _pad_to(file, base + end)


def _copy(original: BinaryIO, file: BinaryIO, offset: int, size: int, count: Callable[[int], None]) -> None:
    """Appends bytes of `original` to `file` and compares samples of the two, piece by piece."""
    # handles of their own: the ends of `file` and its buffer are not touched
    with open(original.name, "rb", buffering=0) as before, open(file.name, "rb", buffering=0) as after:
        for at in range(offset, offset + size, _PIECE):
            begin, length = file.tell(), min(_PIECE, offset + size - at)
            copy_range(original, file, at, length, count)
            file.flush()
            for k in range(0, length, _STRIDE):
                n = min(_SAMPLE, length - k)
                if len(block := _at(before, at + k, n)) != n or _at(after, begin + k, n) != block:
                    raise _wrong(file.name, f"the copy at byte {begin + k}")


def _runs(old: list[TensorInfo], new: list[TensorInfo]) -> list[tuple[TensorInfo, TensorInfo, int]]:
    """(new place, old place, bytes) of stretches whose layout did not change, padding between tensors included."""
    runs: list[tuple[TensorInfo, TensorInfo, int]] = []
    for before, after in zip(old, new, strict=False):
        if runs:
            first, last, size = runs[-1]
            if (
                before.offset - last.offset == after.offset - first.offset
                and before.offset - last.offset - size < 1 << 20
            ):
                runs[-1] = (first, last, before.offset - last.offset + before.size)
                continue
        runs.append((after, before, before.size))
    return runs


def _wrong(path: str, what: str) -> OutputError:
    """What is on the disk differs from what was written."""
    return OutputError(f"{shown_path(path)}: was not written correctly ({what}); check the disk and try again")


def _verify(written: Header, kept: Header, keys: Keys, tensors: Tensors, original: BinaryIO | None) -> None:
    def wrong(what: str) -> OutputError:
        # what can be read, but says something else, is not the disk's fault
        return OutputError(
            f"{shown_path(written.path)}: was not written correctly ({what}), which is a fault of this program; report "
            "it with the command and the model's name"
        )

    if set(written.tensors) != {*kept.tensors, *tensors}:
        raise wrong("tensors are missing")
    for name, entry in kept.keys.items():
        copy = written.keys.get(name)
        if copy is None or written.raw[copy.begin : copy.end] != kept.raw[entry.begin : entry.end]:
            raise wrong(f"key {name}")
    new = {name: (kind, value) for name, kind, value in keys if name not in kept.keys}
    if set(written.keys) != {*kept.keys, *new}:
        raise wrong("keys are missing")
    for name, (kind, value) in new.items():
        meant = float(np.float32(value)) if kind == GGUFValueType.FLOAT32 else value
        if written.keys[name].type != kind or written.value(name) != meant:
            raise wrong(f"key {name}")
    with open(written.path, "rb") as file:
        for name, info in kept.tensors.items():
            copied = written.tensors[name]
            if (copied.shape, copied.type) != (info.shape, info.type):
                raise wrong(f"tensor {name}")
            for at in {0, max(0, info.size - _SAMPLE)}:
                size = min(_SAMPLE, info.size)
                assert original is not None
                if _at(file, written.data_start + copied.offset + at, size) != _at(
                    original, kept.data_start + info.offset + at, size
                ):
                    raise _wrong(written.path, f"data of tensor {name}")
        for name, data in tensors.items():
            info = written.tensors[name]
            expected = np.ascontiguousarray(data, dtype="<f4").tobytes()
            if _at(file, written.data_start + info.offset, info.size) != expected:
                raise _wrong(written.path, f"data of tensor {name}")


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _pad_to(file: BinaryIO, offset: int) -> None:
    file.write(bytes(offset - file.tell()))
