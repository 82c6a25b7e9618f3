"""Rules of strings, and automata of their keywords and of all texts but a few."""

from __future__ import annotations

from collections.abc import Sequence

from ..checks import shown
from . import charset, pattern
from .formats import FORMATS, FREE
from .gbnf import Rules, times
from .keywords import impossible, refuse
from .merge import Words


def automata(words: Words, path: str) -> list[pattern.Automaton]:
    """Returns what a string must match beside the bounds of its length."""
    out = []
    for place, expression in words.get("pattern", ()):
        if not isinstance(expression, str):
            raise refuse(place, "pattern", f"must be text, got {shown(expression)}")
        try:
            out.append(pattern.automaton(expression))
        except pattern.PatternError as error:
            raise refuse(place, "pattern", f"{shown(expression)} cannot be followed: {error}") from None
    for place, name in words.get("format", ()):
        if name in FORMATS:
            out.append(pattern.automaton(f"^({FORMATS[name]})$"))
        elif name not in FREE:
            known = ", ".join(FORMATS)
            raise refuse(place, "format", f"{shown(name)} is not known; write a pattern, or one of {known}")
    if forbidden := [text for text in words.get("forbidden", ()) if isinstance(text, str)]:
        out.append(none_of(forbidden))
    return out


def string(rules: Rules, words: Words, path: str) -> str:
    return f'"\\"" {content(rules, words, path)} "\\""'


def content(rules: Rules, words: Words, path: str) -> str:
    """What stands between the quotes."""
    low, high = words.get("minLength", 0), words.get("maxLength")
    if high is not None and low > high:
        raise impossible(path, f"minLength {low} is above maxLength {high}")
    if found := automata(words, path):
        return rules.add_automata(found, "pattern or format", path, low=low, high=high)
    return f"own-char{times(low, high)}" if (low, high) != (0, None) else "own-char*"


def allows(words: Words, value: str, path: str) -> bool:
    """Says whether the keywords of strings allow a value."""
    low, high = words.get("minLength", 0), words.get("maxLength")
    fits = low <= len(value) and (high is None or len(value) <= high)
    return fits and all(matches(one, value) for one in automata(words, path))


def matches(automaton: pattern.Automaton, text: str) -> bool:
    """Says whether an automaton accepts a text."""
    states, at_start = {automaton.start}, True
    for character in text:
        code = ord(character)
        steps = [step for state in states for step in automaton.closure(state, at_start=at_start)[0]]
        states = {target for ranges, target in steps if any(low <= code <= high for low, high in ranges)}
        at_start = False
    return any(automaton.closure(state, at_start=at_start)[1] for state in states)


def none_of(texts: Sequence[str]) -> pattern.Automaton:
    """All texts but these."""
    out = pattern.Automaton()
    out.final, anything = out.state(), out.state()
    out.edges[anything] += [(charset.ANY, anything), (None, out.final)]
    nodes = {"": out.state()}
    out.start = nodes[""]
    for text in texts:
        for k in range(1, len(text) + 1):
            if text[:k] not in nodes:
                nodes[text[:k]] = out.state()
    for begin, state in nodes.items():
        following = {text[len(begin)] for text in nodes if len(text) == len(begin) + 1 and text.startswith(begin)}
        for character in sorted(following):
            out.edges[state].append((((ord(character), ord(character)),), nodes[begin + character]))
        others = charset.complement(charset.union((ord(one), ord(one)) for one in following))
        out.edges[state].append((others, anything))
        if begin not in texts:
            out.edges[state].append((None, out.final))
    return out
