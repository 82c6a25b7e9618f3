"""Which key of a record means what: the layouts of multiple-choice questions that published sets have.

A record is a row of a table or an object of JSON. Keys are compared without case, spaces and punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...files.input_file import shown
from ...protocols.question import LETTERS

QUESTION = ("question", "questionstem", "questiontext", "stem", "prompt", "query", "problem", "goal")
CHOICES = ("choices", "options", "endings", "answerchoices", "answeroptions", "alternatives")
# a text that the question is about
PASSAGE = ("passage", "article", "context", "paragraph", "premise", "story")
# numbered (choice0, option_1) or lettered (option_a, "Choice A"); letters may also stand alone
CHOICE = re.compile(r"(choice|option|opt|op|answer|ans|ending|solution|sol|alternative|)([0-9]{1,2}|[a-z])")
RIGHT = ("correctanswer", "rightanswer", "bestanswer", "correct")
WRONG = re.compile(r"(?:incorrectanswer|wronganswer|distractor|incorrect|wrong)([0-9]{0,2})")
WRONG_LIST = ("incorrectanswers", "wronganswers", "distractors")
# the first that a record has; a number under one of NUMBER is that of a choice, not its text
ANSWER = (
    *("answer", "answerkey", "correctanswer", "rightanswer", "correctoption", "correctchoice", "correctkey", "correct"),
    *("ans", "label", "gold", "target", "cop"),
)
# read beside an answer too, and must agree with it
INDEX = ("answerindex", "answeridx", "correctindex", "correctidx", "correctanswerindex", "correctanswerid", "goldindex")
NUMBER = frozenset(("label", "gold", "target", "cop", *INDEX))
DOMAIN = ("domain", "subject", "highleveldomain", "category", "subdomain")
ID = ("id", "recordid")


@dataclass(frozen=True)
class Fields:
    """The keys of a record, as the file spells them; "" or () where it has none.

    choices: of one list. columns: one for each choice. letters: whether these are named by letters. first: the
    number of the first column, None if they have none. right: of the right answer's text, where wrong (columns) or
    wrong_list (a list) hold the others. answers: what names the right choice otherwise.
    """

    question: str
    choices: str = ""
    columns: tuple[str, ...] = ()
    letters: bool = False
    first: int | None = None
    right: str = ""
    wrong: tuple[str, ...] = ()
    wrong_list: str = ""
    answers: tuple[str, ...] = ()
    id: str = ""
    domains: tuple[str, ...] = ()

    def used(self) -> tuple[str, ...]:
        """All keys that are read."""
        single = (self.question, self.choices, self.right, self.wrong_list, self.id)
        return tuple(key for key in (*single, *self.columns, *self.wrong, *self.answers, *self.domains) if key)


@dataclass(frozen=True)
class Missing:
    """The key that a layout lacks, and what it would hold."""

    key: str
    what: str


def plain(key: str) -> str:
    """A key without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", key).casefold()


def find_fields(keys: Iterable[str], *, subject_first: bool = False) -> Fields | Missing:
    """Tells the layout of a record from its keys. subject_first: it names the domain before a domain does."""
    spelled: dict[str, str] = {}
    for key in keys:
        spelled.setdefault(plain(key), key)
    question = _first(spelled, QUESTION)
    if not question:
        return Missing("question", "the text of the question")
    domains = (*DOMAIN[1::-1], *DOMAIN[2:]) if subject_first else DOMAIN
    base = Fields(question, domains=tuple(spelled[name] for name in domains if name in spelled))
    choices, columns = _first(spelled, CHOICES), _find_columns(spelled)
    if not choices and columns is None:
        return _find_right_and_wrong(spelled, base) or Missing("choices", "a list of texts")
    if not choices and isinstance(columns, Missing):
        return columns
    answers = [name for name in ANSWER if name in spelled][:1] + [name for name in INDEX if name in spelled]
    if not answers:
        return Missing("answer", "a letter, a text or a number from 0")
    base = replace(base, answers=tuple(spelled[name] for name in answers), id=_first(spelled, ID[:1]))
    if choices:
        return replace(base, choices=choices)
    assert isinstance(columns, dict)
    first = next(iter(columns))
    return replace(
        base,
        columns=tuple(columns.values()),
        letters=first in LETTERS.lower(),
        first=None if first in LETTERS.lower() else int(first),
    )


def show_found(keys: Iterable[str]) -> str:
    """The keys of a record, for an error."""
    return shown(", ".join(keys))


def _first(spelled: Mapping[str, str], names: Sequence[str]) -> str:
    return next((spelled[name] for name in names if name in spelled), "")


def _find_columns(spelled: Mapping[str, str]) -> dict[str, str] | Missing | None:
    """The columns of the choices by their letters or numbers, in order; None if there are none."""
    families: dict[tuple[str, bool], dict[str, str]] = {}
    for name, key in spelled.items():
        if match := CHOICE.fullmatch(name):
            families.setdefault((match[1], match[2].isdigit()), {})[match[2].lstrip("0") or "0"] = key
    found = []
    for (word, numbered), members in families.items():
        order = [str(i) for i in range(int("0" not in members), 100)] if numbered else list(LETTERS.lower())
        if len(members) < 2 or (not word and numbered) or (word and order[0] not in members):
            continue
        last = max(order.index(member) for member in members if member in order)
        gap = next((label for label in order[:last] if label not in members), None)
        if gap is None:
            found.append({label: members[label] for label in order[: last + 1]})
        else:
            return Missing(word + gap if word else gap.upper(), "the choices stand in A, B and so on")
    return max(found, key=len, default=None)


def _find_right_and_wrong(spelled: Mapping[str, str], base: Fields) -> Fields | None:
    wrong = {match[1]: key for name, key in spelled.items() if (match := WRONG.fullmatch(name))}
    others = tuple(wrong[number] for number in sorted(wrong, key=lambda number: int(number or 0)))
    right, wrong_list = _first(spelled, RIGHT), _first(spelled, WRONG_LIST)
    if not right or not (others or wrong_list):
        return None
    return replace(base, right=right, wrong=others, wrong_list="" if others else wrong_list, id=_first(spelled, ID))
