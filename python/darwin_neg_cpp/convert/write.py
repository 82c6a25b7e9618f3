"""A plan to a file: pieces of tensors are read, converted and written by a few threads at once, each piece at its own place.

Memory is a few pieces, whatever the size of the model.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

from ..errors import ModelFileError
from ..files.input_file import shown, shown_path
from ..files.output_file import OutputError, check_output, naming, replacing
from ..files.progress import Progress, no_progress
from ..gguf_file.header import read_header
from .plan import Placed, Plan
from .qwen35 import Output

Bytes = npt.NDArray[np.uint8]

CHUNK = 1 << 20  # bytes as F32 that each thread works on at once: what a core keeps near it
READ = 8 << 20  # bytes read back at once
READERS = 2  # a disk is faster with more than one request to look at
FLUSH_SECONDS = 0.25
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


def write(
    plan: Plan,
    out: Path,
    *,
    force: bool = False,
    verify: bool = True,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes the plan to `out`, which appears only when it is complete and, with `verify`, has been read back and compared.

    threads: 0 for one per core. progress: called with bytes done and in all. Errors: OutputError, ModelFileError for an input that
    changes meanwhile; then no file is left, and one that stood there before stands unchanged.
    """
    check_output(out, list(plan.sources), force=force)
    with written(out), replacing(out) as (file, temp), naming(temp, out):
        check_space(out, plan.file_size)
        write_into(plan, file, temp, verify=verify, threads=threads, progress=progress)


def write_into(
    plan: Plan, file: BinaryIO, path: Path, *, verify: bool = True, threads: int = 0, progress: Progress | None = None
) -> None:
    """Writes the plan into an empty file that is open under `path`; otherwise as `write`, whose OSErrors it leaves as they are."""
    _Writer(plan, file, threads or os.cpu_count() or 1, progress or no_progress).run(verify)
    if verify:
        _check_header(plan, path)


@contextlib.contextmanager
def written(out: Path) -> Iterator[None]:
    """What the operating system says against writing, in a line about `out`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{shown_path(out)}: cannot be written ({error.strerror or error}); check the disk and its free space"
        ) from error


def check_space(out: Path, size: int) -> None:
    """Refuses to begin what the disk has no room for."""
    free = shutil.disk_usage(out.parent).free
    if free < size:
        raise OutputError(
            f"{shown_path(out)}: needs {size >> 20} MiB, the disk has {free >> 20} MiB free; free some or choose another folder"
        ) from OSError(errno.ENOSPC, "No space left on device")


class _Writer:
    def __init__(self, plan: Plan, file: BinaryIO, threads: int, progress: Progress) -> None:
        self._plan = plan
        self._file = file
        self._threads = max(1, threads)
        self._progress = progress
        self._inputs = Inputs()
        self._data_start = len(plan.header)

    def run(self, verify: bool) -> None:
        _write_at(self._file, self._plan.header, 0)
        follower = _Follower(self._file, verify)
        # reading back counts for the bar as much as writing
        total = (1 + verify) * sum(placed.info.size for placed in self._plan.tensors)
        try:
            done = 0
            # closed, so that no thread is at work any more when the files are
            with contextlib.closing(
                self._spread(self._chunks(), lambda chunk: self._convert(chunk, follower))
            ) as converted:
                for size in converted:
                    follower.check()  # there is no use in going on with a disk that lies
                    done += size
                    self._progress(done + follower.read, total)
            for info, data in self._plan.head_tensors:
                _write_at(self._file, np.ascontiguousarray(data, "<f4").tobytes(), self._data_start + info.offset)
            # nothing but padding is missing now: to size the file any earlier would hide for how much of it there is room
            self._file.truncate(self._plan.file_size)
            follower.finish(lambda: self._progress(done + follower.read, total))
        finally:
            follower.stop()
            self._inputs.close()

    def _chunks(self) -> Iterator[Chunk]:
        for placed in self._plan.tensors:
            yield from chunks_of(placed, self._data_start)

    def _spread(self, chunks: Iterator[Chunk], work: Callable[[Chunk], int]) -> Generator[int, None, None]:
        """Results of `work` over the chunks from several threads, never far ahead of the slowest; the first error ends it all."""
        with ThreadPoolExecutor(self._threads, thread_name_prefix="convert") as pool:
            running: set[Future[int]] = set()
            try:
                for chunk in chunks:
                    running.add(pool.submit(work, chunk))
                    if len(running) >= 4 * self._threads:
                        finished, running = wait(running, return_when=FIRST_COMPLETED)
                        yield sum(future.result() for future in finished)
                for future in running:
                    yield future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _convert(self, chunk: Chunk, follower: _Follower) -> int:
        data = convert_rows(self._inputs, chunk)
        _write_at(self._file, data, chunk.offset)
        follower.written(chunk, data)
        return chunk.size


class _Follower:
    """Follows the conversion: has the disk write what there is, and reads it back from there while more is converted."""

    def __init__(self, file: BinaryIO, verify: bool) -> None:
        self._file = file
        self._verify = verify
        self._lock = threading.Lock()  # guards _waiting
        self._waiting: list[tuple[Chunk, int]] = []  # written, with their checksums
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.read = 0  # bytes read back
        self._thread = threading.Thread(target=self._run, name="follow")
        self._thread.start()

    def written(self, chunk: Chunk, data: Bytes) -> None:
        if self._verify:
            checksum = _checksum(data)
            with self._lock:
                self._waiting.append((chunk, checksum))

    def finish(self, tell: Callable[[], None]) -> None:
        """Waits until everything is on the disk and has been compared; raises what went wrong."""
        self._stop.set()
        while self._thread.is_alive():
            self._thread.join(0.1)
            tell()
        self.check()
        tell()

    def check(self) -> None:
        """Raises what has gone wrong so far."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            last = False
            while not last:
                last = self._stop.wait(FLUSH_SECONDS)
                with self._lock:
                    batch, self._waiting = self._waiting, []
                os.fsync(self._file.fileno())
                self._read_back(sorted(batch, key=lambda one: one[0].offset))
        except BaseException as error:  # raised by check()
            self._error = error

    def _read_back(self, batch: list[tuple[Chunk, int]]) -> None:
        if hasattr(os, "posix_fadvise") and batch:
            # what is on the disk is to be seen, not what is still in memory
            begin, last = batch[0][0].offset, batch[-1][0]
            size = last.offset + last.size - begin
            os.posix_fadvise(self._file.fileno(), begin, size, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(self._file.fileno(), begin, size, os.POSIX_FADV_WILLNEED)
        with ThreadPoolExecutor(READERS, thread_name_prefix="read-back") as pool:
            for size in pool.map(self._compare, _runs(batch)):
                self.read += size

    def _compare(self, run: list[tuple[Chunk, int]]) -> int:
        begin, last = run[0][0].offset, run[-1][0]
        data = np.empty(last.offset + last.size - begin, np.uint8)
        _read_at(self._file, data, begin, self._file.name)
        for chunk, checksum in run:
            if _checksum(data[chunk.offset - begin :][: chunk.size]) != checksum:
                raise OutputError(
                    f"{shown_path(self._file.name)}: {chunk.output.name}: reads back other than it was written; check the disk"
                )
        return sum(chunk.size for chunk, _ in run)


def _runs(batch: list[tuple[Chunk, int]]) -> Iterator[list[tuple[Chunk, int]]]:
    """Chunks of a batch in order of place, in runs of up to READ bytes (gaps for alignment included), or a single larger one."""
    run: list[tuple[Chunk, int]] = []
    for one in batch:
        if run and one[0].offset + one[0].size - run[0][0].offset > READ:
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def chunks_of(placed: Placed, data_start: int) -> Iterator[Chunk]:
    """A tensor in pieces of whole rows."""
    output, info = placed.output, placed.info
    rows = max(1, output.n_rows)
    row_size = info.size // rows
    step = max(1, CHUNK // max(1, output.shape[-1] * 4))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        offset = data_start + info.offset + first * row_size
        yield Chunk(output, info.type, first, count, offset, count * row_size)


def convert_rows(inputs: Inputs, chunk: Chunk) -> Bytes:
    """The bytes of some rows of an output. The arithmetic is that of llama.cpp's converter, in the stored type for F16, else in F32."""
    with np.errstate(over="ignore", invalid="ignore"):  # too large becomes inf and NaN stays NaN, as there
        return _converted(inputs, chunk)


def _converted(inputs: Inputs, chunk: Chunk) -> Bytes:
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
        # in float64, then rounded: the float32 exponential of NumPy, as that of torch, is off by one in the last place where it likes
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
    """Blocks of 32 values as llama.cpp quantizes them, [blocks, 34]. gguf's own routine gives the same bytes on one core at a time."""
    blocks = np.ascontiguousarray(values).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        scaled = blocks * np.where(scale == 0, np.float32(0), 1 / scale)
    # halves away from zero, where rint goes to the even side
    rounded = np.rint(scaled)
    half = np.copysign(np.float32(0.5), scaled)
    rounded += np.where(scaled - rounded == half, half + half, np.float32(0))
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    out[:, 2:] = rounded.astype(np.int8).view(np.uint8)
    return out


def _gather(inputs: Inputs, chunk: Chunk) -> Bytes:
    """The stored bytes of the chunk's rows, [rows, bytes of a row]."""
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


class Inputs:
    """The shards, each opened once."""

    def __init__(self) -> None:
        self._files: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()  # guards _files

    def read(self, path: str, target: Bytes, offset: int) -> None:
        try:
            with self._lock:
                if path not in self._files:
                    self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close())
                file = self._files[path]
            _read_at(file, target, offset, path)
        except OSError as error:
            raise ModelFileError(
                f"{shown_path(path)}: cannot be read ({error.strerror}); check that it is still there, and the disk"
            ) from error

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _checksum(data: Bytes) -> int:
    """Changes with every changed bit, and when two pages of 4 KiB change places.

    It is there against a disk that lies, not against an adversary; as fast as memory, where a CRC takes a third of the conversion's time.
    """
    words = data[: data.size // 8 * 8].view("<u8")
    if not words.size:
        return zlib.crc32(data)  # type: ignore[arg-type]
    pages = np.add.reduceat(words, np.arange(0, words.size, 512))
    pages *= np.arange(1, 2 * pages.size, 2, dtype=np.uint64)  # odd: no bit is multiplied away
    return int(pages.sum()) ^ zlib.crc32(data[words.size * 8 :])  # type: ignore[arg-type]


if hasattr(os, "preadv") and hasattr(os, "pwrite"):

    def _read_at(file: BinaryIO, target: Bytes, offset: int, name: str) -> None:
        done = 0
        while done < target.size:
            got = os.preadv(file.fileno(), [memoryview(target)[done:]], offset + done)  # type: ignore[arg-type]
            if not got:
                raise ModelFileError(f"{shown_path(name)}: became shorter while it was read; try again")
            done += got

    def _write_at(file: BinaryIO, data: bytes | Bytes, offset: int) -> None:
        view = memoryview(data)  # type: ignore[arg-type]
        while view:
            done = os.pwrite(file.fileno(), view, offset)
            view, offset = view[done:], offset + done

else:  # Windows has one position per file for all threads
    _one_at_a_time = threading.Lock()

    def _read_at(file: BinaryIO, target: Bytes, offset: int, name: str) -> None:
        with _one_at_a_time:
            file.seek(offset)
            done = 0
            while done < target.size:
                got = file.readinto(target[done:])  # type: ignore[attr-defined]
                if not got:
                    raise ModelFileError(f"{shown_path(name)}: became shorter while it was read; try again")
                done += got

    def _write_at(file: BinaryIO, data: bytes | Bytes, offset: int) -> None:
        with _one_at_a_time:
            file.seek(offset)
            file.write(data)  # type: ignore[arg-type]


def _check_header(plan: Plan, temp: Path) -> None:
    written = read_header(temp)
    expected = plan.infos
    wrong = next((info.name for info in expected if written.tensors.get(info.name) != info), None)
    with open(temp, "rb") as file:
        same = file.read(len(plan.header)) == plan.header
        for info, data in plan.head_tensors:
            file.seek(written.data_start + info.offset)
            if file.read(info.size) != np.ascontiguousarray(data, "<f4").tobytes():
                wrong = info.name
    if not same or wrong or len(written.tensors) != len(expected):
        raise OutputError(
            f"{shown_path(temp)}: {shown(wrong or 'the header')}: was not written correctly; check the disk"
        )
