"""A file of lines that grows while work is done, so that the work can be resumed after a crash or kill -9.

Lines are appended whole and flushed to the disk one by one, so that at most the last one is torn. One process at a time
writes to such a file.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError
from .input_file import shown_path
from .output_file import remedy


def append(file: BinaryIO, line: bytes) -> None:
    """Writes a line; when it returns, the line is on the disk."""
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def open_locked(path: Path, writer: str) -> Iterator[BinaryIO]:
    """Opens a file for appending, and keeps other processes out, which would do everything twice.

    The lock ends with the process, however that ends. writer: what such a process does, for the error: "evaluation".
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise OutputError(f"{shown_path(path)}: cannot be written to ({error.strerror}); {remedy(error)}") from None
    with file, _lock(path, file, writer):
        yield file


@contextlib.contextmanager
def _lock(path: Path, file: BinaryIO, writer: str) -> Iterator[None]:
    try:
        _try_lock(file)
    except BlockingIOError:
        raise OutputError(
            f"{shown_path(path)}: another {writer} is writing to it; wait for it, or write somewhere else"
        ) from None
    except OSError:
        pass  # a file system without locks
    if not os.path.exists(path) or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        raise OutputError(f"{shown_path(path)}: was just replaced by another process; try again")
    yield


def _try_lock(file: BinaryIO) -> None:
    """Raises BlockingIOError where another process has the lock, and OSError where there are no locks."""
    if sys.platform == "win32":
        import msvcrt

        # others cannot read what is locked there, so that it is a byte that no file has
        at = file.seek(0, os.SEEK_CUR)
        file.seek(1 << 62)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None
        finally:
            file.seek(at)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_lines(raw: BinaryIO) -> Iterator[bytes]:
    """Yields the lines with their ends; the last one may be torn and have none."""
    rest = b""
    while block := raw.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def free_name(path: Path) -> Path:
    """The first name of name.1.suffix, name.2.suffix ... that no file has."""
    k = 1
    while (other := path.with_suffix(f".{k}{path.suffix}")).exists():
        k += 1
    return other
