"""Rules of objects: named properties in the schema's order, then further ones where the schema names them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..checks import shown
from . import pattern, strings, values
from .gbnf import literal, times
from .keywords import Schema, Unsatisfiable, compact, impossible, inside, refuse, same
from .merge import Words
from .visitor import Visitor


class Objects:
    """Adds the rules of objects to those of a visitor."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.rules = visitor.rules

    def object(self, words: Words, path: str) -> str:
        properties, required, more = self.members(words, path)
        low, high = words.get("minProperties", 0), words.get("maxProperties")
        if high is not None and max(low, len(required)) > high:
            raise impossible(path, f"maxProperties {high} is too small")
        order = sorted(properties, key=lambda name: name not in required)
        pairs = [(properties[name], name in required) for name in order]
        extra = self.extra(words, list(properties), more, path)
        counted = low > len(required) or (high is not None and (bool(extra) or high < len(pairs)))
        if counted and extra and low > len(required) + 1:
            # two further properties may have the same name
            raise refuse(path, "minProperties", "above 1 beside properties of any name cannot be followed")
        body = self.pairs(pairs, extra, low if counted else 0, high if counted else None, path)
        return f'"{{" own-space {body} own-space "}}"'

    def members(self, words: Words, path: str) -> tuple[dict[str, str], list[str], Schema]:
        """The rule of each named property with its name, the required ones, and the schema of further ones."""
        schemas: dict[str, Schema] = dict(words.get("properties", {}))
        required = words.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise refuse(path, "required", f"must be a list of names, got {shown(required)}")
        if words.get("unevaluatedProperties", False) not in (True, False):
            raise refuse(path, "unevaluatedProperties", "with a schema cannot be followed; use additionalProperties")
        matching = words.get("patternProperties", {})
        otherwise = words.get("additionalProperties", words.get("unevaluatedProperties", True))
        for name in required:
            fits = [
                child
                for expression, child in matching.items()
                if strings.matches(self.expression_of(expression, path), name)
            ]
            schemas.setdefault(name, fits[0] if fits else otherwise)
        for name in list(schemas):
            for expression, child in matching.items():
                if strings.matches(self.expression_of(expression, path), name) and not same(schemas[name], child):
                    schemas[name] = {"allOf": [schemas[name], child]}
        rules = {}
        for name, schema in schemas.items():
            place = inside(path, "properties", name)
            try:
                self.check_name(words, name, path)
                rules[name] = self.rules.add(
                    f'{literal(compact(name))} own-space ":" own-space {self.visitor.visit(schema, place)}'
                )
            except Unsatisfiable:
                if name in required:
                    raise
        closed = bool(schemas) or bool(matching)
        return rules, required, words.get("additionalProperties", words.get("unevaluatedProperties", not closed))

    def check_name(self, words: Words, name: str, path: str) -> None:
        """Whether propertyNames allows a name."""
        if "propertyNames" in words:
            of_names = self.visitor.merger.words(words["propertyNames"], inside(path, "propertyNames"))
            self.visitor.case({**of_names, "enum": [name]}, path)

    def expression_of(self, expression: str, path: str) -> pattern.Automaton:
        (out,) = strings.automata({"pattern": [(inside(path, "patternProperties"), expression)]}, path)
        return out

    def extra(self, words: Words, names: Sequence[str], more: Schema, path: str) -> str:
        """A further property, "" for none."""
        matching = words.get("patternProperties", {})
        pairs = [(self.expression_of(expression, path), child) for expression, child in matching.items()]
        for one, other in itertools.combinations(pairs, 2):
            if pattern.rules([one[0], other[0]], "x") is not None:
                raise refuse(path, "patternProperties", "with names that match two of them cannot be followed")
        place = inside(path, "patternProperties" if matching else "additionalProperties")
        out = []
        options: list[tuple[pattern.Automaton | None, Schema]] = [*pairs] or [(None, more)]
        for expression, child in options:
            try:
                if child is not False:
                    key = self.key(words, names, expression, path)
                    out.append(f'{key} ":" own-space {self.visitor.visit(child, place)}')
            except Unsatisfiable:
                continue
        return self.rules.add(" | ".join(out)) if out else ""

    def key(self, words: Words, names: Sequence[str], expression: pattern.Automaton | None, path: str) -> str:
        """A name that is none of `names`."""
        place = inside(path, "propertyNames")
        of_names = self.visitor.merger.words(words.get("propertyNames", True), place)
        if "enum" in of_names:
            left = [name for name in of_names["enum"] if isinstance(name, str) and name not in names]
            left = [name for name in left if expression is None or strings.matches(expression, name)]
            return f"({values.enum({**of_names, 'enum': left}, place)})"
        if of_names.keys() & {"anyOf", "oneOf", "not"}:
            raise refuse(path, "propertyNames", "with alternatives cannot be followed; use one pattern")
        if "string" not in of_names.get("type", ["string"]):
            raise impossible(place, "names are strings")
        automata = strings.automata(of_names, place) + ([expression] if expression else [])
        automata += [strings.none_of(names)] if names else []
        low, high = of_names.get("minLength", 0), of_names.get("maxLength")
        if not automata and (low, high) == (0, None):
            return "own-string"
        automata = automata or [pattern.automaton("")]
        return f'"\\"" {self.rules.add_automata(automata, "propertyNames", path, low=low, high=high)} "\\""'

    def pairs(self, pairs: Sequence[tuple[str, bool]], extra: str, low: int, high: int | None, path: str) -> str:
        """The pairs in their order, with commas. A rule stands for what follows pair k when `count` have come."""
        counts = low > 0 or high is not None
        names: dict[tuple[int, int], str | None] = {}

        def rest(k: int, count: int) -> str | None:
            state = (k, count if counts else min(count, 1))
            if state not in names:
                names[state] = None
                text = last(count) if k == len(pairs) else step(k, count)
                names[state] = None if text is None else self.rules.add(text)
            return names[state]

        def step(k: int, count: int) -> str | None:
            rule, is_required = pairs[k]
            comma = '"," own-space ' if count else ""
            taken = rest(k + 1, count + 1) if high is None or count < high else None
            left_out = None if is_required else rest(k + 1, count)
            parts = [] if taken is None else [f"{comma}{rule} {taken}"]
            return " | ".join(parts + ([] if left_out is None else [left_out])) or None

        def last(count: int) -> str | None:
            least, most = max(low - count, 0), None if high is None else high - count
            if not extra or most == 0:
                return '""' if least == 0 else None
            if count:
                return f'("," own-space {extra}){times(least, most)}'
            many = f'{extra} ("," own-space {extra}){times(0, None if most is None else most - 1)}'
            return many if least else f"{self.rules.add(many)}?"

        whole = rest(0, 0)
        if whole is None:
            raise impossible(path, "minProperties asks for more properties than there can be")
        return whole
