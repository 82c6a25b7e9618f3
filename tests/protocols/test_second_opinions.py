"""Second opinions: when they are asked for, of whom, and with which arguments."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from darwin_neg_cpp import ContextFullError
from darwin_neg_cpp.protocols import ModeConfig
from darwin_neg_cpp.protocols.sampler import Job
from scripted_candidates import SECOND, Scripted, answered, shown, voters


def test_second_opinions_are_asked_of_the_two_leaders_with_an_extract_of_each() -> None:
    sampler = Scripted(voters("1112" + "2223" + "1133" + "1230", "2222"))
    out = answered(sampler, early_stop=False)
    first = "1112" + "2223" + "1133" + "1230"
    assert [first.count(c) for c in "0123"] == [1, 6, 5, 4]
    assert out.second_opinions == 4 and out.cost.planned == 20
    pair, turned = [job for job in sampler.jobs if job.prompt.startswith(SECOND)]
    assert shown(pair.prompt) == ["text of choice 1", "text of choice 2"]
    assert shown(turned.prompt) == ["text of choice 2", "text of choice 1"]
    assert "An argument for A: Reason for 1.\n\nB) text of choice 2\nAn argument for B: Reason for 2." in pair.prompt
    assert "An argument for A: Reason for 2." in turned.prompt
    assert pair.temperatures == turned.temperatures == (0.0, 0.7) and pair.neg
    assert len({job.seed for job in sampler.jobs}) == 6
    assert (out.choice, out.votes) == (2, (1, 6, 9, 4))
    assert [candidate.kind for candidate in out.candidates] == ["first"] * 16 + ["second opinion"] * 4
    assert [candidate.temperature for candidate in out.candidates[16:]] == [0.0, 0.0, 0.7, 0.7]


def test_extracts_are_cut_until_a_second_opinion_fits_the_context() -> None:
    class Narrow(Scripted):
        longest = 0

        def start(self, jobs: Sequence[Job]) -> list[int]:
            if max(len(job.prompt) for job in jobs) > self.longest:
                raise ContextFullError("prompt has too many tokens")
            return super().start(jobs)

    def reasoned(job: Job, k: int) -> str:
        return "Because of reasons. " * 40 + voters("1122" * 4, "1111")(job, k)

    wide = Scripted(reasoned)
    answered(wide, early_stop=False)
    whole = max(len(job.prompt) for job in wide.jobs if job.prompt.startswith(SECOND))
    narrow = Narrow(reasoned)
    narrow.longest = whole - 500
    assert answered(narrow, early_stop=False).second_opinions == 4
    cut = [len(job.prompt) for job in narrow.jobs if job.prompt.startswith(SECOND)]
    assert len(cut) == 2 and all(whole - 1200 < length <= narrow.longest for length in cut)
    narrow = Narrow(reasoned)
    narrow.longest = max(len(job.prompt) for job in wide.jobs if not job.prompt.startswith(SECOND))
    if narrow.longest < whole - 1200:
        with pytest.raises(ContextFullError, match="question"):
            answered(narrow, early_stop=False)


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        ("1" * 16, 0),  # all agree
        ("1" * 11 + "2" * 5, 0),  # a lead of 6 stands against 4
        ("1" * 10 + "2" * 6, 0),  # a lead of 4: equal at best, and 4 greedy votes against 2
        ("2" * 4 + "1" * 8 + "2" * 2 + "1" * 2, 4),  # a lead of 4, but the greedy votes are the rival's
        ("1122" + "1" * 8 + "2" * 4, 4),  # a lead of 4, equal in greedy votes, which 2 second opinions would add to
        ("1" * 9 + "2" * 7, 4),
        ("1" * 8 + "2" * 8, 4),
        ("1" + "-" * 15, 0),  # nobody else has a vote
        ("1" + "2" + "-" * 14, 4),
        ("-" * 16, 0),
    ],
)
def test_second_opinions_are_asked_only_where_the_pool_has_not_decided(first: str, asked: int) -> None:
    for early_stop in (False, True):
        out = answered(Scripted(voters(first, "1111")), early_stop=early_stop)
        assert out.second_opinions == asked


@pytest.mark.parametrize(
    ("count", "temperatures"), [(0, []), (1, [1]), (2, [1, 1]), (3, [2, 1]), (4, [2, 2]), (7, [4, 3])]
)
def test_so_many_second_opinions_are_asked_as_configured(count: int, temperatures: list[int]) -> None:
    sampler = Scripted(voters("1122" * 4, "1" * 8))
    out = answered(sampler, config=ModeConfig(second_opinions=count), early_stop=False)
    asked = [job for job in sampler.jobs if job.prompt.startswith(SECOND)]
    assert [len(job.temperatures) for job in asked] == temperatures
    assert all(job.temperatures[0] == 0 and all(job.temperatures[1:]) for job in asked)
    assert out.second_opinions == count and len(out.candidates) == 16 + count
    assert [candidate.number for candidate in out.candidates] == list(range(16 + count))
