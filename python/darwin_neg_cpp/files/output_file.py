"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DarwinNegError
from ..errors import OutputError as OutputError  # noqa: PLC0414 (imported from here too)
from .input_file import shown_path


def check_output(out: Path, inputs: list[Path], *, force: bool) -> None:
    """Refuses an output that is one of the inputs (also through links), or exists and may not be replaced."""
    try:
        os.stat(out)
        exists = True
    except FileNotFoundError:
        exists = False
    except NotADirectoryError:
        raise OutputError(f"{shown_path(out)}: its folder is a file; choose another output name") from None
    except (OSError, ValueError):  # too long, or a zero byte in it
        raise OutputError(f"{shown_path(out)}: is no possible file name; choose another output name") from None
    for path in inputs:
        if exists and path.exists() and os.path.samefile(out, path):
            raise OutputError(f"{out}: output and input are the same file; choose another output name")
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; give a file name")
    if exists and not out.is_file():
        raise OutputError(f"{out}: is a pipe or a device; give a file name")
    if exists and not force:
        raise OutputError(f"{out}: exists already; choose another name or replace it with force=True")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent}: no such folder; create it first")


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A temporary file in the target folder, renamed to `out` when the block ends well and removed when it does not.

    Whatever stood under `out` stays whole until the rename. Leftovers of killed processes are removed first.
    """
    with temporary(out) as (file, temp):
        with file:
            yield file, temp
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, out)
        _sync_folder(out.parent)


@contextlib.contextmanager
def temporary(out: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file beside `out` that is removed when the block ends; should the process be killed, the next one removes it."""
    prefix = f".{out.name[:180]}.tmp-"  # with the rest still below the usual limit of 255 bytes
    _remove_stale(out.parent, prefix)
    # more than the process id: two threads may write the same output
    temp = out.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        file = temp.open("wb+")
    except OSError as error:
        raise OutputError(
            f"{shown_path(out.parent)}: cannot be written to ({error.strerror}); check permissions and free space"
        ) from None
    try:
        with file:
            yield file, temp
    finally:
        temp.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(hidden: Path, out: Path) -> Iterator[None]:
    """Errors about a temporary file, of which the user has never heard, name the one that was asked for."""
    try:
        yield
    except DarwinNegError as error:
        error.args = (str(error).replace(str(hidden), str(out)),)
        raise


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse; the rename itself is done
    finally:
        os.close(handle)


def _remove_stale(folder: Path, prefix: str) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefix) and not _alive(path.name[len(prefix) :]):
                path.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    pid = pid.partition("-")[0]
    if not pid.isdigit():
        return False
    if sys.platform == "win32":
        return True  # os.kill would end the process there
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def copy_range(source: BinaryIO, target: BinaryIO, offset: int, size: int, progress: object = None) -> None:
    """Copies bytes of `source` from `offset` to the end of `target`, inside the kernel where it can.

    progress: called with the number of bytes of each piece.
    """
    tell = progress if callable(progress) else (lambda _count: None)
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
                if error.errno in (27, 28, 122):  # EFBIG, ENOSPC, EDQUOT: no other way of copying will help
                    raise
                kernel = False
        if done == 0:
            kernel = False
            source.seek(offset)
            block = source.read(min(step, size))
            if not block:
                raise OutputError(f"{source.name}: became shorter while it was copied; try again")
            target.write(block)
            done = len(block)
        offset += done
        size -= done
        tell(done)
