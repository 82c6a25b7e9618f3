"""Questions, and the orders in which their choices are shown."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..checks import encode
from ..errors import RequestError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Ordering = tuple[int, ...]  # ordering[k]: index of the choice shown at letter k


@dataclass(frozen=True)
class Question:
    """A multiple-choice question.

    stem: the question. choices: 2 to 26 texts; their order means nothing to a protocol. id: names the question in
        results, and is combined with the random seed. Errors: RequestError.
    """

    stem: str
    choices: tuple[str, ...]
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise RequestError(f"id must be text (str), got {type(self.id).__name__}")
        encode("id", self.id)
        name = f"question {self.id!r}" if self.id else "question"
        if not isinstance(self.stem, str) or not self.stem.strip():
            raise RequestError(f"{name}: has no text; give the question as stem")
        if isinstance(self.choices, str) or not isinstance(self.choices, Sequence):
            raise RequestError(f"{name}: choices must be a list of texts, got {type(self.choices).__name__}")
        object.__setattr__(self, "choices", tuple(self.choices))
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise RequestError(f"{name}: has {len(self.choices)} choices; give 2 to {len(LETTERS)}")
        for choice in self.choices:
            if not isinstance(choice, str) or not choice.strip():
                raise RequestError(f"{name}: has an empty choice; give each a text")
        for text in (self.stem, *self.choices):
            encode(name, text)
        if len({choice.strip() for choice in self.choices}) < len(self.choices):
            raise RequestError(f"{name}: has the same choice twice; votes for it could not be told apart")

    def seed(self, base: int) -> int:
        """Returns the random seed of this question, 0 <= seed < 2**31.

        It depends on `base` and on the question's id (or on its texts, if it has no id) alone.
        """
        key = self.id or "\x1e".join([self.stem, *sorted(self.choices)])
        return int.from_bytes(_digest(base, key)[:4], "little") >> 1


def orderings(question: Question, count: int, base_seed: int) -> list[Ordering]:
    """Returns at most `count` different rotations of a base order drawn for the question.

    With n choices and count >= n these are all n rotations: every choice stands at every letter exactly once. With
    count < n the rotations are spread evenly, and no choice stands at a letter twice. The result does not depend on the
    order in which the question lists its choices.
    """
    n = len(question.choices)
    # by hash rather than by a library's generator, whose streams may change from version to version
    base = sorted(range(n), key=lambda i: _digest(question.seed(base_seed), question.choices[i]))
    count = min(count, n)
    shifts = [j * n // count for j in range(count)]
    return [tuple(base[(k + shift) % n] for k in range(n)) for shift in shifts]


def choice_at(ordering: Ordering, letter: str) -> int | None:
    """Returns the index of the choice shown at a letter; None for "" and for a letter that was not offered."""
    k = LETTERS.find(letter) if len(letter) == 1 else -1
    return ordering[k] if 0 <= k < len(ordering) else None


def letters(ordering: Sequence[int]) -> str:
    """Returns the letters that an ordering offers: "ABCD" for four choices."""
    return LETTERS[: len(ordering)]


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
