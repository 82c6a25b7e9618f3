"""Votes, against an oracle that shares no code: it sorts by the rule as written, and enumerates."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwin_neg_cpp.protocols import voting
from darwin_neg_cpp.protocols.voting import Pending, Vote


def oracle_winner(votes: Iterable[Vote], n: int) -> int | None:
    cast = [vote for vote in votes if vote.choice is not None]
    ballots = {choice: [vote for vote in cast if vote.choice == choice] for choice in range(n)}
    most = max(len(ballot) for ballot in ballots.values())
    if most == 0:
        return None
    left = [choice for choice in range(n) if len(ballots[choice]) == most]
    greedy = max(sum(vote.greedy for vote in ballots[choice]) for choice in left)
    left = [choice for choice in left if sum(vote.greedy for vote in ballots[choice]) == greedy]
    return min(left, key=lambda choice: min(vote.number for vote in ballots[choice]))


def completions(pending: Sequence[Pending], allowed: Sequence[int | None]) -> Iterable[list[Vote]]:
    for chosen in itertools.product(allowed, repeat=len(pending)):
        yield [Vote(one.number, choice, one.greedy) for one, choice in zip(pending, chosen, strict=True)]


@st.composite
def pools(draw: st.DrawFn, most_votes: int, most_pending: int) -> tuple[list[Vote], list[Pending], int]:
    """Votes and pending candidates with numbers in any order."""
    n = draw(st.integers(2, 3))
    n_votes, n_pending = draw(st.integers(0, most_votes)), draw(st.integers(0, most_pending))
    numbers = draw(st.permutations(range(n_votes + n_pending)))
    choice = st.one_of(st.none(), st.integers(0, n - 1))
    votes = [Vote(number, draw(choice), draw(st.booleans())) for number in numbers[:n_votes]]
    return votes, [Pending(number, draw(st.booleans())) for number in numbers[n_votes:]], n


@settings(max_examples=2000, deadline=None)
@given(pools(8, 4))
def test_decided_is_exactly_that_all_completions_agree(pool: tuple[list[Vote], list[Pending], int]) -> None:
    votes, pending, n = pool
    outcomes = {oracle_winner([*votes, *more], n) for more in completions(pending, [None, *range(n)])}
    assert voting.winner(votes, n) == oracle_winner(votes, n)
    assert voting.decided(votes, pending, n) == (len(outcomes) == 1)


@settings(max_examples=1500, deadline=None)
@given(pools(7, 3), st.integers(1, 3))
def test_decided_with_second_opinions_outstanding_is_exact_too(
    pool: tuple[list[Vote], list[Pending], int], n_second: int
) -> None:
    """Enumerates the whole protocol: the first round's completions, then second opinions on the two leaders alone."""
    votes, pending, n = pool
    second = [Pending(len(votes) + len(pending) + i, greedy=i < 2) for i in range(n_second)]
    if not pending:
        return  # then the question is whether to ask, not whether to stop
    outcomes = set()
    for more in completions(pending, [None, *range(n)]):
        first_round = [*votes, *more]
        by_rule = []
        left = set(range(n))
        while left and (best := oracle_winner([vote for vote in first_round if vote.choice in left], n)) is not None:
            by_rule.append(best)
            left.discard(best)
        asked = [oracle_winner([*first_round, *extra], n) for extra in completions(second, [None, *by_rule[:2]])]
        outcomes |= set(asked) if len(by_rule) >= 2 else {oracle_winner(first_round, n)}
    assert voting.decided(votes, [*pending, *second], n) == (len(outcomes) == 1)


@settings(max_examples=3000, deadline=None)
@given(
    st.integers(2, 26),
    st.lists(st.one_of(st.none(), st.integers(0, 25)), min_size=1, max_size=24),
    st.randoms(use_true_random=False),
)
def test_a_winner_that_is_decided_stays_to_the_end_of_every_sequence(
    n: int, chosen: list[int | None], rng: random.Random
) -> None:
    votes = [Vote(i, None if c is None else c % n, greedy=i < 4) for i, c in enumerate(chosen)]
    rng.shuffle(votes)
    final = oracle_winner(votes, n)
    for k in range(len(votes) + 1):
        pending = [Pending(vote.number, vote.greedy) for vote in votes[k:]]
        if voting.decided(votes[:k], pending, n):
            assert voting.winner(votes[:k], n) == final
    assert voting.decided(votes, [], n)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([(0, 1, True), (1, 2, True), (2, 1, False)], 1),  # most votes
        ([(0, 1, True), (1, 2, False), (2, 2, False), (3, 1, False)], 1),  # equal: greedy votes
        ([(0, 2, True), (1, 1, True)], 2),  # equal in both: the lowest number
        ([(5, 2, False), (4, 1, False)], 1),  # whatever came first in time
        ([(0, None, True), (1, 2, False)], 2),  # one that could not be read has no vote
        ([(0, None, True)], None),
        ([], None),
    ],
)
def test_ties_are_resolved_by_the_written_rule(votes: list[tuple[int, int | None, bool]], winner: int | None) -> None:
    cast = [Vote(*vote) for vote in votes]
    assert voting.winner(cast, 4) == oracle_winner(cast, 4) == winner


def test_ties_and_margins_are_reported() -> None:
    cast = [Vote(i, choice, False) for i, choice in enumerate([1, 1, 2, 2, 3])]
    assert voting.tied(cast, 4) and voting.margin(cast, 4) == 0
    assert not voting.tied(cast[:3], 4) and voting.margin(cast[:3], 4) == 1
    assert not voting.tied([], 4) and voting.margin([], 4) == 0
    assert voting.counts(cast, 4) == (0, 2, 2, 1)
