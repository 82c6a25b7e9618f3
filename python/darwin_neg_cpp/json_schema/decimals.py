"""Automata of the decimal numbers within bounds, and of the multiples of a number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from .pattern import Automaton, PatternError, automaton

MAX_DIGITS = 16  # before and after the point, as in llama.cpp's grammars, where no bound needs more
MAX_FACTOR = 10_000

_FRACTION = r"(\.\d+)?"


@dataclass(frozen=True)
class Bound:
    """A bound of a range; strict: the value itself is outside."""

    value: Decimal
    strict: bool = False


def in_range(low: Bound | None, high: Bound | None, *, whole: bool) -> list[Automaton]:
    """Automata that together accept the numbers from `low` to `high`, written without exponent."""
    digits = max([MAX_DIGITS] + [bound.value.adjusted() + 2 for bound in (low, high) if bound is not None])
    places = max([MAX_DIGITS] + [1 - _exponent(bound.value) for bound in (low, high) if bound is not None])
    if max(digits, places) > 400:
        raise PatternError("it has too many digits")
    fraction = "" if whole else rf"(\.\d{{1,{places}}})?"
    patterns = [rf"-?(0|[1-9]\d{{0,{digits - 1}}}){fraction}"]
    if low is not None:
        patterns.append(_at_least(low))
    if high is not None:
        patterns.append(_at_most(high))
    return [automaton(f"^({pattern})$") for pattern in patterns]


def multiples(of: Decimal) -> Automaton:
    """The multiples of a positive number."""
    places = max(0, -_exponent(of))
    factor = int(of.scaleb(places))
    if factor > MAX_FACTOR or places > MAX_DIGITS:
        raise PatternError("it is too large or has too many digits")
    out = Automaton()
    # a state for each remainder and number of decimal places; places + 1: more of them, all zero
    states = {(rest, place): out.state() for place in range(places + 1) for rest in range(factor)}
    point = {rest: out.state() for rest in range(factor)}
    zeros = out.state()
    out.start, out.final = out.state(), out.state()
    out.edges[out.start] += [(((45, 45),), states[0, 0]), (None, states[0, 0])]
    for (rest, place), state in states.items():
        if rest * 10 ** (places - place) % factor == 0:
            out.edges[state].append((None, out.final))
        if place == 0:
            out.edges[state].append((((46, 46),), point[rest]))
        for origin in [state] if place == 0 else []:
            _digits(out, origin, rest, factor, states, 0)
    for rest, state in point.items():
        if places == 0:
            out.edges[state] += [(((48, 48),), zeros)] if rest == 0 else []
        else:
            _digits(out, state, rest, factor, states, 1)
    for (rest, place), state in states.items():
        if 0 < place < places:
            _digits(out, state, rest, factor, states, place + 1)
        elif place == places > 0 and rest == 0:
            out.edges[state].append((((48, 48),), zeros))
    out.edges[zeros] += [(((48, 48),), zeros), (None, out.final)]
    return out


def is_multiple(value: Decimal, of: Decimal) -> bool:
    return (Fraction(value) / Fraction(of)).denominator == 1


def _digits(out: Automaton, state: int, rest: int, factor: int, states: dict[tuple[int, int], int], place: int) -> None:
    for digit in range(10):
        out.edges[state].append((((48 + digit, 48 + digit),), states[(rest * 10 + digit) % factor, place]))


def _exponent(value: Decimal) -> int:
    return int(value.normalize().as_tuple().exponent) if value else 0


def _at_least(bound: Bound) -> str:
    if bound.value > 0 or (bound.value == 0 and bound.strict):
        return _larger(bound.value, bound.strict)
    if bound.value == 0:
        return rf"\d+{_FRACTION}"
    return rf"\d+{_FRACTION}|-({_smaller(-bound.value, bound.strict)})"


def _at_most(bound: Bound) -> str:
    if bound.value < 0 or (bound.value == 0 and bound.strict):
        return f"-({_larger(-bound.value, bound.strict)})"
    return rf"-\d+{_FRACTION}|{_smaller(bound.value, bound.strict)}"


def _larger(value: Decimal, strict: bool) -> str:
    """Numbers without sign that are at least, or with `strict` above, a value that is not negative."""
    whole, part = _split(value)
    n = len(whole)
    out = [rf"[1-9]\d{{{n}}}\d*{_FRACTION}"]
    for k, digit in enumerate(whole):
        if digit < "9":
            out.append(rf"{whole[:k]}[{int(digit) + 1}-9]\d{{{n - k - 1}}}{_FRACTION}")
    if part:
        for k, digit in enumerate(part):
            if digit < "9":
                out.append(rf"{whole}\.{part[:k]}[{int(digit) + 1}-9]\d*")
        out.append(rf"{whole}\.{part}" + (r"0*[1-9]\d*" if strict else r"\d*"))
    else:
        out.append(whole + (r"\.0*[1-9]\d*" if strict else _FRACTION))
    return "|".join(out)


def _smaller(value: Decimal, strict: bool) -> str:
    """Numbers without sign that are at most, or with `strict` below, a value that is not negative."""
    whole, part = _split(value)
    n = len(whole)
    out = [rf"(0|[1-9]\d{{0,{n - 2}}}){_FRACTION}"] if n > 1 else []
    for k, digit in enumerate(whole):
        least = 1 if k == 0 and n > 1 else 0
        if int(digit) > least:
            out.append(rf"{whole[:k]}[{least}-{int(digit) - 1}]\d{{{n - k - 1}}}{_FRACTION}")
    if part:
        out.append(whole)
        for k, digit in enumerate(part):
            if k > 0:
                out.append(rf"{whole}\.{part[:k]}")
            if digit > "0":
                out.append(rf"{whole}\.{part[:k]}[0-{int(digit) - 1}]\d*")
        if not strict:
            out.append(rf"{whole}\.{part}0*")
    elif not strict:
        out.append(rf"{whole}(\.0+)?")
    return "|".join(out) or "[^\\s\\S]"


def _split(value: Decimal) -> tuple[str, str]:
    """Digits before and after the point."""
    whole, _, part = format(value, "f").partition(".")
    return whole, re.sub("0+$", "", part)
