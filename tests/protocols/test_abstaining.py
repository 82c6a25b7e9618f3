"""Answers that are withheld because the model is unsure, and say why."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.protocols.escalation import needs_true_entropy
from darwin_neg_cpp.protocols.modes import ModeConfig
from darwin_neg_cpp.protocols.runner import answer_any, answer_many
from darwin_neg_cpp.protocols.sampler import Job, Output
from scripted_candidates import question
from scripted_sampler import ScriptedSampler, said

QUESTIONS = [question(4, f"q{i}") for i in range(3)]


def rising(job: Job, k: int) -> Output:
    """Question i has entropy i / 2, to its letter's third."""
    return said("well\nAnswer: B", entropy=int(str(job.key[0])) / 2)


@pytest.mark.parametrize("mode", [0, 1, 2, 3, "auto"])
def test_what_lies_above_is_withheld_and_says_why(mode: int) -> None:
    free = answer_many(ScriptedSampler(say=rising), QUESTIONS, mode)
    answers = answer_many(ScriptedSampler(say=rising), QUESTIONS, mode, abstain_above=0.5)
    assert all(one.choice is not None and one.abstained is None for one in free)
    assert [one.choice is None for one in answers] == [False, False, True], "a threshold is not above itself"
    last = answers[2]
    assert last.abstained == "mean predicted entropy 1 is above 0.5"
    assert (last.letter, last.text) == ("", None)
    assert (last.votes, last.margin) == (free[2].votes, free[2].margin), "what was found is still there"
    found = json.loads(json.dumps(last.as_dict()))
    assert found["abstained"] == last.abstained and found["choice"] is None
    assert free[0].as_dict()["abstained"] is None


def test_any_signal_can_be_the_measure() -> None:
    (letter,) = answer_many(
        ScriptedSampler(say=rising), QUESTIONS[1:2], 1, abstain_above=0.1, abstain_signal="letter_logprob"
    )
    assert letter.choice is not None, "this question is the first of its list"
    *_, last = answer_many(
        ScriptedSampler(say=rising), QUESTIONS, 1, abstain_above=0.9, abstain_signal="letter_logprob"
    )
    assert last.abstained == "minus log-probability of the letter 1 is above 0.9"


def test_an_answer_that_nobody_can_read_is_not_called_an_abstention() -> None:
    one = answer_any(ScriptedSampler(say=lambda job, k: said("hm")), QUESTIONS[0], 1, abstain_above=0.0)
    assert not isinstance(one, list) and one.choice is None and one.abstained is None


def test_without_the_signal_it_is_refused_and_without_the_letters_token_withheld() -> None:
    def blind(job: Job, k: int) -> Output:
        return dataclasses.replace(said("Answer: A"), mean_entropy=None, signals=None)

    with pytest.raises(
        RequestError, match=r"abstain_signal 'mean_entropy' \(.*\) is not known of this model's answers"
    ):
        answer_any(ScriptedSampler(say=blind), QUESTIONS[0], 1, abstain_above=1.0)
    with pytest.raises(RequestError, match="there is none"):
        answer_any(ScriptedSampler(say=blind), QUESTIONS[0], 1, abstain_above=1.0, abstain_signal="letter_entropy")
    signals = said("no letter").signals
    unplaced = ScriptedSampler(say=lambda job, k: dataclasses.replace(said("Answer: A"), signals=signals))
    one = answer_any(unplaced, QUESTIONS[0], 1, abstain_above=1.0, abstain_signal="letter_entropy")
    assert not isinstance(one, list) and one.abstained is not None and "is not known" in one.abstained


@pytest.mark.parametrize("signal", ["true_mean_entropy", "true_letter_entropy"])
def test_a_signal_that_is_not_known_is_an_error_of_the_first_answer_and_says_which_are(signal: str) -> None:
    sampler = ScriptedSampler(say=rising)
    with pytest.raises(RequestError) as error:
        answer_many(sampler, QUESTIONS, 1, abstain_above=1.0, abstain_signal=signal, in_flight=1)
    assert str(error.value).endswith(
        "choose one of those that are: mean_entropy, max_entropy, last_quarter_entropy, letter_entropy, "
        "letter_logprob, logprob"
    )
    assert len(sampler.jobs) == 1


def test_true_entropies_are_recorded_where_they_decide_and_only_there() -> None:
    plain, by_true = ModeConfig(), ModeConfig(auto_signal="true_max_entropy")
    assert needs_true_entropy(["auto"], by_true) and needs_true_entropy([1, "auto"], by_true)
    assert not needs_true_entropy([1, 3], by_true) and not needs_true_entropy(["auto"], plain)
    assert needs_true_entropy([1], plain, 0.0, "true_mean_entropy")
    assert not needs_true_entropy([1], plain, None, "true_mean_entropy")
    assert not needs_true_entropy([1], plain, 0.5, "logprob")


@pytest.mark.parametrize(
    ("above", "signal", "words"),
    [
        (-1, "mean_entropy", "abstain_above must be at least 0"),
        (float("nan"), "mean_entropy", "abstain_above must be a finite number"),
        ("much", "mean_entropy", "abstain_above must be a number"),
        (None, "entropy", "abstain_signal must be 'mean_entropy'"),
    ],
)
def test_bad_thresholds_are_refused_before_anything_is_asked(above: float, signal: str, words: str) -> None:
    sampler = ScriptedSampler()
    with pytest.raises(RequestError, match=re.escape(words)):
        answer_any(sampler, QUESTIONS[0], 1, abstain_above=above, abstain_signal=signal)
    assert not sampler.jobs
