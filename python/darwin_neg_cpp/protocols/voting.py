"""By which rule votes decide, and when they have decided.

The rule: most votes; of the choices with equally many, most votes from greedy candidates; of those, the one whose first
vote came from the candidate with the lowest number. A candidate that could not be read has no vote. A question without
any vote has no answer.

The rule is monotone: a further vote for a choice never makes it worse, nor a rival better. So the leader is at its
worst when it gets none of the outstanding votes, and a rival at its best when it gets all of them. When even that puts
no rival in front, nothing can. Conversely, a rival that this would put in front could really win. So `decided` is
exact, not only safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vote:
    """Candidate `number`'s vote. choice: index, None without a letter. greedy: decoded at temperature 0."""

    number: int
    choice: int | None
    greedy: bool


@dataclass(frozen=True)
class Pending:
    """A candidate that has not voted yet, and may never."""

    number: int
    greedy: bool


Standing = tuple[int, int, int]  # votes, greedy votes, minus the number of the first; the larger the better

NOBODY: Standing = (0, 0, 0)  # without a vote; loses to every standing with one


def standings(votes: Iterable[Vote], n_choices: int) -> list[Standing]:
    """Returns the standing of each choice. No two choices with votes are equal, since a candidate votes once."""
    table = [NOBODY] * n_choices
    for vote in votes:
        if vote.choice is not None:
            count, greedy, minus_first = table[vote.choice]
            first = min(vote.number, -minus_first) if count else vote.number
            table[vote.choice] = (count + 1, greedy + vote.greedy, -first)
    return table


def ranking(votes: Iterable[Vote], n_choices: int) -> list[int]:
    """Returns the choices that have votes, the leader first."""
    table = standings(votes, n_choices)
    return sorted((i for i in range(n_choices) if table[i][0]), key=lambda i: table[i], reverse=True)


def winner(votes: Iterable[Vote], n_choices: int) -> int | None:
    """Returns the choice that the rule names; None without votes."""
    ranked = ranking(votes, n_choices)
    return ranked[0] if ranked else None


def counts(votes: Iterable[Vote], n_choices: int) -> tuple[int, ...]:
    """Returns the number of votes for each choice."""
    return tuple(standing[0] for standing in standings(votes, n_choices))


def tied(votes: Iterable[Vote], n_choices: int) -> bool:
    """Whether several choices share the most votes, so that the number of votes alone did not decide."""
    first, second, *_ = sorted(counts(votes, n_choices), reverse=True)
    return first == second > 0


def margin(votes: Iterable[Vote], n_choices: int) -> int:
    """Returns the number of votes between the first and the second choice."""
    first, second, *_ = sorted(counts(votes, n_choices), reverse=True)
    return first - second


def decided(votes: Sequence[Vote], pending: Iterable[Pending], n_choices: int) -> bool:
    """Whether the votes of the pending candidates, whatever they are, cannot change the winner."""
    outstanding = list(pending)
    table = standings(votes, n_choices)
    first = max(range(n_choices), key=lambda i: table[i])
    if not outstanding:
        return True
    if table[first] == NOBODY:
        return False
    more, more_greedy = len(outstanding), sum(candidate.greedy for candidate in outstanding)
    earliest = min(candidate.number for candidate in outstanding)
    for rival in range(n_choices):
        count, greedy, minus_first = table[rival]
        number = min(earliest, -minus_first) if count else earliest
        if rival != first and (count + more, greedy + more_greedy, -number) > table[first]:
            return False
    return True
