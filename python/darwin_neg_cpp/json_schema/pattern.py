"""Regular expressions as schemas have them, and the rules of a grammar for the JSON strings that match.

An expression becomes a nondeterministic automaton. Several of them, and bounds on the length, become one in which all
of them hold; its states are the rules of the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from . import charset
from .charset import Ranges

MAX_STATES = 20_000
MAX_DEPTH = 60
_PAIR = re.compile(r"([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")  # one character of two escapes
_BEGIN, _END = "begin", "end"  # edges that are open at the begin and at the end of the text alone


class PatternError(ValueError):
    """An expression that is not valid, or that no grammar can follow. Its text says why."""


@dataclass
class Automaton:
    """edges[state]: (characters, or _BEGIN, _END or None for an edge that reads nothing, next state)."""

    edges: list[list[tuple[Ranges | str | None, int]]] = field(default_factory=list)
    start: int = 0
    final: int = 0

    def state(self) -> int:
        if len(self.edges) >= MAX_STATES:
            raise PatternError(f"it has more than {MAX_STATES:,} states")
        self.edges.append([])
        return len(self.edges) - 1

    def closure(self, state: int, *, at_start: bool) -> tuple[list[tuple[Ranges, int]], bool]:
        """What can be read next, and whether the text may end here."""
        steps: dict[tuple[Ranges, int], None] = {}
        accepts = False
        seen, todo = set(), [(state, False)]
        while todo:
            at, ended = todo.pop()
            if (at, ended) in seen:
                continue
            seen.add((at, ended))
            accepts |= at == self.final
            for label, target in reversed(self.edges[at]):
                if label is None or (label == _BEGIN and at_start):
                    todo.append((target, ended))
                elif label == _END:
                    todo.append((target, True))
                elif not isinstance(label, str) and not ended:
                    steps[label, target] = None
        return list(steps), accepts


class _Parser:
    """Builds the automaton while it reads; a part of it is a pair of states, its begin and its end."""

    def __init__(self, pattern: str) -> None:
        self.text, self.at, self.depth = pattern, 0, 0
        self.automaton = Automaton()
        self.any_case = self.dot_is_all = False

    def parse(self) -> Automaton:
        """The automaton of all texts in which the expression is found somewhere."""
        if flags := re.match(r"\(\?([a-z]+)\)", self.text):
            if set(flags[1]) - set("isu"):
                raise PatternError(f"the flags {flags[0]} have no equivalent")
            self.any_case, self.dot_is_all = "i" in flags[1], "s" in flags[1]
            self.at = flags.end()
        begin, end = self._alternatives()
        if self.at < len(self.text):
            raise PatternError("unbalanced parenthesis )")
        for state in (begin, end):
            loop = self.automaton.state()
            self.automaton.edges[loop].append((charset.ANY, loop))
            if state == begin:
                self.automaton.edges[loop].append((None, begin))
                self.automaton.start = loop
            else:
                self.automaton.edges[end].append((None, loop))
                self.automaton.final = loop
        return self.automaton

    def _next(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def _take(self, count: int = 1) -> str:
        taken = self.text[self.at : self.at + count]
        if len(taken) < count:
            raise PatternError("it ends too early")
        self.at += count
        return taken

    def _edge(self, label: Ranges | str | None) -> tuple[int, int]:
        begin, end = self.automaton.state(), self.automaton.state()
        self.automaton.edges[begin].append((label, end))
        return begin, end

    def _alternatives(self) -> tuple[int, int]:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PatternError(f"it is nested deeper than {MAX_DEPTH} levels")
        begin, end = self.automaton.state(), self.automaton.state()
        while True:
            first, last = self._sequence()
            self.automaton.edges[begin].append((None, first))
            self.automaton.edges[last].append((None, end))
            if self._next() != "|":
                self.depth -= 1
                return begin, end
            self._take()

    def _sequence(self) -> tuple[int, int]:
        begin = end = self.automaton.state()
        while self._next() not in ("", "|", ")"):
            at = self.at
            first, last = self._atom()
            for low, high in self._quantifiers():
                after = self.at
                first, last = self._repeat(first, last, (at, after), low, high)
            self.automaton.edges[end].append((None, first))
            end = last
        return begin, end

    def _quantifiers(self) -> Iterator[tuple[int, int | None]]:
        found = re.compile(r"([*+?]|\{(\d+)(,(\d*))?\})([?+]?)").match(self.text, self.at)
        if not found:
            if re.compile(r"\{,\d+\}").match(self.text, self.at):
                raise PatternError("{,n} means different things in different places; write {0,n}")
            return
        if found[5] == "+":
            raise PatternError(f"the possessive quantifier {found[0]} has no equivalent")
        self.at = found.end()
        if found[1] in ("*", "+", "?"):
            yield (1 if found[1] == "+" else 0), (1 if found[1] == "?" else None)
        else:
            low = int(found[2])
            high = low if not found[3] else int(found[4]) if found[4] else None
            if high is not None and high < low:
                raise PatternError(f"the bounds of {found[1]} are out of order")
            yield low, high
        if re.compile(r"[*+]|\{\d").match(self.text, self.at):
            raise PatternError(f"nothing to repeat before {self._next()}")

    def _repeat(self, first: int, last: int, source: tuple[int, int], low: int, high: int | None) -> tuple[int, int]:
        """Copies a part by reading it again."""
        edges = self.automaton.edges
        begin = end = self.automaton.state()
        exits = []
        after = self.at
        for k in range(max(low, high or 0, 1)):
            if k > 0:
                self.at = source[0]
                first, last = self._atom()
            if k >= low:
                exits.append(end)
            edges[end].append((None, first))
            end = self.automaton.state()  # a state of its own, which nothing inside leads back to
            edges[last].append((None, end))
            if high is None and k == max(low - 1, 0):
                edges[end].append((None, first))
                break
        self.at = after
        out = self.automaton.state()
        edges[end].append((None, out))
        for state in exits:
            edges[state].append((None, out))
        if high == 0:  # only what reads nothing is left
            begin = self.automaton.state()
            edges[begin].append((None, out))
        return begin, out

    def _atom(self) -> tuple[int, int]:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return self._edge(self._class())
        if character == ".":
            return self._edge(charset.ANY if self.dot_is_all else charset.NO_LINE_END)
        if character in "^$":
            return self._edge(_BEGIN if character == "^" else _END)
        if character == "\\":
            return self._edge(self._escape())
        if character in "*+?":
            raise PatternError(f"nothing to repeat before {character}")
        return self._edge(self._cased(((ord(character), ord(character)),)))

    def _group(self) -> tuple[int, int]:
        if self._next() == "?":
            opening = re.compile(r"\?(:|P?<[A-Za-z_]\w*>)").match(self.text, self.at)
            if not opening:
                kinds = {"?=": "lookahead", "?!": "lookahead", "?<=": "lookbehind", "?<!": "lookbehind"}
                head = self.text[self.at : self.at + 3]
                kind = next((name for mark, name in kinds.items() if head.startswith(mark)), "group")
                raise PatternError(f"the {kind} ({head}...) has no equivalent")
            self.at = opening.end()
        part = self._alternatives()
        if self._next() != ")":
            raise PatternError("a parenthesis ( is not closed")
        self._take()
        return part

    def _escape(self) -> Ranges | str:
        letter = self._next()
        if letter in ("A", "Z", "z") and letter:
            self._take()
            return _BEGIN if letter == "A" else _END
        return self._cased(self._escaped())

    def _escaped(self) -> Ranges:
        """What an escape stands for, outside and inside of classes."""
        letter = self._take()
        sets = {"d": charset.DIGITS, "w": charset.WORD, "s": charset.SPACE}
        if letter in sets:
            return sets[letter]
        if letter.lower() in sets:
            # ASCII alone: readers of schemas disagree about whether other digits and letters count
            return charset.without(charset.ASCII, sets[letter.lower()])
        controls = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
        if letter in controls and not (letter == "0" and self._next().isdigit()):
            return ((controls[letter], controls[letter]),)
        if letter == "u" and (pair := _PAIR.match(self.text, self.at)):
            self.at = pair.end()
            code = 0x10000 + (int(pair[1], 16) - 0xD800) * 0x400 + int(pair[2], 16) - 0xDC00
            return ((code, code),)
        if letter in "xu":
            braces = re.compile(r"\{([0-9a-fA-F]{1,6})\}").match(self.text, self.at)
            digits = braces[1] if braces and letter == "u" else self._take(2 if letter == "x" else 4)
            if braces and letter == "u":
                self.at = braces.end()
            if not re.fullmatch("[0-9a-fA-F]+", digits) or int(digits, 16) > charset.LAST:
                raise PatternError(f"\\{letter}{digits} names no character")
            return ((int(digits, 16), int(digits, 16)),)
        if letter.isascii() and letter.isalnum():
            raise PatternError(f"the escape \\{letter} has no equivalent")
        return ((ord(letter), ord(letter)),)

    def _class(self) -> Ranges:
        negative = self._next() == "^"
        if negative:
            self._take()
        ranges: list[tuple[int, int]] = []
        while self._next() != "]":
            low = self._member()
            if self._next() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", "") and _single(low):
                self._take()
                high = self._member()
                if not _single(high) or high[0][0] < low[0][0]:
                    raise PatternError("a range in [...] is out of order")
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges += low
        self._take()
        inside = self._cased(charset.union(ranges))
        return charset.complement(inside) if negative else inside

    def _member(self) -> Ranges:
        character = self._take()
        if character == "[" and self._next() in (":", "=", "."):
            raise PatternError(f"[{self._next()} in a class has no equivalent")
        if character != "\\":
            return ((ord(character), ord(character)),)
        if self._next() == "b":
            self._take()
            return ((8, 8),)
        return self._escaped()

    def _cased(self, ranges: Ranges) -> Ranges:
        return charset.both_cases(ranges) if self.any_case else ranges


def _single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def automaton(pattern: str) -> Automaton:
    """The texts in which an expression is found. Errors: PatternError."""
    return _Parser(pattern).parse()


_State = tuple[tuple[int, ...], int, bool]  # of each automaton, characters so far, nothing read yet


def rules(
    automata: Sequence[Automaton], name: str, *, low: int = 0, high: int | None = None, most: int = MAX_STATES
) -> dict[str, str] | None:
    """Rules of a grammar, of which the first is called `name`: the content of a JSON string that matches all automata.

    low, high: bounds of its length. Returns None when nothing matches. Errors: PatternError.
    """
    count_to = low if high is None else high
    first: _State = (tuple(one.start for one in automata), 0, True)
    steps: dict[_State, list[tuple[Ranges, _State]]] = {}
    accepting = set()
    todo = [first]
    while todo:
        state = todo.pop()
        if state in steps:
            continue
        if len(steps) >= most:
            raise PatternError(f"its grammar has more than {most:,} rules; use smaller bounds")
        where, count, at_start = state
        closures = [one.closure(at, at_start=at_start) for one, at in zip(automata, where, strict=True)]
        if count >= low and all(accepts for _, accepts in closures):
            accepting.add(state)
        steps[state] = []
        if high is not None and count == high:
            continue
        after = min(count + 1, count_to)
        for ranges, targets in _together([options for options, _ in closures]):
            if charset.in_json(ranges):
                steps[state].append((ranges, (targets, after, False)))
        todo += [target for _, target in steps[state]]
    alive = _alive(steps, accepting)
    return _write(steps, accepting, alive, first, name) if first in alive else None


def _together(options: Sequence[Sequence[tuple[Ranges, int]]]) -> list[tuple[Ranges, tuple[int, ...]]]:
    """Steps that all automata can make together."""
    out: list[tuple[Ranges, tuple[int, ...]]] = [(charset.ANY, ())]
    for steps in options:
        out = [
            (common, (*targets, target))
            for ranges, targets in out
            for more, target in steps
            if (common := charset.intersection(ranges, more))
        ]
    return out


def _alive(steps: dict[_State, list[tuple[Ranges, _State]]], accepting: set[_State]) -> set[_State]:
    """States from which the text can still end."""
    before: dict[_State, list[_State]] = {}
    for state, following in steps.items():
        for _, target in following:
            before.setdefault(target, []).append(state)
    alive: set[_State] = set()
    todo = list(accepting)
    while todo:
        state = todo.pop()
        if state not in alive:
            alive.add(state)
            todo += before.get(state, [])
    return alive


def _write(
    steps: dict[_State, list[tuple[Ranges, _State]]],
    accepting: set[_State],
    alive: set[_State],
    first: _State,
    name: str,
) -> dict[str, str]:
    names = {first: name}
    for state in steps:
        if state in alive and state not in names:
            names[state] = f"{name}-{len(names)}"
    out = {}
    for state, rule in names.items():
        merged: dict[_State, Ranges] = {}
        for ranges, target in steps[state]:
            if target in alive:
                merged[target] = charset.union([*merged.get(target, ()), *ranges])
        parts = [f"{piece} {names[target]}" for target, ranges in merged.items() for piece in charset.in_json(ranges)]
        out[rule] = " | ".join(parts + ['""'] * (state in accepting))
    return out
