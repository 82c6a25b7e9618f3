"""Stopping early: the answer of the full protocol for fewer inferences."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from darwin_neg_cpp.protocols.sampler import Job, Output
from scripted_candidates import Scripted, answered, question, saying, shown, voters


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.sampled_from([2, 3, 3]))
def test_early_stop_gives_the_full_protocols_answer_in_any_order_of_completion(
    seed: int, n: int, agreement: float, mode: int
) -> None:
    """Early stop must not change the answer when the same candidates come in other orders and groups.

    Each text is a function of its prompt, seed and number.
    """
    asked = question(n)

    def text(job: Job, k: int) -> str:
        rng = random.Random(f"{seed} {job.prompt} {job.seed} {k}")
        offered = shown(job.prompt)
        favourite = min(offered)
        roll = rng.random()
        return saying(job, favourite if roll < agreement else None if roll > 0.95 else rng.choice(offered))

    rng = random.Random(seed)
    full = answered(Scripted(text, rng.random()), mode, asked, early_stop=False)  # type: ignore[arg-type]
    assert (full.stopped, full.cost.saved) == ("complete", 0)
    assert full.cost.started == full.cost.finished == full.cost.planned == len(full.candidates)
    for late, group in ((0.0, 1), (0.0, 5), (0.5, 3)):
        sampler = Scripted(text, rng.random(), late, group)  # type: ignore[arg-type]
        early = answered(sampler, mode, asked)
        assert early.choice == full.choice
        assert early.second_opinions == full.second_opinions
        # what would have been run, what was, and what was not
        assert early.cost.planned == full.cost.planned == len(early.candidates)
        ended = [candidate for candidate in early.candidates if candidate.finish_reason != "cancelled"]
        assert early.cost.finished == len(ended) and early.cost.saved == len(early.candidates) - len(ended)
        assert early.cost.started == sum(candidate.tokens > 0 for candidate in early.candidates)
        assert early.cost.completion_tokens == sum(candidate.tokens for candidate in early.candidates)
        assert (early.stopped == "certain") == bool(sampler.cancelled)
        for one in ended:
            same = dataclasses.replace(full.candidates[one.number], counted=one.counted)
            assert one == same
        votes = [
            sum(candidate.counted and candidate.choice == choice for candidate in early.candidates)
            for choice in range(n)
        ]
        assert list(early.votes) == votes
        assert all(candidate.choice is None for candidate in early.candidates if candidate.finish_reason == "cancelled")


def test_unanimous_votes_are_certain_after_ten_of_twenty_and_two_of_four() -> None:
    """16 candidates and 4 second opinions: 10 votes against at most 10, all 4 greedy ones among them."""

    class InOrder(Scripted):
        def wait(self) -> list[tuple[int, int, Output]]:
            first = min(self._running, key=lambda one: (one[1], one[0]))  # greedy first
            self._running.remove(first)
            return [(*first, self._output(*first))]

    out = answered(InOrder(voters("1" * 16)))
    assert (out.choice, out.stopped, out.votes) == (1, "certain", (0, 10, 0, 0))
    assert (out.cost.planned, out.cost.finished, out.cost.saved) == (16, 10, 6)
    # of 4 orderings two agree, the one with the lowest number among them: it also wins a tie
    out = answered(InOrder(voters("1" * 4)), 2)
    assert (out.votes, out.cost.finished, out.cost.saved) == ((0, 2, 0, 0), 2, 2)


def test_a_candidate_that_had_ended_when_it_was_cancelled_is_kept_and_not_counted() -> None:
    out = answered(Scripted(voters("1" * 16), late=1.0))
    late = [candidate for candidate in out.candidates if not candidate.counted]
    assert late and all((candidate.finish_reason, candidate.choice) == ("stop", 1) for candidate in late)
    assert out.stopped == "certain" and out.cost.saved == 0 and out.cost.finished == 16
    assert out.votes[1] == 16 - len(late)
