"""The file of answers: one line for each request, in the order in which they are answered.

What the answers depend on lies in a file beside it, so that every line is an answer and a run of other settings is
noticed. See files/appended_file for what survives a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RequestError
from ..eval.settings import find_difference
from ..files.appended_file import append, free_name, open_locked, read_lines
from ..files.input_file import open_input, shown, shown_path
from ..files.output_file import check_output, os_errors_about, replacing, sync_folder
from .reply import Reply, encode
from .requests import Request

FORMAT = 1
FORMAT_KEY = "darwin_neg_batch"
SUFFIX = ".settings.json"
WRITER = "batch"
START_AGAIN = "choose another file, or start again with force=True"


class Answers:
    """A file of answers open for appending; see `open_answers`.

    done: the requests that it has answers to, as text of their ids. failed: how many of those are errors.
    """

    def __init__(self, path: Path, file: BinaryIO, done: set[str], failed: int) -> None:
        self.path, self.done, self.failed = path, done, failed
        self._file = file

    def add(self, request: Request, reply: Reply) -> None:
        """Writes an answer; when it returns, the line is on the disk."""
        assert str(request.id) not in self.done
        with os_errors_about(self.path):
            append(self._file, encode(request, reply))
        self.done.add(str(request.id))
        self.failed += reply.body is None


@contextlib.contextmanager
def open_answers(
    path: Path,
    settings: Mapping[str, Any],
    requests: Sequence[Request],
    *,
    inputs: Sequence[Path] = (),
    force: bool = False,
) -> Iterator[Answers]:
    """Starts a file of answers, or resumes one of the same settings and requests.

    settings: what all answers depend on; "sampling" in it is for errors alone, since the requests count. inputs: files
    that it must not be. force: starts again; the old file is kept under a number.
    Errors: RequestError when the settings or a request differ, or a line cannot be read; OutputError.
    """
    check_output(path, list(inputs), force=True)
    if force and path.exists():
        with open_locked(path, WRITER):  # not while a run is writing to it
            old = free_name(path)
            with contextlib.suppress(FileNotFoundError):
                os.replace(_beside(path), _beside(old))
            os.replace(path, old)
    # a JSON round trip, so that tuples compare equal to the lists that they are read back as
    settings = json.loads(json.dumps(settings))
    with open_locked(path, WRITER) as file:
        done: set[str] = set()
        failed = end = 0
        if os.fstat(file.fileno()).st_size:
            made_with = _read_settings(path)
            _check_settings(path, {**made_with, "sampling": None}, {**settings, "sampling": None})
            sampling = find_difference(made_with.get("sampling"), settings.get("sampling"), "sampling")
            done, failed, end = _read(path, requests, sampling)
            with os_errors_about(path):
                file.truncate(end)
        if not end:
            _write_settings(path, settings)
        yield Answers(path, file, done, failed)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    with os_errors_about(_beside(path)), replacing(_beside(path)) as (file, _):
        file.write(
            json.dumps({FORMAT_KEY: FORMAT, "settings": settings}, ensure_ascii=False, indent=1).encode() + b"\n"
        )
    sync_folder(path.parent)


def _read_settings(path: Path) -> dict[str, Any]:
    beside = _beside(path)
    if not beside.exists():
        raise RequestError(
            f"{shown_path(path)}: exists already, and {shown_path(beside)}, which says how it was made, does not; "
            + START_AGAIN
        )
    try:
        with open_input(beside, RequestError) as raw:
            found = json.loads(raw.read())
        settings = found["settings"]
        if found[FORMAT_KEY] != FORMAT or not isinstance(settings, dict):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(
            f"{shown_path(beside)}: is not a file of settings that this version reads; {START_AGAIN}"
        ) from None
    return dict(settings)


def _check_settings(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    if difference := find_difference(dict(old), dict(new)):
        raise RequestError(f"{shown_path(path)}: was made with different settings ({difference}); {START_AGAIN}")


def _read(path: Path, requests: Sequence[Request], sampling: str | None) -> tuple[set[str], int, int]:
    """Returns the ids that have answers, how many of these are errors, and the end of the last whole line.

    sampling: how the settings of requests without their own differ, if they do.
    """
    by_id = {str(request.id): request for request in requests}
    lines: dict[str, int] = {}
    failed = end = 0
    with open_input(path, RequestError) as raw:
        size = os.fstat(raw.fileno()).st_size
        for number, line in enumerate(read_lines(raw), start=1):
            if not line.endswith(b"\n"):
                break
            where = f"{shown_path(path)}: line {number}:"
            try:
                entry = json.loads(line)
                key, digest, error = str(entry["custom_id"]), entry["id"], entry["error"]
            except (ValueError, KeyError, TypeError, RecursionError):
                if end + len(line) >= size:
                    break  # a disk that lost power may have written the end of the last line before its middle
                raise RequestError(f"{where} is not an answer; {START_AGAIN}") from None
            if key in lines:
                raise RequestError(f"{where} answers {shown(key)!r} like line {lines[key]}; remove one of them")
            if key not in by_id:
                raise RequestError(f"{where} answers {shown(key)!r}, which is not among the prompts; {START_AGAIN}")
            if digest != f"batch_req_{by_id[key].digest}":
                why = f"different settings ({sampling})" if sampling else "another prompt or other settings"
                raise RequestError(f"{where} answers {shown(key)!r} with {why}; {START_AGAIN}")
            lines[key] = number
            failed += error is not None
            end += len(line)
    return set(lines), failed, end
