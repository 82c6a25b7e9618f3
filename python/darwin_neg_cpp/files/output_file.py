"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DarwinNegError, OutputError
from .input_file import shown_path

# no other way of writing helps against these
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, errno.EFBIG}

_REMEDIES = {
    errno.EACCES: "make its folder writable, or choose another one",
    errno.EPERM: "make its folder writable, or choose another one",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.ENOENT: "choose a folder that exists",
    errno.ENOTDIR: "choose a folder that exists",
    errno.EISDIR: "give a file name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "close other files first",
    errno.ENOMEM: "close other programs first",
    errno.EIO: "check the disk",
}


def remedy(error: OSError) -> str:
    """What helps against an error of the operating system while a file is written."""
    if error.errno in FULL:
        return "free some space, or choose another folder"
    return _REMEDIES.get(error.errno or 0, "try again, or choose another folder")


def check_output(out: Path, inputs: list[Path], *, force: bool) -> None:
    """Raises OutputError when `out` is an input (also through a link), exists without `force`, or cannot be a file."""
    try:
        os.stat(out)
        exists = True
    except FileNotFoundError:
        exists = False
    except NotADirectoryError:
        raise OutputError(f"{shown_path(out)}: its folder is a file; choose another output name") from None
    except PermissionError:
        raise OutputError(f"{shown_path(out)}: its folder may not be looked into; choose another output name") from None
    except (OSError, ValueError):  # too long, or a zero byte in it
        raise OutputError(f"{shown_path(out)}: is not a valid file name; choose another output name") from None
    for path in inputs:
        if exists and path.exists() and os.path.samefile(out, path):
            raise OutputError(f"{shown_path(out)}: output and input are the same file; choose another output name")
    if out.is_dir():
        raise OutputError(f"{shown_path(out)}: is a folder; give a file name")
    if exists and not out.is_file():
        raise OutputError(f"{shown_path(out)}: is a pipe or a device; give a file name")
    if exists and not force:
        raise OutputError(f"{shown_path(out)}: exists already; choose another name, or pass force=True to replace it")
    if not out.parent.is_dir():
        raise OutputError(f"{shown_path(out.parent)}: no such folder; create it first")


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yields a temporary file beside `out`; it is renamed to `out` when the block succeeds, and removed when it fails.

    A file that was there before stays as it is until the rename. Leftovers of killed processes are removed first.
    """
    with temporary(out) as (file, temp):
        with file:
            yield file, temp
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, out)
        sync_folder(out.parent)


@contextlib.contextmanager
def temporary(out: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yields a file beside `out` that is removed when the block ends, or by a later call if the process is killed."""
    prefix = f".{out.name[:160]}.tmp-"  # with the rest still below the usual limit of 255 bytes
    _remove_stale(out.parent, prefix)
    # the host: a process id says nothing about the processes of another machine that shares the folder. The random
    # part: two threads may write the same output
    temp = out.parent / f"{prefix}{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        file = temp.open("wb+")
    except OSError as error:
        raise OutputError(
            f"{shown_path(out.parent)}: cannot be written to ({error.strerror}); {remedy(error)}"
        ) from None
    try:
        with file:
            yield file, temp
    finally:
        temp.unlink(missing_ok=True)


@contextlib.contextmanager
def os_errors_about(out: Path) -> Iterator[None]:
    """Turns an OSError into an OutputError that names `out`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{shown_path(out)}: cannot be written ({error.strerror or error}); {remedy(error)}"
        ) from error


@contextlib.contextmanager
def rename_in_errors(hidden: Path, out: Path) -> Iterator[None]:
    """Replaces the name of a temporary file, which the user has not chosen, by `out` in error messages."""
    try:
        yield
    except DarwinNegError as error:
        error.args = (str(error).replace(str(hidden), str(out)),)
        raise


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, where the file system does that: Windows and some networks' do not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_stale(folder: Path, prefix: str) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefix) and _is_stale(path.name[len(prefix) :]):
                path.unlink(missing_ok=True)


def _is_stale(rest: str) -> bool:
    """Whether a temporary file belongs to a process of this machine that has ended. rest: what follows the prefix."""
    host, _, process = rest.partition("-")
    pid = process.partition("-")[0]
    return host == _host() and pid.isdigit() and not _is_alive(int(pid))


def _host() -> str:
    """This machine's name, as characters that any file system takes."""
    return hashlib.sha256(platform.node().encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def copy_range(
    source: BinaryIO, target: BinaryIO, offset: int, size: int, count: Callable[[int], None] = lambda _size: None
) -> None:
    """Appends `size` bytes of `source`, from `offset` on, to `target`; inside the kernel where that is possible.

    count: called with the number of bytes of each piece.
    """
    step = 1 << 24
    source.seek(offset)
    target.flush()
    kernel = hasattr(os, "copy_file_range")
    while size > 0:
        done = 0
        if kernel:
            try:
                done = os.copy_file_range(source.fileno(), target.fileno(), min(step, size), offset, target.tell())
                target.seek(done, os.SEEK_CUR)
            except OSError as error:
                if error.errno in FULL:
                    raise
                kernel = False
        if done == 0:
            kernel = False
            source.seek(offset)
            block = source.read(min(step, size))
            if not block:
                raise OutputError(f"{shown_path(source.name)}: became shorter while it was copied; try again")
            target.write(block)
            done = len(block)
        offset += done
        size -= done
        count(done)
