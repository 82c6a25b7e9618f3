"""Writes a plan to a file: a few threads read, convert and write pieces of tensors, each piece at its own place.

Only a few pieces are in memory at a time, whatever the size of the model.
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
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import OutputError
from ..files.input_file import shown, shown_path
from ..files.output_file import check_output, os_errors_about, rename_in_errors, replacing
from ..files.positions import Bytes, read_at, write_at
from ..files.progress import Progress, no_progress
from ..gguf_file.header import read_header
from .plan import Plan
from .rows import Chunk, Inputs, chunks_of, convert_rows

READ = 8 << 20  # bytes read back at once
READERS = 2  # a disk is faster with more than one request to look at
FLUSH_SECONDS = 0.25


def write(
    plan: Plan,
    out: Path,
    *,
    force: bool = False,
    verify: bool = True,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes the plan to `out`, which appears when it is complete and, with `verify`, has been read back and compared.

    threads: 0 for one per core. progress: called with bytes done and bytes in total. Errors: OutputError,
    ModelFileError for an input that changes meanwhile; then a file that was there before is unchanged.
    """
    check_output(out, list(plan.sources), force=force)
    with os_errors_about(out), replacing(out) as (file, temp), rename_in_errors(temp, out):
        check_space(out, plan.file_size)
        write_into(plan, file, temp, verify=verify, threads=threads, progress=progress)


def write_into(
    plan: Plan, file: BinaryIO, path: Path, *, verify: bool = True, threads: int = 0, progress: Progress | None = None
) -> None:
    """Writes the plan into an empty open file, whose name is `path`. Like `write`, but an OSError stays an OSError."""
    _Writer(plan, file, threads or os.cpu_count() or 1, progress or no_progress).run(verify)
    if verify:
        _check_header(plan, path)


def check_space(out: Path, size: int) -> None:
    """Raises OutputError when the disk does not have `size` bytes free."""
    free = shutil.disk_usage(out.parent).free
    if free < size:
        raise OutputError(
            f"{shown_path(out)}: needs {size >> 20} MiB, the disk has {free >> 20} MiB free; "
            "free some or choose another folder"
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
        write_at(self._file, self._plan.header, 0)
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
                    follower.check()  # writing more is of no use when the disk has stored something wrong
                    done += size
                    self._progress(done + follower.read, total)
            for info, data in self._plan.head_tensors:
                write_at(self._file, np.ascontiguousarray(data, "<f4").tobytes(), self._data_start + info.offset)
            # only padding is missing now: sizing the file earlier would hide how much room there is
            self._file.truncate(self._plan.file_size)
            follower.finish(lambda: self._progress(done + follower.read, total))
        finally:
            follower.stop()
            self._inputs.close()

    def _chunks(self) -> Iterator[Chunk]:
        for placed in self._plan.tensors:
            yield from chunks_of(placed, self._data_start)

    def _spread(self, chunks: Iterator[Chunk], work: Callable[[Chunk], int]) -> Generator[int, None, None]:
        """Yields results of `work` on the chunks from several threads, never far ahead; the first error ends them."""
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
        write_at(self._file, data, chunk.offset)
        follower.add(chunk, data)
        return chunk.size


class _Follower:
    """Follows the conversion: flushes to disk what has been written, and reads it back while more is converted."""

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

    def add(self, chunk: Chunk, data: Bytes) -> None:
        if self._verify:
            checksum = _checksum(data)
            with self._lock:
                self._waiting.append((chunk, checksum))

    def finish(self, progress: Callable[[], None]) -> None:
        """Waits until everything is on the disk and has been compared; raises what went wrong."""
        self._stop.set()
        while self._thread.is_alive():
            self._thread.join(0.1)
            progress()
        self.check()
        progress()

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
                self._read_back(sorted(batch, key=lambda entry: entry[0].offset))
        except BaseException as error:  # raised by check()
            self._error = error

    def _read_back(self, batch: list[tuple[Chunk, int]]) -> None:
        if hasattr(os, "posix_fadvise") and batch:
            # read what is on the disk, not what is still in memory
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
        read_at(self._file, data, begin, self._file.name)
        for chunk, checksum in run:
            if _checksum(data[chunk.offset - begin :][: chunk.size]) != checksum:
                raise OutputError(
                    f"{shown_path(self._file.name)}: {chunk.output.name}: differs when read back; check the disk"
                )
        return sum(chunk.size for chunk, _ in run)


def _runs(batch: list[tuple[Chunk, int]]) -> Iterator[list[tuple[Chunk, int]]]:
    """Groups a batch in runs of up to READ bytes, gaps for alignment included; a larger chunk is a run of its own."""
    run: list[tuple[Chunk, int]] = []
    for chunk, checksum in batch:
        if run and chunk.offset + chunk.size - run[0][0].offset > READ:
            yield run
            run = []
        run.append((chunk, checksum))
    if run:
        yield run


def _checksum(data: Bytes) -> int:
    """A checksum that changes with every changed bit, and when two pages of 4 KiB are swapped.

    It guards against a faulty disk, not against an adversary. It is as fast as memory; a CRC would take a third of the
    conversion's time.
    """
    words = data[: data.size // 8 * 8].view("<u8")
    if not words.size:
        return zlib.crc32(data)  # type: ignore[arg-type]
    pages = np.add.reduceat(words, np.arange(0, words.size, 512))
    pages *= np.arange(1, 2 * pages.size, 2, dtype=np.uint64)  # odd: no bit is multiplied away
    return int(pages.sum()) ^ zlib.crc32(data[words.size * 8 :])  # type: ignore[arg-type]


def _check_header(plan: Plan, temp: Path) -> None:
    header = read_header(temp)
    expected = plan.infos
    wrong = next((info.name for info in expected if header.tensors.get(info.name) != info), None)
    with open(temp, "rb") as file:
        same = file.read(len(plan.header)) == plan.header
        for info, data in plan.head_tensors:
            file.seek(header.data_start + info.offset)
            if file.read(info.size) != np.ascontiguousarray(data, "<f4").tobytes():
                wrong = info.name
    if not same or wrong or len(header.tensors) != len(expected):
        raise OutputError(
            f"{shown_path(temp)}: {shown(wrong or 'the header')}: was not written correctly; check the disk"
        )
