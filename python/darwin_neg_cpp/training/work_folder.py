"""The folder that keeps an unfinished run. Only what this module made in it is ever removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from ..errors import OutputError
from ..files.input_file import shown_path
from ..files.output_file import replacing

# distinguishes our folder from one of the user's that has its name
MARK = "darwin-neg-train-head.txt"
MARK_TEXT = (
    b"An unfinished run of darwin-neg train-head. The same command resumes it; this folder may also be deleted.\n"
)


def check(folder: Path, inputs: Iterable[Path]) -> None:
    """Refuses a name that is taken by something of the user's."""
    name = shown_path(folder)
    remedy = "give another name with out=..."
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{name}: is not a folder, but unfinished runs are kept there; {remedy}")
    place = folder.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise OutputError(f"{shown_path(path)}: lies in the folder that unfinished runs are kept in; {remedy}")
    try:
        if folder.is_dir() and not (folder / MARK).is_file() and any(folder.iterdir()):
            raise OutputError(f"{name}: holds files that train-head did not make; move them away or {remedy}")
    except OSError as error:
        raise OutputError(f"{name}: cannot be read ({error.strerror}); {remedy}") from None


def make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
        if not (folder / MARK).is_file():
            with replacing(folder / MARK) as (file, _):
                file.write(MARK_TEXT)
    except (OSError, OutputError) as error:
        with contextlib.suppress(OSError):  # when nothing is in it yet
            folder.rmdir()
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{shown_path(folder)}: cannot be made ({error.strerror}); give another name with out=..."
        ) from error


def remove(folder: Path, names: Iterable[str]) -> None:
    """Removes the files of these names, also what a killed process left of them, and the folder if it is then empty."""
    if not (folder / MARK).is_file():
        return
    with contextlib.suppress(OSError):
        for name in (*names, MARK):  # the mark last: should this be killed, the folder is still known as ours
            for path in (folder / name, *folder.glob(f".{name}.tmp-*")):
                path.unlink(missing_ok=True)
        folder.rmdir()
