"""What a candidate tells about its own certainty: against plain arithmetic, and on a real model against its scores."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest

from answer_shapes import FURTHER, HELD_OUT, SHAPES, WRITTEN_FIRST
from conftest import SmolLM2
from darwin_neg_cpp import DarwinNEG, ModeConfig, Question
from darwin_neg_cpp.errors import RequestError
from darwin_neg_cpp.protocols import plan
from darwin_neg_cpp.protocols.extract import extract, find_letter
from darwin_neg_cpp.protocols.prompts import direct
from darwin_neg_cpp.protocols.runner import answer
from darwin_neg_cpp.protocols.sampler import EngineSampler
from darwin_neg_cpp.protocols.signals import SIGNALS, Signals, check_signal, measure, token_at, uncertainty

ALL = [(row[1], row[2]) for row in SHAPES] + [(row[2], "ABCD") for row in (*WRITTEN_FIRST, *HELD_OUT, *FURTHER)]
# circled, full-width and the like: the letter is in a character that is not one of A to Z
COMPOSED = 12


def test_the_place_of_the_letter_is_where_that_letter_stands() -> None:
    """In every shape of an answer that is known, hidden reasoning before it or not."""
    elsewhere = []
    for text, offered in ALL:
        letter = extract(text, offered).letter
        for whole in (text, f"<think>Answer: A? B? C? D?</think>{text}"):
            if "think>" in text and whole is not text:
                continue  # it closes a reasoning of its own
            place = find_letter(whole, offered)
            assert (place is None) == (not letter), text
            if place is not None and whole[place].upper() != letter:
                elsewhere.append(text)
    assert len(elsewhere) <= COMPOSED, elsewhere


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("A and B are close.\nAnswer: B", 27),
        ("Answer: (B) B is a base.", 9),
        ("B is correct. Not B alone.", 0),
        ("**Answer: \\boxed{B}**", 17),
        ("Answer: A\n</think>\n\nAnswer: B", 28),
        ("<think>B</think>So\n<think>A</think>\nAnswer: B", 44),
        ("no letter", None),
    ],
)
def test_places_counted_by_hand(text: str, place: int | None) -> None:
    assert find_letter(text, "ABCD") == place
    assert place is None or text[place] == "B"


def test_signals_are_those_of_plain_arithmetic() -> None:
    pieces = ["Well", ", ", "", "no. ", "Answer", ":", " B", ""]
    text = "".join(pieces)
    rng = random.Random(1)
    entropy, logprobs, true = ([rng.random() for _ in pieces] for _ in range(3))
    found = measure(text, pieces, "ABCD", entropy=entropy, logprobs=[-x for x in logprobs], true_entropy=true)
    last = len(pieces) // 4
    assert found == Signals(
        max_entropy=max(entropy),
        last_quarter_entropy=pytest.approx(sum(entropy[-last:]) / last),
        letter_entropy=entropy[6],
        letter_logprob=-logprobs[6],
        logprob=pytest.approx(-math.fsum(logprobs)),
        true_mean_entropy=pytest.approx(math.fsum(true) / len(pieces)),
        true_max_entropy=max(true),
        true_last_quarter_entropy=pytest.approx(sum(true[-last:]) / last),
        true_letter_entropy=true[6],
    )
    assert uncertainty("letter_logprob", None, found) == logprobs[6]
    assert uncertainty("max_entropy", 0.5, found) == max(entropy) and uncertainty("mean_entropy", 0.5, None) == 0.5
    assert uncertainty("logprob", 0.5, None) is None


def test_what_is_missing_is_none_and_never_a_number() -> None:
    assert measure("Answer: B", ["Answer: B"], "ABCD") == Signals()
    assert measure("no", ["no"], "ABCD", entropy=[1.0]) == Signals(max_entropy=1.0, last_quarter_entropy=1.0)
    assert measure("", [], "ABCD", entropy=[], logprobs=[]) == Signals()
    assert measure("Answer: B", ["Answer: B"], "ABCD", entropy=[float("nan")]) == Signals()
    # the prompt has opened a reasoning, which nothing closes: no letter is an answer
    assert measure("Answer: B", ["Answer: B"], "ABCD", entropy=[1.0], opened="<think>").letter_entropy is None


@pytest.mark.parametrize(("place", "token"), [(-1, None), (0, 0), (1, 0), (2, 2), (3, 3), (5, 3), (6, None)])
def test_a_token_whose_text_comes_later_holds_no_character(place: int, token: int | None) -> None:
    assert token_at(["ab", "", "c", "def"], place) == token


def test_a_signal_that_is_none_is_refused_by_name() -> None:
    assert {name for name in SIGNALS if name != "mean_entropy"} == {f.name for f in dataclasses.fields(Signals)}
    with pytest.raises(RequestError, match=r"auto_signal must be .*mean_entropy.*, got 'entropy'"):
        check_signal("auto_signal", "entropy")


def test_on_a_real_model_they_are_those_of_the_generation(smollm2: SmolLM2) -> None:
    question = Question("What is the capital of France?", ("Paris", "London", "Rome", "Madrid"), "france")
    config = ModeConfig(prompt="direct", max_tokens=12)
    with DarwinNEG(smollm2.model, n_ctx=1024, n_parallel=1, prefix_cache=0) as llm:
        found = answer(EngineSampler(llm.session, true_entropy=True), question, 1, config=config)
        plain = answer(EngineSampler(llm.session), question, 1, config=config).candidates[0]
        (candidate,) = found.candidates
        assert plan(1, config).neg and candidate.choice is not None
        prompt = [{"role": "user", "content": direct(question, candidate.ordering)}]
        reply = llm.chat(prompt, max_tokens=12, temperature=0.0, logprobs=0, true_entropy=True, enable_thinking=False)
    generation = reply.generation
    assert generation.token_ids.tolist() == list(candidate.token_ids)
    assert generation.neg is not None and generation.logprobs is not None and candidate.signals is not None
    entropy, chosen = generation.neg.entropy, generation.logprobs.chosen
    at = next(k for k in reversed(range(len(entropy))) if generation.pieces[k].strip() == candidate.letter)
    signals = candidate.signals
    assert signals.max_entropy == pytest.approx(entropy.max()) and candidate.mean_entropy == pytest.approx(
        entropy.mean()
    )
    assert signals.letter_entropy == pytest.approx(entropy[at]) and signals.letter_logprob == pytest.approx(chosen[at])
    assert signals.logprob == pytest.approx(chosen.astype(np.float64).sum(), rel=1e-6)
    true = generation.true_entropy
    assert true is not None and signals.true_letter_entropy == pytest.approx(true[at])
    assert signals.true_mean_entropy == pytest.approx(true.mean(dtype=np.float64), rel=1e-6)
    assert (signals.true_max_entropy, plain.signals.true_max_entropy) == (pytest.approx(true.max()), None)
    assert plain.token_ids == candidate.token_ids, "recording them changes nothing"
