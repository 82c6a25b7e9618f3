"""Loads files of multiple-choice questions: the official format of GPQA, tables like those of MMLU, and JSON."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import RequestError
from ..files.input_file import not_a_text, open_input, shown, shown_path
from ..protocols.question import Question
from . import claims
from .questions import gpqa, jsonl, mmlu
from .questions.answer import settle
from .questions.csv_rows import read_rows
from .questions.entry import BadRow, Entry, find_fault, merge_wrong

Kind = Literal["gpqa", "mmlu", "jsonl"]
KINDS: tuple[Kind, ...] = ("gpqa", "mmlu", "jsonl")
READERS: dict[Kind, Callable[[str, str], Iterator[Entry | BadRow]]] = {
    "gpqa": gpqa.read,
    "mmlu": mmlu.read,
    "jsonl": jsonl.read,
}

MAX_BYTES = 1 << 28  # the largest of the usual sets, all of MMLU, is below 10 MB
JSON_ENDINGS = (".jsonl", ".ndjson", ".json", ".jsonlines")
DIAMOND_FILE = "gpqa_diamond"


@dataclass(frozen=True)
class Item:
    """A question with its answer. right: index into question.choices. domain: subject, "" if the file names none."""

    question: Question
    right: int
    domain: str = ""


@dataclass(frozen=True)
class DataSet:
    """file: name without folders. sha256: of the file.

    skipped: the records that were left out, one line each. left_out: the same without any of the file's text, which a
    report may show. merged: one line for each question in which wrong choices are equal and only one of them is asked.
    """

    file: str
    kind: Kind
    sha256: str
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()

    @property
    def is_diamond(self) -> bool:
        """Whether this is GPQA Diamond, by name and size: the dataset is gated, so no hash of it is known here."""
        return DIAMOND_FILE in self.file.lower() and len(self.items) + len(self.skipped) == claims.QUESTIONS


def load(path: str | os.PathLike[str], kind: Kind | Literal["auto"] = "auto", *, skip: bool = False) -> DataSet:
    """Reads and checks a whole file.

    kind: its format; "auto" tells it by the ending and the first line. skip: leave out records that cannot be
        used or repeat another one, instead of refusing the file.
    Wrong choices that are equal count as one. Outer white space of cells is dropped. Errors: RequestError with the
    line, and the column if it is known.
    """
    name = shown_path(path)
    text, data = _read_text(os.fspath(path))
    if kind == "auto":
        kind = _detect_kind(name, text)
    elif kind != "jsonl" and name.lower().endswith(JSON_ENDINGS) and jsonl.is_json(text):
        raise RequestError(f"{name}: is JSON, not a table; choose the kind jsonl or auto")
    seen: dict[str, Entry] = {}  # by id
    items: list[Item] = []
    faults: list[BadRow] = []
    merged: list[str] = []
    for record in settle(name, READERS[kind](name, text)):
        identity, entry, note = _check(record, seen)
        if isinstance(entry, BadRow):
            if not skip:
                raise RequestError(f"{name}: {entry.message}, or leave such questions out with skip=True")
            faults.append(entry)
            continue
        seen[identity] = entry
        items.append(Item(Question(entry.stem, entry.choices, identity), entry.right, entry.domain))
        merged += [note] if note else []
    if not items:
        why = f" that can be used ({faults[0].message})" if faults else ""
        raise RequestError(f"{name}: holds no questions{why}; check the file")
    return DataSet(
        os.path.basename(path),
        kind,
        hashlib.sha256(data).hexdigest(),
        tuple(items),
        tuple(fault.message for fault in faults),
        tuple(fault.reason for fault in faults),
        tuple(merged),
    )


def _check(record: Entry | BadRow, seen: Mapping[str, Entry]) -> tuple[str, Entry | BadRow, str | None]:
    """Returns a record's id and the record as it is asked, and a note on what was changed; or why it cannot be used."""
    if isinstance(record, BadRow):
        return "", record, None
    fault = find_fault(record)
    if fault is not None:
        return "", fault, None
    entry, note = merge_wrong(record)
    identity = entry.id or "q-" + _hash("\x1f".join((entry.stem, *entry.choices)))
    if (other := seen.get(identity)) is not None:
        what = f'the id "{shown(entry.id)}"' if entry.id else "the same question"
        what += f" stands in line {other.line} already"
        if not entry.id and entry.right != other.right:
            what += ", with another answer"
        return identity, BadRow(entry.line, entry.id_column, what, "make it unique"), None
    return identity, entry, note


def _read_text(path: str) -> tuple[str, bytes]:
    """Returns text and bytes of a UTF-8 file, with or without a byte order mark. Errors: RequestError."""
    name = shown_path(path)
    with open_input(path, RequestError) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RequestError(f"{name}: is larger than {MAX_BYTES >> 20} MiB; split it")
    if what := not_a_text(data):
        raise RequestError(f"{name}: {what}")
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
    if name.lower().endswith(JSON_ENDINGS) or jsonl.is_json(text):
        return "jsonl"
    first = next(iter(read_rows(name, text)), None)
    header = [cell.strip() for cell in first.cells] if first else []
    return "gpqa" if any(column in header for column in gpqa.CHOICES[1:]) else "mmlu"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
