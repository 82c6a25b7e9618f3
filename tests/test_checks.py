"""Checks of arguments: what passes, what is refused, and that the error names the argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.checks import (
    MAX_FLOAT32,
    MAX_JSON_DEPTH,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    encode,
    encode_all,
    json_object_text,
    json_text,
)


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_whole_numbers_of_python_and_numpy_pass_as_int(value: Any) -> None:
    got = check_integer("x", value, low=0, high=3)
    assert (got, type(got)) == (3, int)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2)])
def test_numbers_of_python_and_numpy_pass_as_float(value: Any) -> None:
    got = check_number("x", value, low=0.5, high=1)
    assert (got, type(got)) == (0.5, float)


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: check_integer("x", True, low=0), "x must be a whole number, got True"),
    (lambda: check_integer("x", 1.0, low=0), "x must be a whole number, got 1.0"),
    (lambda: check_integer("x", "1", low=0), "x must be a whole number, got '1'"),
    (lambda: check_integer("x", 2**31, low=0), "x must be between 0 and 2147483647, got 2147483648"),
    (lambda: check_integer("x", np.int64(-1), low=0, hint=" (or not)"), "between 0 and 2147483647 (or not), got"),
    (lambda: check_integer("x", 10**5000, low=0), "x must be between 0 and 2147483647, got int"),
    (lambda: check_number("x", 10**400), "x must be a finite number, got 1000"),
    (lambda: check_number("x", -(10**400), infinite=(-math.inf,)), "x must be a finite number, got -1000"),
    (lambda: check_number("x", 10**5000), "x must be a finite number, got int"),
    (lambda: check_number("x", math.nan, infinite=(math.inf,)), "x must be a finite number, got nan"),
    (lambda: check_number("x", math.inf, infinite=(-math.inf,)), "x must be a finite number, got inf"),
    (lambda: check_number("x", False), "x must be a number, got False"),
    (lambda: check_number("x", 1j), "x must be a number, got 1j"),
    (lambda: check_number("x", 0, above=0), "x must be a number above 0, got 0"),
    (lambda: check_number("x", 1.5, low=0, high=1), "x must be between 0 and 1, got 1.5"),
    (lambda: check_number("x", -1, low=0), "x must be at least 0, got -1"),
    (lambda: check_number("x", 1e39), "x must be a number that float32 can hold (at most 3.4e38), got 1e+39"),
    (lambda: check_number("x", np.float64(-1e300)), "x must be a number that float32 can hold"),
    (lambda: check_integer("x", 10**5000, low=0), "x must be between 0 and 2147483647, got int"),
    (lambda: check_flag("x", 1), "x must be True or False, got 1"),
    (lambda: check_flag("x", np.int8(1)), "x must be True or False"),
    (lambda: check_flag("x", "True"), "x must be True or False, got 'True'"),
    (lambda: check_choice("x", "c", ["a", "b"]), "x must be 'a' or 'b', got 'c'"),
    (lambda: check_choice("x", [], ["a", "b"]), "x must be 'a' or 'b', got []"),
    (lambda: encode("x", b"a"), "x must be text (str), got bytes"),
    (lambda: encode("x", "a\udc00"), "x holds a lone surrogate at character 1"),
    (lambda: encode_all("x", {"a": 1}), "x must be a string or a list of strings"),
    (lambda: encode_all("x", ["a", 1]), "x must be text (str), got int"),
    (lambda: json_object_text("x", "{"), "x is not valid JSON"),
    (lambda: json_object_text("x", "[1]"), "x must be a dict or the JSON text of one, got list"),
]


@pytest.mark.parametrize(("check", "message"), REFUSED)
def test_what_is_refused_is_named_in_one_short_line(check: Callable[[], Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        check()
    assert message in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 200


def test_flags_of_python_and_numpy_pass_as_bool() -> None:
    for value in (True, np.True_, False, np.False_):
        assert check_flag("x", value) is bool(value)


def test_the_largest_number_of_float32_passes() -> None:
    largest = float(np.finfo(np.float32).max)
    assert (largest, check_number("x", largest), check_number("x", -largest)) == (MAX_FLOAT32, largest, -largest)


def test_json_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    value: Any = 1
    for _ in range(MAX_JSON_DEPTH - 1):
        value = [value]
    assert json_text("x", value).count("[") == MAX_JSON_DEPTH - 1
    with pytest.raises(RequestError, match="nested deeper"):
        json_text("x", [value])


def test_infinities_pass_where_they_are_meant_to_be_possible() -> None:
    assert check_number("x", -math.inf, infinite=(-math.inf,)) == -math.inf
    assert check_number("x", math.inf, low=0, infinite=(math.inf,)) == math.inf


def test_one_string_is_a_list_of_one() -> None:
    assert (encode_all("x", "a"), encode_all("x", ("a", "b")), encode_all("x", None)) == ([b"a"], [b"a", b"b"], [])
