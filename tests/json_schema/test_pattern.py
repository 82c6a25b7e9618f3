"""Automata of expressions and of numbers, compared with Python's re and decimal on all short texts."""

from __future__ import annotations

import itertools
import random
import re
from decimal import Decimal

import pytest

from darwin_neg_cpp.json_schema import decimals
from darwin_neg_cpp.json_schema.decimals import Bound
from darwin_neg_cpp.json_schema.formats import FORMATS
from darwin_neg_cpp.json_schema.pattern import Automaton, automaton
from schema_cases import is_date

TEXTS = ["".join(text) for n in range(5) for text in itertools.product("abcA1", repeat=n)]


def accepts(one: Automaton, text: str) -> bool:
    states, at_start = {one.start}, True
    for character in text:
        steps = [step for state in states for step in one.closure(state, at_start=at_start)[0]]
        states = {target for ranges, target in steps if any(low <= ord(character) <= high for low, high in ranges)}
        at_start = False
    return any(one.closure(state, at_start=at_start)[1] for state in states)


@pytest.mark.parametrize(
    "expression",
    [
        *(r"\d{4}", r"^\d{2}$", "(?i)abc", "^a|b$", "^(a|b){2,3}$", "a*", "(ab)*c?", "^(?:a|ab)(c|bcd)$", "^$", ""),
        *("[^a]", "^[a-c]+$", "(^a|^b)$", "^a{0}b$", "(a{0,2}b){1,2}$", "^.{2}$", "b?c+?", "^(a*)*$", "^(a?){3}$"),
        *("^(a|b|)c*$", "a{2,}b", r"^\w\D$", r"\Aa\Z", "(?P<name>a)b", r"^[\d-]$", r"^\x61[^\W\d]$", "^[]a]$|b"),
    ],
)
def test_an_automaton_accepts_what_re_finds(expression: str) -> None:
    if "[]" in expression:  # a class that begins with ] is empty in JavaScript, whose dialect schemas are written in
        expression = expression.replace("[]a]", r"[\]a]")
    one = automaton(expression)
    assert [text for text in TEXTS if accepts(one, text) != bool(re.search(expression, text))] == []


def test_two_escapes_of_a_surrogate_pair_are_one_character() -> None:
    for expression in (r"^\ud83d\ude00$", r"^[\uD83D\uDE00-\uD83D\uDE02]$", r"^\u{1f600}$"):
        assert accepts(automaton(expression), "😀") and not accepts(automaton(expression), "😎"), expression


def test_a_date_is_one_of_the_calendar() -> None:
    one = automaton(f"^({FORMATS['date']})$")
    for year in (0, 4, 1900, 1996, 2000, 2023, 2024, 2100, 9996):
        for month, day in itertools.product(range(14), range(34)):
            text = f"{year:04}-{month:02}-{day:02}"
            assert accepts(one, text) == is_date(text), text


def test_numbers_are_compared_as_decimal_does() -> None:
    rng = random.Random(1)
    numbers = [
        *map(str, range(-120, 121)),
        *(f"{k / 100:.2f}" for k in range(-1200, 1200, 13)),
        "1.000",
        "100.25",
        "1005",
    ]
    bounds = [
        None,
        *(
            Bound(Decimal(text), strict)
            for text in ["0", "7", "105", "-105", "10", "-5", "0.05", "3.25", "-9.9"]
            for strict in (0, 1)
        ),
    ]
    for _ in range(40):
        low, high = rng.choice(bounds), rng.choice(bounds)
        automata = decimals.in_range(low, high, whole=False)
        for text in numbers:
            value = Decimal(text)
            expected = low is None or (value > low.value if low.strict else value >= low.value)
            expected &= high is None or (value < high.value if high.strict else value <= high.value)
            assert all(accepts(one, text) for one in automata) == expected, (low, high, text)


@pytest.mark.parametrize("step", ["1", "3", "7", "0.5", "0.25", "0.01", "2.5", "10", "0.3"])
def test_multiples_are_those_of_exact_arithmetic(step: str) -> None:
    one = decimals.multiples(Decimal(step))
    for hundredths in range(-1200, 1200, 7):
        text = f"{hundredths / 100:.2f}"
        assert accepts(one, text) == (Decimal(text) % Decimal(step) == 0), text
