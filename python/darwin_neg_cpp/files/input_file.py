"""Reads a file that a user named; when that fails, one line says why."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import BinaryIO

from ..errors import DarwinNegError
from .shown_text import escape_line

PathLike = str | os.PathLike[str]

SHOWN_CHARACTERS = 120
BEGIN = 200  # bytes that tell what a file is
# what texts come in, by the first bytes
PACKED = {
    b"PAR1": "is a Parquet file; export it as CSV or JSON lines",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; unpack it, or export it as CSV",
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"BZh": "is compressed with bzip2; unpack it",
    b"\xfd7zXZ": "is compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
}


def shown(text: str) -> str:
    """Text out of a file, escaped, and cut to what a line can bear."""
    line = escape_line(text)
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 3] + "..."


def shown_path(path: PathLike) -> str:
    """A path, escaped; never cut, because the user needs all of it."""
    return escape_line(os.fspath(path))


def open_input(path: PathLike, error: type[DarwinNegError]) -> BinaryIO:
    """Opens a regular file for reading, unbuffered.

    Raises `error` when it is missing, a folder, a pipe or device (opening one could block for ever), or unreadable.
    """
    name = shown_path(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise error(f"{name}: is a folder; give the file in it")
        if not stat.S_ISREG(mode):
            raise error(f"{name}: is a pipe or device; copy its content to a file first")
        return open(path, "rb", buffering=0)
    except FileNotFoundError:
        raise error(f"{name}: no such file; check the path") from None
    except PermissionError:
        raise error(f"{name}: permission denied; make the file readable") from None
    except ValueError:  # a zero byte inside the path
        raise error(f"{name}: is not a valid file name; check the path") from None
    except OSError as cause:
        raise error(f"{name}: cannot be opened ({cause.strerror}); check the path") from None


def not_a_text(data: bytes, *, pages: bool = False) -> str | None:
    """Names what a file is instead of text, by its first bytes, as the end of an error; None if it may be text.

    pages: web pages are text too.
    """
    for magic, what in PACKED.items():
        if data.startswith(magic):
            return what
    found = not_the_file(data)
    return None if pages and found is not None and found.startswith("is a web page") else found


def not_the_file(data: bytes) -> str | None:
    """Names what was saved in the place of a file that is published, as the end of an error; None if it may be it."""
    begin = data[:BEGIN].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begin.startswith((b"<!doctype html", b"<html")):
        return "is a web page; download the file that it shows"
    if begin.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS; download the file itself, as with `git lfs pull`"
    return None


def read_exactly(file: BinaryIO, n: int, offset: int, error: type[DarwinNegError], path: PathLike) -> bytearray:
    """Reads `n` bytes at `offset`. Raises `error` when the file ends before them, also when it is cut meanwhile."""
    data = bytearray(n)
    view = memoryview(data)
    done = 0
    try:
        file.seek(offset)
        while done < n:
            got = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise error(f"{shown_path(path)}: the file ends too early; download or write it again")
            done += got
    except OSError as cause:
        raise error(f"{shown_path(path)}: cannot be read ({cause.strerror}); check the disk") from None
    return data


def sha256_file(path: PathLike) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
