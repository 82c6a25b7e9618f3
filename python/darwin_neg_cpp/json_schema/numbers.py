"""Rules of numbers: the bounds that keywords and formats set, and of what a number must be a multiple."""

from __future__ import annotations

from decimal import Decimal

from ..checks import shown
from . import decimals, pattern
from .decimals import Bound
from .formats import FREE_NUMBERS, INTEGERS, UNSIGNED
from .gbnf import Rules
from .keywords import refuse
from .merge import Words

_LOW = (("minimum", False), ("exclusiveMinimum", True))
_HIGH = (("maximum", False), ("exclusiveMaximum", True))


def number(rules: Rules, words: Words, path: str, *, whole: bool) -> str:
    for place, name in words.get("format", ()):
        if name not in INTEGERS and name not in UNSIGNED and name not in FREE_NUMBERS:
            continue  # formats of strings say nothing of numbers
        if name not in FREE_NUMBERS and not whole:
            raise refuse(place, "format", f"{shown(name)} needs the type integer")
    low, high, steps = bounds(words, path, whole=whole)
    if low is None and high is None and not steps:
        return "own-integer" if whole else "own-number"
    try:
        automata = [*decimals.in_range(low, high, whole=whole), *map(decimals.multiples, steps)]
    except pattern.PatternError as error:
        name = "multipleOf" if steps else "a bound"
        raise refuse(path, name, f"cannot be followed: {error}") from None
    return rules.add_automata(automata, "minimum, maximum or multipleOf", path)


def bounds(words: Words, path: str, *, whole: bool) -> tuple[Bound | None, Bound | None, list[Decimal]]:
    """Lower and upper bound, and the numbers of which it must be a multiple."""
    low = [Bound(_decimal(words[name]), strict) for name, strict in _LOW if name in words]
    high = [Bound(_decimal(words[name]), strict) for name, strict in _HIGH if name in words]
    for _, name in words.get("format", ()):
        if whole and name in INTEGERS:
            low.append(Bound(Decimal(-INTEGERS[name])))
            high.append(Bound(Decimal(INTEGERS[name] - 1)))
        if whole and name in UNSIGNED:
            low.append(Bound(Decimal(0)))
            high.append(Bound(Decimal(UNSIGNED[name] - 1)))
    steps = []
    for place, value in words.get("multipleOf", ()):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise refuse(place, "multipleOf", f"must be a number above 0, got {shown(value)}")
        if not (whole and value == 1):
            steps.append(_decimal(value))
    return (
        max(low, key=lambda bound: (bound.value, bound.strict), default=None),
        min(high, key=lambda bound: (bound.value, not bound.strict), default=None),
        steps,
    )


def allows(words: Words, value: float, path: str) -> bool:
    """Says whether the keywords of numbers allow a value."""
    low, high, steps = bounds(words, path, whole=False)
    exact = _decimal(value)
    return (
        (low is None or exact > low.value or (exact == low.value and not low.strict))
        and (high is None or exact < high.value or (exact == high.value and not high.strict))
        and all(decimals.is_multiple(exact, step) for step in steps)
    )


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))
