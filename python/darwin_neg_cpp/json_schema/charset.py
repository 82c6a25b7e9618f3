"""Sets of characters: sorted ranges of code points that do not touch, and how a grammar writes them in JSON strings."""

from __future__ import annotations

from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
ASCII: Ranges = ((0, 0x7F),)

_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return tuple(out)


def complement(ranges: Ranges) -> Ranges:
    out, at = [], 0
    for low, high in ranges:
        if at < low:
            out.append((at, low - 1))
        at = high + 1
    return (*out, (at, LAST)) if at <= LAST else tuple(out)


def intersection(a: Ranges, b: Ranges) -> Ranges:
    return union((max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b if max(x[0], y[0]) <= min(x[1], y[1]))


def without(a: Ranges, b: Ranges) -> Ranges:
    return intersection(a, complement(b))


ANY: Ranges = ((0, LAST),)
NO_LINE_END = complement(union([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]))
# written as they are in a JSON string
PLAIN = complement(union([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)]))


def both_cases(ranges: Ranges) -> Ranges:
    """With the other case of every letter; beyond ASCII, of single letters alone."""
    more = list(ranges)
    for low, high in intersection(ranges, ((0x41, 0x5A),)):
        more.append((low + 32, high + 32))
    for low, high in intersection(ranges, ((0x61, 0x7A),)):
        more.append((low - 32, high - 32))
    for low, high in ranges:
        if low == high > 0x7F:
            more += [(ord(case), ord(case)) for case in (chr(low).lower(), chr(low).upper()) if len(case) == 1]
    return union(more)


def in_json(ranges: Ranges) -> list[str]:
    """Alternatives of a grammar for one character of the set inside a JSON string."""
    out = []
    if plain := intersection(ranges, PLAIN):
        out.append(in_grammar(plain))
    escapes = [ord(letter) for code, letter in _SHORT.items() if any(low <= code <= high for low, high in ranges)]
    if escapes:
        out.append(f"[\\x5C] {in_grammar(union((code, code) for code in escapes))}")
    return out


def in_grammar(ranges: Ranges) -> str:
    """A character class of GBNF."""
    return f"[{''.join(_range(low, high) for low, high in ranges)}]"


def _range(low: int, high: int) -> str:
    return _character(low) if low == high else f"{_character(low)}-{_character(high)}"


def _character(code: int) -> str:
    return chr(code) if code < 0x80 and chr(code).isalnum() else f"\\U{code:08X}"
