"""Questions, and the orders in which their choices are shown."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.protocols import Question, prompts
from darwin_neg_cpp.protocols.question import LETTERS, choice_at, letters, orderings
from scripted_candidates import question, shown


@pytest.mark.parametrize("n", range(2, 27))
def test_over_n_rotations_every_choice_stands_at_every_letter_once(n: int) -> None:
    found = orderings(question(n), n, 0)
    assert len(found) == n
    for ordering in found:
        assert sorted(ordering) == list(range(n))
    for place in range(n):
        assert sorted(ordering[place] for ordering in found) == list(range(n))


@pytest.mark.parametrize("n", range(2, 27))
def test_four_orderings_are_distinct_and_put_no_choice_at_a_letter_twice(n: int) -> None:
    found = orderings(question(n), 4, 0)
    assert len(set(found)) == len(found) == min(4, n)
    for place in range(n):
        assert len({ordering[place] for ordering in found}) == len(found)
    # spread over the letters rather than neighbours
    places = sorted(ordering.index(0) for ordering in found)
    gaps = [b - a for a, b in itertools.pairwise([*places, places[0] + n])]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("n", range(2, 27))
def test_a_letter_means_the_choice_that_the_prompt_shows_there(n: int) -> None:
    asked = question(n)
    for form, ordering in itertools.product(prompts.PROMPTS.values(), orderings(asked, 4, 3)):
        texts = shown(form(asked, ordering))
        assert len(texts) == n
        for letter, text in zip(letters(ordering), texts, strict=True):
            index = choice_at(ordering, letter)
            assert index is not None and asked.choices[index] == text
    assert choice_at(ordering, "") is None
    assert choice_at(ordering, "AB") is None
    assert n == 26 or choice_at(ordering, LETTERS[n]) is None


def test_the_base_order_is_drawn_from_seed_and_id_and_not_from_the_order_given() -> None:
    def order(asked: Question, seed: int = 0) -> list[str]:
        return [asked.choices[i] for i in orderings(asked, 1, seed)[0]]

    asked = question(6)
    assert order(asked) == order(question(6))
    assert len({tuple(order(question(6, f"q{i}"))) for i in range(30)}) > 20
    assert len({tuple(order(asked, seed)) for seed in range(30)}) > 20
    for id in ("q", ""):
        turned = Question(asked.stem, tuple(reversed(asked.choices)), id)
        assert order(turned) == order(dataclasses.replace(asked, id=id))


def test_every_choice_comes_first_equally_often_over_many_questions() -> None:
    first = [orderings(question(4, str(i)), 1, 0)[0][0] for i in range(2000)]
    assert all(400 < first.count(choice) < 600 for choice in range(4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": " "}, "question 'x': has no text"),
        ({"stem": 3}, "has no text"),
        ({"choices": ("a",)}, "has 1 choices; give 2 to 26"),
        ({"choices": tuple(map(str, range(27)))}, "has 27 choices"),
        ({"choices": ("a", " ")}, "has an empty choice"),
        ({"choices": ("a", 3)}, "has an empty choice"),
        ({"choices": ("a", "b", "a ")}, "has the same choice twice"),
        ({"choices": "abc"}, "choices must be a list of texts, got str"),
        ({"choices": 3}, "choices must be a list of texts, got int"),
        ({"id": 3}, "id must be text"),
        ({"stem": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as error:
        Question(**{"stem": "stem", "choices": ("a", "b"), "id": "x", **fields})
    assert "\n" not in str(error.value)
