"""The ledger: every call and every answer of an evaluation in one file of JSON lines (see ledger_lines).

Lines are appended whole and flushed to the disk before the next call is looked at, so that after a crash or kill -9 at
most the last one is torn; it is cut off. One process at a time writes to a ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RequestError
from ..files.appended_file import append, free_name, open_locked, read_lines
from ..files.input_file import open_input, shown_path
from ..files.output_file import sync_folder
from ..protocols.answer import Answer
from ..protocols.protocol import Protocol
from ..protocols.sampler import Output
from . import ledger_lines
from .ledger_lines import FORMAT, BadLine, CallKey, Contents, Reader, WrongFormat
from .settings import Settings, find_difference

NAME = "ledger.jsonl"
WRITER = "evaluation"


class Ledger:
    """A ledger open for appending; see `open_ledger`.

    done: the answers it holds, as (number of the question, protocol). right: for each protocol how many answers are
        right, and how many there are.
    """

    def __init__(self, path: Path, file: BinaryIO, contents: Contents) -> None:
        self.path = path
        self._file = file
        self.settings = contents.settings
        self.done = {(outcome.number, outcome.protocol) for outcome in contents.outcomes}
        self.right: dict[Protocol, tuple[int, int]] = {}
        for outcome in contents.outcomes:
            self._count(outcome.protocol, outcome.is_right)
        self._calls = {key: (place, *call) for place, (key, call) in enumerate(contents.calls.items())}

    def add(self, number: int, domain: str, right: int, answer: Answer) -> None:
        """Writes an answer; when it returns, the line is on the disk."""
        assert (number, answer.protocol) not in self.done
        append(self._file, ledger_lines.encode_answer(number, domain, right, answer))
        self.done.add((number, answer.protocol))
        self._count(answer.protocol, answer.choice == right)

    def add_call(self, key: CallKey, prompt_hash: str, output: Output) -> None:
        """Writes a finished call, in case its answer never comes."""
        append(self._file, ledger_lines.encode_call(key, prompt_hash, output))

    def find_call(self, key: CallKey, prompt_hash: str) -> tuple[int, Output] | None:
        """Returns a call that an earlier process finished, as (its place among those, its output)."""
        place, prompt, output = self._calls.get(key, (0, "", None))
        return (place, output) if output is not None and prompt == prompt_hash else None

    def _count(self, protocol: Protocol, is_right: bool) -> None:
        right, answered = self.right.get(protocol, (0, 0))
        self.right[protocol] = (right + is_right, answered + 1)


@contextlib.contextmanager
def open_ledger(
    path: Path,
    settings: Settings,
    names: Mapping[str, Any],
    *,
    command: str = "",
    machine: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[Ledger]:
    """Starts a ledger, or resumes one with the same settings.

    force: starts again; the old ledger is kept beside the new one under a number. machine: what the results do not
        depend on. Errors: RequestError when the settings differ or a line cannot be read; OutputError when another
        process is writing to it.
    """
    if force and path.exists():
        with open_locked(path, WRITER):  # not while a run is writing to it
            os.replace(path, free_name(path))
    # a JSON round trip, so that tuples compare equal to the lists that they are read back as
    settings = json.loads(json.dumps(settings))
    with open_locked(path, WRITER) as file:
        contents, end = _read(path)
        if contents is None:
            end = 0
        elif difference := find_difference(contents.settings, settings):
            raise RequestError(
                f"{shown_path(path)}: was made with different settings ({difference}); choose another folder, or start "
                "again with force=True"
            )
        file.truncate(end)
        if contents is None:
            contents = Contents(settings, names, (), ())
            append(file, ledger_lines.encode_header(settings, names))
            sync_folder(path.parent)
        append(file, ledger_lines.encode_session(command, {**_describe_machine(), **(machine or {})}))
        yield Ledger(path, file, contents)


def read(path: Path) -> Contents:
    """Reads a ledger, leaving out a torn last line. Errors: RequestError naming the line."""
    contents, _ = _read(path)
    if contents is None:
        raise RequestError(f"{shown_path(path)}: holds no evaluation; choose the folder of one")
    return contents


def _read(path: Path) -> tuple[Contents | None, int]:
    """Returns the contents, None when there is not even a header, and the end of the last whole line."""
    reader: Reader | None = None
    end = 0
    with open_input(path, RequestError) as raw:
        size = os.fstat(raw.fileno()).st_size
        for number, line in enumerate(read_lines(raw), start=1):
            if not line.endswith(b"\n"):
                if reader is None and not ledger_lines.may_begin_ledger(line):
                    raise RequestError(f"{shown_path(path)}: is not a ledger of an evaluation; choose another folder")
                break
            try:
                if reader is None:
                    reader = Reader(line)
                elif (first := reader.add(line, number)) is not None:
                    raise RequestError(f"{shown_path(path)}: line {number}: repeats line {first}; remove one of them")
            except BadLine:
                if reader is not None and end + len(line) >= size:
                    break  # a disk that lost power may have written the end of the last line before its middle
                raise RequestError(
                    f"{shown_path(path)}: line {number}: is not a line of a ledger; choose another folder, or start "
                    "again with force=True"
                ) from None
            except WrongFormat as error:
                raise RequestError(
                    f"{shown_path(path)}: has format {error.args[0]!r:.20}; this version reads format {FORMAT}; choose "
                    "another folder"
                ) from None
            end += len(line)
    return (None, 0) if reader is None else (reader.contents(), end)


def _describe_machine() -> dict[str, Any]:
    return {"platform": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()}
