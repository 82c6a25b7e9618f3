"""Mode auto: the candidates of mode 3, as far as the model is unsure, and no others."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.protocols import Answer, Candidate, ModeConfig, Question, Task, plan, run
from darwin_neg_cpp.protocols.modes import Mode
from darwin_neg_cpp.protocols.sampler import Job, Output
from scripted_candidates import question
from scripted_sampler import ScriptedSampler, noisy, said

QUESTIONS = [question(n, f"q{n}-{i}") for n in (2, 3, 4, 7) for i in range(12)]
NEVER, ALWAYS = 0.0, math.inf


def answered(
    asked: Question, mode: Mode, sampler: ScriptedSampler | None = None, *, early_stop: bool = False, **options: Any
) -> Answer:
    config = ModeConfig(**options)
    ((_, out),) = run(sampler or ScriptedSampler(), [Task(asked, plan(mode, config))], config, early_stop=early_stop)
    return out


def timeless(answer: Answer) -> dict[str, Any]:
    """Everything but the protocol's name and the time."""
    cost = dataclasses.replace(answer.cost, seconds=0)
    found = dataclasses.asdict(dataclasses.replace(answer, cost=cost))
    del found["protocol"]
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"samples": 0}, {"orderings": 1}, {"orderings": 1, "samples": 0}, {"second_opinions": 0}]
)
def test_thresholds_of_zero_are_mode_3_candidate_for_candidate(settings: dict[str, int]) -> None:
    asked_again = 0
    for asked in QUESTIONS:
        auto = answered(asked, "auto", auto_first_threshold=NEVER, auto_second_threshold=NEVER, **settings)
        assert timeless(auto) == timeless(answered(asked, 3, **settings))
        asked_again += auto.second_opinions > 0
    assert asked_again > 0 or settings == {"second_opinions": 0} or settings.get("orderings") == 1


def test_infinite_thresholds_are_mode_1_candidate_for_candidate() -> None:
    for asked in QUESTIONS:
        auto = answered(asked, "auto", auto_first_threshold=ALWAYS, auto_second_threshold=NEVER)
        assert timeless(auto) == timeless(answered(asked, 1))


def test_between_the_two_it_is_mode_2_candidate_for_candidate() -> None:
    for asked in QUESTIONS:
        auto = answered(asked, "auto", auto_first_threshold=NEVER, auto_second_threshold=ALWAYS)
        assert timeless(auto) == timeless(answered(asked, 2))


@pytest.mark.parametrize("shuffle", [None, 1, 2])
@pytest.mark.parametrize("early_stop", [False, True])
def test_each_question_gets_what_its_own_uncertainty_calls_for(shuffle: int | None, early_stop: bool) -> None:
    """By a plain reading of the rule, whatever the order in which candidates end."""
    reached = set()
    first, second = 0.4, 0.5
    for asked in QUESTIONS:
        sampler = ScriptedSampler(shuffle=shuffle)
        auto = answered(
            asked, "auto", sampler, early_stop=early_stop, auto_first_threshold=first, auto_second_threshold=second
        )
        one, two, three = (answered(asked, mode) for mode in (1, 2, 3))
        if one.choice is not None and unsure(one) < first:
            expected, stage = one, 1
        elif two.choice is not None and unsure(two) < second:
            expected, stage = two, 2
        else:
            expected, stage = three, 3
        assert auto.choice == expected.choice
        reached.add(stage)
        if not early_stop:
            assert timeless(auto) == timeless(expected)
            # nothing was generated twice
            assert len(set(sampler.said)) == len(sampler.said) == expected.cost.planned
    assert reached == {1, 2, 3}


def unsure(answer: Answer) -> float:
    votes = [c.mean_entropy for c in answer.candidates if c.choice == answer.choice]
    return math.fsum(vote for vote in votes if vote is not None) / len(votes)


def test_with_early_stop_zero_thresholds_give_mode_3s_answers_for_no_more_candidates() -> None:
    for asked in QUESTIONS:
        auto = answered(asked, "auto", early_stop=True, auto_first_threshold=NEVER, auto_second_threshold=NEVER)
        full = answered(asked, 3)
        assert auto.choice == full.choice and auto.cost.started <= full.cost.finished
        by_number = {candidate.number: candidate for candidate in full.candidates}
        ended = [one for one in auto.candidates if one.finish_reason != "cancelled"]
        assert ended and all(strip(one) == strip(by_number[one.number]) for one in ended)


def strip(candidate: Candidate) -> Candidate:
    return dataclasses.replace(candidate, counted=True)


def test_an_answer_that_cannot_change_any_more_ends_it() -> None:
    """Of two orderings the second could only tie, which the first wins; so it is not asked."""
    agree = answered(
        question(2), "auto", ScriptedSampler(say=lambda job, k: votes_for(job, "text of choice 1")), early_stop=True,
        samples=0, second_opinions=0, auto_first_threshold=NEVER, auto_second_threshold=NEVER,
    )  # fmt: skip
    assert agree.choice == 1 and agree.cost.planned == 1 and agree.stopped == "certain"
    # with mode 3's samples to come it could change, so they are asked until it cannot
    more = answered(
        question(2), "auto", ScriptedSampler(say=lambda job, k: votes_for(job, "text of choice 1")), early_stop=True,
        auto_first_threshold=NEVER, auto_second_threshold=NEVER,
    )  # fmt: skip
    assert more.cost.planned == 8 and more.cost.finished < 8 and more.stopped == "certain"


def votes_for(job: Job, choice: str) -> Output:
    letter = next(line[0] for line in job.prompt.splitlines() if line[3:] == choice)
    return said(f"word\nAnswer: {letter}")


def test_what_cannot_be_read_is_not_sure() -> None:
    auto = answered(
        question(4), "auto", ScriptedSampler(say=lambda job, k: said("no idea", entropy=0.0)),
        auto_first_threshold=5.0, auto_second_threshold=5.0,
    )  # fmt: skip
    assert auto.choice is None and auto.cost.planned == 16


def test_a_signal_that_the_model_does_not_give_is_an_error_that_names_the_question_and_the_remedy() -> None:
    def blind(job: Job, k: int) -> Output:
        return dataclasses.replace(
            noisy(job, k), text="x\nAnswer: A", finish_reason="stop", mean_entropy=None, signals=None
        )

    for asked, options in ((QUESTIONS[0], {}), (QUESTIONS[5], {"auto_signal": "logprob"})):
        with pytest.raises(
            RequestError, match=r"auto_signal '\w+' \(.*\) is not known of this model's answers; choose"
        ):
            answered(asked, "auto", ScriptedSampler(say=blind), **options)
    # where only the letter's token is missing, the answer is not sure
    unplaced = ScriptedSampler(say=lambda job, k: dataclasses.replace(said("Answer: A"), signals=said("x").signals))
    assert answered(QUESTIONS[0], "auto", unplaced, auto_signal="letter_entropy").cost.planned > 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auto_first_threshold": -0.1}, "auto_first_threshold must be at least 0"),
        ({"auto_second_threshold": float("nan")}, "auto_second_threshold must be a finite number"),
        ({"auto_first_threshold": -math.inf}, "auto_first_threshold must be"),
        ({"auto_signal": "entropy"}, "auto_signal must be 'mean_entropy'"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)):
        ModeConfig(**options)


def test_stages_are_all_of_the_plan() -> None:
    config = ModeConfig()
    stages = plan("auto", config).stages(3)
    assert [len(stage) for stage in stages] == [1, 2, 9]
    assert [*stages[0], *stages[1], *stages[2]] == plan(3, config).stages(3)[0]
