"""Reads which choice is the right one: a letter, a text, a label, or a number, which is settled for a whole file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import RequestError
from ...protocols.question import LETTERS
from .choices import LABELLED
from .entry import BadRow, Claim, Entry, Form, Number
from .fields import plain

INTRODUCTION = re.compile(
    r"(?:the\s+)?(?:(?:correct|right|final)\s+)?(?:answer|option|choice)(?:\s+is\b|\s*[:：=]|\s)\s*", re.IGNORECASE
)
# a letter or a number as people write it: B, (B), B., B), [B], **B**
BARE = re.compile(r"[(\[{（*\s\"'$]{0,4}([A-Za-z]|[0-9]{1,2}(?:\.0+)?)[)\].:,;）．、*\s\"'$]{0,4}")


def read_answer(
    line: int, column: str, answer: str, choices: Sequence[str], labels: Sequence[str], *, letters: bool, form: Form
) -> int | Number | BadRow:
    """Finds the right choice by its letter, its text or its number.

    labels: of the choices, by the file; they come before everything else. letters: by the file's format it is a letter,
        even if a choice has the same letter as its text. form: what a number would be.
    """
    if not answer:
        return BadRow(line, column, "the answer is empty", "name the right choice")
    by_text = _find_text(answer, choices)
    introduced = INTRODUCTION.match(answer)
    match = BARE.fullmatch(answer, introduced.end() if introduced else 0)
    bare = match[1] if match else ""
    for name in (answer, bare):
        named = [i for i, label in enumerate(labels) if plain(name) and plain(label) == plain(name)]
        if len(named) == 1:
            return named[0]
    by_letter = LETTERS[: len(choices)].find(bare.upper()) if bare.isalpha() else -1
    if by_letter >= 0 and (letters or by_text in (None, by_letter)):
        return by_letter
    if by_letter >= 0:
        what = "is a letter and the text of another choice"
        return BadRow(line, column, what, "write the number, from 0", quote=answer)
    if bare and not bare.isalpha():
        return Number(int(float(bare)), form, by_text, len(choices))
    if by_text is not None:
        return by_text
    return _read_labelled_text(line, column, answer, choices)


def settle(name: str, records: Iterable[Entry | BadRow]) -> list[Entry | BadRow]:
    """Decides what numbers mean, and gives every record its right choice.

    name: of the file, for errors. Errors: RequestError, when the numbers of the whole file cannot be understood.
    """
    records = list(records)
    numbers = [
        claim.right
        for record in records
        if isinstance(record, Entry)
        for claim in record.claims
        if isinstance(claim.right, Number)
    ]
    readers = {form: _Numbers(name, [number for number in numbers if number.form == form]) for form in _forms(numbers)}
    return [_settle(record, readers) if isinstance(record, Entry) else record for record in records]


def _settle(entry: Entry, readers: dict[Form, _Numbers]) -> Entry | BadRow:
    found: list[tuple[Claim, int]] = []
    for claim in entry.claims:
        right = claim.right
        if isinstance(right, Number):
            meaning = readers[right.form].read(right)
            if isinstance(meaning, tuple):
                return BadRow(entry.line, claim.column, *meaning, quote=str(right.value))
            right = meaning
        found.append((claim, right))
        if right != found[0][1]:
            what = f"names another choice than column {found[0][0].column}"
            return BadRow(entry.line, claim.column, what, "correct one of the two")
    return replace(entry, right=found[0][1]) if found else entry


class _Numbers:
    """The numbers of one form in a file, which all mean the same: the text of a choice, or its number from 0 or 1."""

    def __init__(self, name: str, numbers: Sequence[Number]) -> None:
        self._name = name
        self._form = numbers[0].form
        self._by_text = all(number.text is not None for number in numbers)
        self._from = [first for first in (0, 1) if all(_index(number, first) is not None for number in numbers)]
        # what cannot be a text shows where counting begins
        others = [number for number in numbers if number.text is None or self._form != "open"]
        self._has_zero = any(number.value == 0 for number in others)
        self._has_last = any(number.value == number.count for number in others)
        self._several = len(others) > 1
        self._first = self._find_first()

    def read(self, number: Number) -> int | tuple[str, str]:
        """Returns the index that a number means, or what is wrong with it and the remedy."""
        first = self._first
        if self._form == "open":
            return self._read_open(number)
        if number.text is not None and self._by_text and first not in self._from:
            return number.text
        index = _index(number, first)
        return index if index is not None else ("is not the number of a choice", f"they count from {first}")

    def _read_open(self, number: Number) -> int | tuple[str, str]:
        if self._by_text:
            meanings = {number.text, *(_index(number, first) for first in self._from)}
        elif 0 in self._from:  # some are no text, so all are numbers of choices
            meanings = {_index(number, 0)}
        else:
            meanings = {number.text, _index(number, 0)} - {None}
        if len(meanings) > 1:
            return "is the text of a choice, and may be the number of another", "write a letter"
        index = next(iter(meanings), None)
        if index is not None:
            return index
        up_to = LETTERS[: number.count][-1:]
        return "is none of the choices", f"write a letter up to {up_to}, or a number from 0 to {number.count - 1}"

    def _find_first(self) -> int:
        """Returns the number of the first choice. Errors: RequestError."""
        if self._form in ("columns from 1", "index of columns from 1"):
            # the names say 1, but an index usually counts from 0
            if self._has_zero == self._has_last and (self._has_zero or self._form == "index of columns from 1"):
                raise RequestError(
                    f"{self._name}: the columns of the choices count from 1, and whether the numbers of the answers "
                    "count from 0 or from 1 cannot be told; write letters"
                )
            return 0 if self._has_zero else 1
        if self._has_last and not self._has_zero and self._several:
            raise RequestError(
                f"{self._name}: the numbers of the answers seem to count from 1: none is 0, and some are as large as "
                "the number of choices; write letters, or numbers from 0"
            )
        return 0


def _forms(numbers: Iterable[Number]) -> set[Form]:
    return {number.form for number in numbers}


def _index(number: Number, first: int) -> int | None:
    index = number.value - first
    return index if 0 <= index < number.count else None


def _find_text(answer: str, choices: Sequence[str]) -> int | None:
    """Finds the choice with this text, or else the only one that is the same number (2 and 2.0)."""
    if answer in choices:
        return choices.index(answer)
    same = [i for i, choice in enumerate(choices) if _value(answer) == _value(choice) is not None]
    return same[0] if len(same) == 1 else None


def _value(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?", text) else None


def _read_labelled_text(line: int, column: str, answer: str, choices: Sequence[str]) -> int | BadRow:
    """Reads a letter with its text, as in "B. Paris"."""
    match = LABELLED.fullmatch(answer)
    if match and match[2].strip() in choices:
        index = choices.index(match[2].strip())
        if LETTERS.find(match[1].upper()) == index:
            return index
        what = "names a letter and the text of another choice"
        return BadRow(line, column, what, "write the letter alone", quote=answer)
    remedy = f"write a letter up to {LETTERS[: len(choices)][-1:]}"
    return BadRow(line, column, "is none of the choices", remedy, quote=answer)
