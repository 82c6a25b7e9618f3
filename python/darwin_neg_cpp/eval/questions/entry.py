"""A record of a question file as read, before it is a question."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...files.input_file import shown
from ...protocols.question import LETTERS


@dataclass(frozen=True)
class Entry:
    """A record. The columns name, for errors, where stem, choices and id stand. id, domain: "" if there is none."""

    line: int
    stem: str
    choices: tuple[str, ...]
    right: int
    id: str
    domain: str
    stem_column: str
    choice_columns: tuple[str, ...]
    id_column: str


@dataclass(frozen=True)
class BadRow:
    """A record that cannot be used, in a file that otherwise can. message: begins with the line."""

    message: str


def find_fault(entry: Entry) -> BadRow | None:
    """Checks the texts of a record."""
    where = f"line {entry.line}, column "
    columns = (entry.stem_column, *entry.choice_columns, entry.id_column, '"domain"')
    for column, text in zip(columns, (entry.stem, *entry.choices, entry.id, entry.domain), strict=True):
        # JSON can spell halves of characters, which no tokenizer reads
        if any(0xD800 <= ord(character) < 0xE000 for character in text):
            return BadRow(f"{where}{column}: holds a lone surrogate; it is not Unicode text")
    if not entry.stem:
        return BadRow(f"{where}{entry.stem_column}: the question is empty; fill it in")
    if not 2 <= len(entry.choices) <= len(LETTERS):
        return BadRow(
            f"{where}{entry.choice_columns[0]}: has {len(entry.choices)} choices; a question has 2 to {len(LETTERS)}"
        )
    for column, choice in zip(entry.choice_columns, entry.choices, strict=True):
        if not choice:
            return BadRow(f"{where}{column}: the choice is empty; fill it in")
        first = entry.choice_columns[entry.choices.index(choice)]
        if first != column:
            return BadRow(
                f"{where}{column}: is the same choice as {first}; votes for it could not be told apart, change one"
            )
    return None


def find_right(where: str, answer: str, choices: tuple[str, ...], *, letter_first: bool) -> int | BadRow:
    """Finds the index of the right choice: by its letter, its text, or its number from 0.

    where: line and column, for errors. letter_first: by the file's format it is a letter, even if a choice has the same
        letter as its text.
    """
    if not answer:
        return BadRow(f"{where}: the answer is empty; name the right choice")
    upper = answer.upper()
    by_letter = LETTERS.find(upper) if len(upper) == 1 and upper in LETTERS[: len(choices)] else None
    if letter_first and by_letter is not None:
        return by_letter
    by_text = choices.index(answer) if answer in choices else None
    meanings = {index for index in (by_letter, by_text) if index is not None}
    if not meanings and re.fullmatch(r"[0-9]{1,2}", answer) and int(answer) < len(choices):
        meanings = {int(answer)}
    if len(meanings) > 1:
        return BadRow(
            f'{where}: "{shown(answer)}" is a letter and the text of another choice; write the number, from 0'
        )
    if not meanings:
        return BadRow(
            f'{where}: "{shown(answer)}" is none of the choices; write a letter up to {LETTERS[: len(choices)][-1:]}'
        )
    return meanings.pop()
