"""GBNF, the grammars of llama.cpp: the rules of all JSON, and those that are made for one schema."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError
from . import charset, pattern
from .keywords import impossible, refuse

ROOT = "own-root"

MAX_RULES = 20_000

BASE = {
    "own-space": '"" | " " | "\\n" "\\n"? [ \\t]{0,20}',
    "own-value": "own-object | own-array | own-string | own-number | own-boolean | own-null",
    "own-object": '"{" own-space (own-string ":" own-space own-value '
    '("," own-space own-string ":" own-space own-value)*)? own-space "}"',
    "own-array": '"[" own-space (own-value ("," own-space own-value)*)? own-space "]"',
    "own-string": '"\\"" own-char* "\\""',
    # not "all but": the engine's grammars would take surrogates and numbers beyond Unicode too
    "own-char": f"{charset.in_grammar(charset.PLAIN)} | [\\x5C] [\\x22\\x5Cbfnrt]",
    "own-digits": "[0] | [1-9] [0-9]{0,15}",
    "own-integer": '"-"? own-digits',
    "own-number": '"-"? own-digits ("." [0-9]{1,16})? ([eE] [-+]? own-digits)?',
    "own-boolean": '"true" | "false"',
    "own-null": '"null"',
}


class Rules:
    """The rules of one grammar by their names."""

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}

    def whole(self) -> dict[str, str]:
        """Returns the rules with those of all JSON."""
        # what turned out to have no case has left an empty rule
        return {**{name: rule for name, rule in self.by_name.items() if rule}, **BASE}

    def add(self, text: str, name: str = "") -> str:
        """Adds a rule; returns its name."""
        name = name or self.name()
        if len(self.by_name) > MAX_RULES:
            raise RequestError(f"json_schema: its grammar has more than {MAX_RULES:,} rules; simplify it")
        self.by_name[name] = text
        return name

    def name(self) -> str:
        """Returns a new name, whose rule is to be added."""
        name = f"own-{len(self.by_name)}"
        self.by_name[name] = ""
        return name

    def add_automata(
        self, automata: Sequence[pattern.Automaton], what: str, path: str, *, low: int = 0, high: int | None = None
    ) -> str:
        """Adds the rules of what all automata accept; returns the first name. what: the keywords, for errors."""
        name = self.name()
        try:
            rules = pattern.rules(automata, name, low=low, high=high, most=MAX_RULES - len(self.by_name))
        except pattern.PatternError as error:
            raise refuse(path, what, f"cannot be followed: {error}") from None
        if rules is None:
            raise impossible(path, f"its keywords ({what}) exclude each other")
        self.by_name.update(rules)
        return name


def times(low: int, high: int | None) -> str:
    """Writes how often what stands before it is repeated."""
    return "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"


def literal(text: str) -> str:
    """A literal of GBNF."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
