"""Whether the alternatives of oneOf exclude each other: a grammar takes what any of them allows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from . import keywords, numbers, pattern, strings, values
from .keywords import Unsatisfiable, inside, refuse, same
from .merge import Words
from .visitor import Visitor


class Apart:
    """Compares the keywords of alternatives."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.rules = visitor.rules

    def check(self, made: Sequence[Words], path: str) -> None:
        """Refuses alternatives of which one value may have two."""
        for one, other in itertools.permutations(made, 2):
            if not self.apart(one, other, path, 0):
                raise refuse(path, "oneOf", "has alternatives that may both hold; tell them apart, or use anyOf")

    def apart(self, one: Words, other: Words, path: str, depth: int) -> bool:
        """Whether nothing that is generated for the first is valid for the second."""
        if depth > 5:
            return False
        both = itertools.product(self.visitor.cases(one, path), self.visitor.cases(other, path))
        return all(self._apart(a, b, path, depth) for a, b in both)

    def _apart(self, a: Words, b: Words, path: str, depth: int) -> bool:
        for first, second in ((a, b), (b, a)):
            if "enum" in first:
                return not any(
                    "enum" not in second or any(same(value, item) for item in second["enum"])
                    for value in first["enum"]
                    if values.allows(first, value, path) and values.allows(_without(second, "enum"), value, path)
                )
        types_a, types_b = _types(a), _types(b)
        if not types_a & types_b:
            return True
        if types_a & types_b == {"object"}:
            return self._objects_apart(a, b, path, depth)
        if types_a & types_b == {"string"}:
            automata = strings.automata(a, path) + strings.automata(b, path)
            low = max(a.get("minLength", 0), b.get("minLength", 0))
            high = min((one["maxLength"] for one in (a, b) if "maxLength" in one), default=None)
            if high is not None and high < low:
                return True
            return bool(automata) and pattern.rules(automata, "x", low=low, high=high) is None
        if types_a & types_b <= {"integer", "number"}:
            both = self.visitor.merger.both(_without(a, "type"), _without(b, "type"), path)
            try:
                # for its error alone: nothing leads to the rules that it adds
                numbers.number(self.rules, both, path, whole="number" not in types_a & types_b)
            except Unsatisfiable:
                return True
        return False

    def _objects_apart(self, a: Words, b: Words, path: str, depth: int) -> bool:
        mine, other = a.get("properties", {}), b.get("properties", {})
        open_a = a.get("additionalProperties", not mine) is not False or "patternProperties" in a
        if not open_a and set(b.get("required", ())) - mine.keys() - set(a.get("required", ())):
            return True
        closed_b = b.get("additionalProperties") is False and "patternProperties" not in b
        if closed_b and set(a.get("required", ())) - other.keys():
            return True
        for name in set(a.get("required", ())) & mine.keys() & other.keys():
            try:
                words = [self.visitor.merger.words(schema, inside(path, name)) for schema in (mine[name], other[name])]
            except Unsatisfiable:
                return True
            if self.apart(words[0], words[1], path, depth + 1):
                return True
        return False


def _types(words: Words) -> set[str]:
    types = words.get("type")
    if types is None:
        types = [name for name, group in keywords.OF_TYPE.items() if words.keys() & group] or keywords.TYPES
    return {*types, *(["integer"] if "number" in types else [])}


def _without(words: Words, name: str) -> Words:
    return {key: value for key, value in words.items() if key != name}
