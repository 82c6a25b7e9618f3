"""A record of a question file as read, before it is a question."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ...files.input_file import shown
from ...protocols.question import LETTERS

Form = Literal["open", "index", "columns from 0", "columns from 1", "index of columns from 1"]


@dataclass(frozen=True)
class Number:
    """An answer that is a number: that of a choice, or the text of one. Which it is shows in the whole file alone.

    form: what the names of the columns say. text: index of the choice with this number as its text, None if there is
    none. count: of the choices.
    """

    value: int
    form: Form
    text: int | None
    count: int


@dataclass(frozen=True)
class Claim:
    """What one column says the right choice is."""

    column: str
    right: int | Number


@dataclass(frozen=True)
class Entry:
    """A record. The columns name, for errors, where stem, choices and id stand. id, domain: "" if there is none.

    right: index of the right choice, once the claims are settled. claims: empty where the format itself says it.
    """

    line: int
    stem: str
    choices: tuple[str, ...]
    right: int
    id: str
    domain: str
    stem_column: str
    choice_columns: tuple[str, ...]
    id_column: str
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used, in a file that otherwise can.

    what: the fault, as a sentence about the column, in no words of the file but ids and names of columns. quote: what
        the cell holds, where an error helps by showing it.
    """

    line: int
    column: str
    what: str
    remedy: str
    quote: str = ""

    @property
    def message(self) -> str:
        """For the person who has the file; begins with the line."""
        quote = f'"{shown(self.quote)}" ' if self.quote else ""
        return f"line {self.line}, column {self.column}: {quote}{self.what}; {self.remedy}"

    @property
    def reason(self) -> str:
        """For a report, which may be published although the questions may not."""
        return f"line {self.line}, column {self.column}: {self.what}"


def find_fault(entry: Entry) -> BadRow | None:
    """Checks the texts of a record."""
    columns = (entry.stem_column, *entry.choice_columns, entry.id_column, '"domain"')
    for column, text in zip(columns, (entry.stem, *entry.choices, entry.id, entry.domain), strict=True):
        # JSON can spell halves of characters, which no tokenizer reads
        if any(0xD800 <= ord(character) < 0xE000 for character in text):
            return BadRow(entry.line, column, "holds a lone surrogate", "it is not Unicode text")
    if not entry.stem:
        return BadRow(entry.line, entry.stem_column, "the question is empty", "fill it in")
    if not 2 <= len(entry.choices) <= len(LETTERS):
        what = f"has {len(entry.choices)} choices"
        return BadRow(entry.line, entry.choice_columns[0], what, f"a question has 2 to {len(LETTERS)}")
    for column, choice in zip(entry.choice_columns, entry.choices, strict=True):
        if not choice:
            return BadRow(entry.line, column, "the choice is empty", "fill it in")
        first = entry.choice_columns[entry.choices.index(choice)]
        if first != column and choice == entry.choices[entry.right]:
            return BadRow(
                entry.line,
                column,
                f"is the same choice as {first}, and only one of the two is right",
                "change one",
            )
    return None


def merge_wrong(entry: Entry) -> tuple[Entry, str | None]:
    """Keeps one of wrong choices that are equal: a vote for either is the same wrong vote.

    Returns the record, and a sentence for the report if something was merged, in no words of the file but names of
    columns.
    """
    kept = [i for i, choice in enumerate(entry.choices) if entry.choices.index(choice) == i]
    if len(kept) == len(entry.choices):
        return entry, None
    notes = [
        f"column {column}: is the same choice as {entry.choice_columns[entry.choices.index(choice)]}"
        for i, (column, choice) in enumerate(zip(entry.choice_columns, entry.choices, strict=True))
        if i not in kept
    ]
    merged = replace(
        entry,
        choices=tuple(entry.choices[i] for i in kept),
        choice_columns=tuple(entry.choice_columns[i] for i in kept),
        right=kept.index(entry.right),
    )
    note = f"line {entry.line}, {', '.join(notes)}, both wrong; asked with {len(kept)} choices"
    return merged, note
