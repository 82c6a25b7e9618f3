"""Loads files of multiple-choice questions: the official format of GPQA, that of MMLU, and JSON lines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ..errors import RequestError
from ..files.input_file import open_input, shown, shown_path
from ..protocols.question import Question
from .questions import gpqa, jsonl, mmlu
from .questions.csv_rows import read_rows
from .questions.entry import BadRow, Entry, find_fault

Kind = Literal["gpqa", "mmlu", "jsonl"]
KINDS: tuple[Kind, ...] = ("gpqa", "mmlu", "jsonl")
READERS: dict[Kind, Callable[[str, str], Iterator[Entry | BadRow]]] = {
    "gpqa": gpqa.read,
    "mmlu": mmlu.read,
    "jsonl": jsonl.read,
}

MAX_BYTES = 1 << 28  # the largest of the usual sets, all of MMLU, is below 10 MB
DIAMOND_FILE, DIAMOND_QUESTIONS = "gpqa_diamond", 198


@dataclass(frozen=True)
class Item:
    """A question with its answer. right: index into question.choices. domain: subject, "" if the file names none."""

    question: Question
    right: int
    domain: str = ""


@dataclass(frozen=True)
class DataSet:
    """file: name without folders. sha256: of the file. skipped: the records that were left out, one line each."""

    file: str
    kind: Kind
    sha256: str
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def is_diamond(self) -> bool:
        """Whether this is GPQA Diamond, by name and size: the dataset is gated, so no hash of it is known here."""
        return (
            self.kind == "gpqa"
            and DIAMOND_FILE in self.file.lower()
            and len(self.items) + len(self.skipped) == DIAMOND_QUESTIONS
        )


def load(path: str | os.PathLike[str], kind: Kind | Literal["auto"] = "auto", *, skip: bool = False) -> DataSet:
    """Reads and checks a whole file.

    kind: its format; "auto" tells it by the ending .jsonl and by the header. skip: leave out records with an empty or
        duplicate choice or without a right answer, instead of refusing the file.
    Outer white space of cells is dropped. Errors: RequestError with the line, and the column if it is known.
    """
    name = shown_path(path)
    text, data = _read_text(os.fspath(path))
    if kind == "auto":
        kind = _detect_kind(name, text)
    lines: dict[str, int] = {}  # of each id
    items: list[Item] = []
    skipped: list[str] = []
    for entry in READERS[kind](name, text):
        fault = entry if isinstance(entry, BadRow) else find_fault(entry)
        if fault is not None:
            if not skip:
                raise RequestError(f"{name}: {fault.message}")
            skipped.append(fault.message)
            continue
        assert isinstance(entry, Entry)
        identity = entry.id or "q-" + _hash("\x1f".join((entry.stem, *entry.choices)))
        if identity in lines:
            what = f'the id "{shown(entry.id)}"' if entry.id else "the same question"
            raise RequestError(
                f"{name}: line {entry.line}, column {entry.id_column}: {what} stands in line {lines[identity]} "
                "already; make it unique"
            )
        lines[identity] = entry.line
        items.append(Item(Question(entry.stem, entry.choices, identity), entry.right, entry.domain))
    if not items:
        raise RequestError(f"{name}: holds no questions{' that can be used' if skipped else ''}; check the file")
    return DataSet(os.path.basename(path), kind, hashlib.sha256(data).hexdigest(), tuple(items), tuple(skipped))


def _read_text(path: str) -> tuple[str, bytes]:
    """Returns text and bytes of a UTF-8 file, with or without a byte order mark. Errors: RequestError."""
    name = shown_path(path)
    with open_input(path, RequestError) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RequestError(f"{name}: is larger than {MAX_BYTES >> 20} MiB; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        begin = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(
            f"{name}: line {line}, column {error.start - begin + 1} (bytes): is not UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        column = text.index("\0") - text.rfind("\n", 0, text.index("\0"))
        raise RequestError(f"{name}: line {line}, column {column}: holds a zero byte; it is not a text file")
    return text, data


def _detect_kind(name: str, text: str) -> Kind:
    if name.lower().endswith((".jsonl", ".ndjson")) or text.lstrip().startswith("{"):
        return "jsonl"
    first = next(iter(read_rows(name, text)), None)
    header = [cell.strip() for cell in first.cells] if first else []
    return "gpqa" if any(column in header for column in gpqa.CHOICES) else "mmlu"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
