"""A grammar for the JSON that a schema allows.

Objects have their properties in the schema's order, and no others unless the schema names additionalProperties; in
general the grammar allows less than the schema where that is simpler, and never more.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from ..checks import MAX_JSON_SIZE, json_text, shown
from ..errors import RequestError
from . import charset, decimals, keywords, llama, pattern
from .decimals import Bound
from .formats import FORMATS, FREE, FREE_NUMBERS, INTEGERS, UNSIGNED
from .keywords import Schema, Unsatisfiable, compact, impossible, inside, refuse, same
from .merge import Merger, Words

RULES_KEY = "x-gbnf"  # where the engine looks for the grammar (cpp/engine/schema_grammar.h), and its first rule
ROOT = "own-root"

MAX_RULES = 20_000
MAX_CASES = 256
MAX_DEPTH = 100
PERMUTED = 5  # so many different items come in any order, more of them in the schema's order

_BASE = {
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


@lru_cache(maxsize=64)
def obeyed_text(text: str) -> str:
    """A schema as the engine obeys it, from and as JSON; see AnswerSchema in the engine.

    Errors: RequestError, which names the keyword that cannot be obeyed and its place.
    """
    schema = json.loads(text)
    keywords.check(schema)
    if llama.obeys(schema):
        return text if schema else '{"title": ""}'  # a template takes an empty schema for none
    rules = grammar(schema)
    if len(rules) + len(text) > MAX_JSON_SIZE:
        raise RequestError("json_schema: its grammar is larger than a megabyte; use smaller bounds or simpler patterns")
    return json_text("json_schema", {**schema, RULES_KEY: rules})


def grammar(schema: Schema) -> str:
    """GBNF, whose first rule is ROOT."""
    rules = _Converter(schema).convert()
    return "\n".join(f"{name} ::= {rule}" for name, rule in rules.items()) + "\n"


class _Converter:
    def __init__(self, root: Schema) -> None:
        self.root = root
        self.merger = Merger(root)
        self.rules: dict[str, str] = {}
        self.done: dict[str, str] = {}  # schema as JSON -> the rule that it has become
        self.failed: dict[str, Unsatisfiable] = {}
        self.depth = 0

    def convert(self) -> dict[str, str]:
        self.rules[ROOT] = ""
        self.rules[ROOT] = self.visit(self.root, "#")
        # what turned out to have no case has left an empty rule
        return {**{name: rule for name, rule in self.rules.items() if rule}, **_BASE}

    # --- rules

    def rule(self, text: str, name: str = "") -> str:
        """Adds a rule; returns its name."""
        name = name or self.name()
        if len(self.rules) > MAX_RULES:
            raise RequestError(f"json_schema: its grammar has more than {MAX_RULES:,} rules; simplify it")
        self.rules[name] = text
        return name

    def name(self) -> str:
        name = f"own-{len(self.rules)}"
        self.rules[name] = ""
        return name

    def visit(self, schema: Schema, path: str) -> str:
        """The rule of a schema, made once; it may refer to itself through $ref."""
        if isinstance(schema, dict) and keywords.constraints(schema).keys() == {"$ref"}:
            ref = schema["$ref"]
            target = keywords.resolve(self.root, ref, path)
            if target is schema:
                raise refuse(path, "$ref", "names itself")
            schema, path = target, str(ref)
        key = compact(schema)
        if key in self.failed:
            raise self.failed[key]
        if key not in self.done:
            self.done[key] = self.name()
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise RequestError(f"json_schema: {path} is nested deeper than {MAX_DEPTH} levels; flatten it")
            try:
                self.rule(self.expression(schema, path), self.done[key])
            except Unsatisfiable as error:
                self.failed[key] = error
                raise
            finally:
                self.depth -= 1
        return self.done[key]

    def expression(self, schema: Schema, path: str) -> str:
        if schema is True or (schema is not False and not keywords.constraints(schema)):
            return "own-value"
        cases = list(self.cases(self.merger.words(schema, path), path))
        return self.union((lambda words=words: self.case(words, path) for words in cases), path)

    def union(self, makers: Any, path: str) -> str:
        """Of what can be made; at least one must be."""
        out, error = [], None
        for make in makers:
            try:
                out.append(make())
            except Unsatisfiable as unsatisfiable:
                error = unsatisfiable
        if not out:
            raise error or impossible(path, "no case is left")
        return " | ".join(dict.fromkeys(out))

    def cases(self, words: Words, path: str) -> Iterator[Words]:
        """The keywords without anyOf and oneOf, once for each way to choose among those."""
        choices = []
        plain = {name: value for name, value in words.items() if name not in ("anyOf", "oneOf", "dependentRequired")}
        for name in ("anyOf", "oneOf"):
            for place, alternatives in words.get(name, ()):
                if not isinstance(alternatives, list) or not alternatives:
                    raise refuse(place, name, "must be a list of schemas that is not empty")
                made = []
                for k, alternative in enumerate(alternatives):
                    try:
                        made.append(self.merger.words(alternative, inside(place, name, k)))
                    except Unsatisfiable:
                        continue
                if name == "oneOf":
                    self.check_apart(made, place)
                choices.append(made)
        for first, others in _dependent(words, path):
            without = {"properties": {first: False}}
            choices.append([without, {"required": [first, *others]}])
        count = 1
        for made in choices:
            count *= len(made)
        if count > MAX_CASES:
            raise RequestError(f"json_schema: {path} has {count} cases, of at most {MAX_CASES}; simplify it")
        for chosen in itertools.product(*choices):
            merged = plain
            try:
                for part in chosen:
                    merged = self.merger.both(merged, part, path)
            except Unsatisfiable:
                continue
            if merged.keys() & {"anyOf", "oneOf"}:
                yield from self.cases(merged, path)
            else:
                yield merged

    # --- one case

    def case(self, words: Words, path: str) -> str:
        """Keywords among which there is nothing to choose."""
        types = words.get("type")
        if types is None:
            groups = [name for name, group in keywords.OF_TYPE.items() if words.keys() & group]
            types = groups or list(keywords.TYPES)
        words, types = self.without_not(words, types, path)
        if "enum" in words:
            return self.enum(words, path)
        if set(types) >= {"integer", "number"}:
            types = [name for name in types if name != "integer"]
        if set(types) == set(keywords.TYPES) - {"integer"} and not words.keys() - {"type"}:
            return "own-value"
        return self.union((lambda name=name: self.of_type(name, words, path) for name in types), path)

    def of_type(self, name: str, words: Words, path: str) -> str:
        if name in ("null", "boolean"):
            return f"own-{name}"
        if name in ("integer", "number"):
            return self.number(words, path, whole=name == "integer")
        make = {"string": self.string, "array": self.array, "object": self.object}[name]
        return make(words, path)

    def enum(self, words: Words, path: str) -> str:
        if not isinstance(words["enum"], list):
            raise refuse(path, "enum", "must be a list")
        out = [_literal(compact(value)) for value in words["enum"] if self.allows(words, value, path)]
        if not out:
            raise impossible(path, "no value of enum or const agrees with the other keywords")
        return " | ".join(dict.fromkeys(out))

    def allows(self, words: Words, value: Any, path: str) -> bool:
        """Whether the keywords beside enum allow a value."""
        if "type" in words and not keywords.has_type(value, words["type"]):
            return False
        kind = keywords.type_of(value)
        kind = "number" if kind == "integer" else kind
        mine = words.keys() & keywords.OF_TYPE.get(kind, frozenset())
        if not mine:
            return True
        if kind == "string":
            low, high = words.get("minLength", 0), words.get("maxLength")
            fits = low <= len(value) and (high is None or len(value) <= high)
            return fits and all(_matches(one, value) for one in self.automata(words, path))
        if kind == "number":
            low_bound, high_bound, steps = _bounds(words, path, whole=False)
            number = Decimal(repr(value))
            return (
                (low_bound is None or number > low_bound.value or (number == low_bound.value and not low_bound.strict))
                and (
                    high_bound is None
                    or number < high_bound.value
                    or (number == high_bound.value and not high_bound.strict)
                )
                and all(decimals.is_multiple(number, step) for step in steps)
            )
        raise refuse(path, sorted(mine)[0], "beside enum or const cannot be followed; leave out the values it forbids")

    def without_not(self, words: Words, types: list[str], path: str) -> tuple[Words, list[str]]:
        """Takes out what "not" forbids, where a grammar can."""
        words = dict(words)
        for place, schema in words.pop("not", ()):
            if schema is True or (isinstance(schema, dict) and not keywords.constraints(schema)):
                raise impossible(place, "not forbids everything")
            try:
                forbidden = self.merger.words(schema, inside(place, "not"))
            except Unsatisfiable:
                continue
            names = forbidden.keys()
            if names == {"type"} and not ("integer" in forbidden["type"] and "number" in types):
                wide = {*forbidden["type"], *(["integer"] if "number" in forbidden["type"] else [])}
                types = [name for name in types if name not in wide]
                if not types:
                    raise impossible(place, "not forbids every type")
                if "enum" in words:
                    words["enum"] = [one for one in words["enum"] if not keywords.has_type(one, forbidden["type"])]
            elif names <= {"enum", "type"} and "enum" in words:
                words["enum"] = [one for one in words["enum"] if not any(same(one, no) for no in forbidden["enum"])]
            elif names <= {"enum", "type"} and "enum" in names and _are_strings(forbidden["enum"], types):
                words["forbidden"] = [*words.get("forbidden", []), *forbidden["enum"]]
            elif names == {"required"} and len(forbidden["required"]) == 1 and types == ["object"]:
                (name,) = forbidden["required"]
                words = self.merger.both(words, {"properties": {name: False}}, place)
            else:
                raise refuse(place, "not", "cannot be followed by a grammar; say what is allowed instead")
        return words, types

    # --- strings and numbers

    def automata(self, words: Words, path: str) -> list[pattern.Automaton]:
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
            out.append(_none_of(forbidden))
        return out

    def string(self, words: Words, path: str) -> str:
        return f'"\\"" {self.content(words, path)} "\\""'

    def content(self, words: Words, path: str) -> str:
        """What stands between the quotes."""
        low, high = words.get("minLength", 0), words.get("maxLength")
        if high is not None and low > high:
            raise impossible(path, f"minLength {low} is above maxLength {high}")
        automata = self.automata(words, path)
        if automata:
            return self.automaton_rule(automata, "pattern or format", path, low=low, high=high)
        return f"own-char{_times(low, high)}" if (low, high) != (0, None) else "own-char*"

    def automaton_rule(
        self, automata: Sequence[pattern.Automaton], what: str, path: str, *, low: int = 0, high: int | None = None
    ) -> str:
        name = self.name()
        try:
            rules = pattern.rules(automata, name, low=low, high=high, most=MAX_RULES - len(self.rules))
        except pattern.PatternError as error:
            raise refuse(path, what, f"cannot be followed: {error}") from None
        if rules is None:
            raise impossible(path, f"its keywords ({what}) exclude each other")
        self.rules.update(rules)
        return name

    def number(self, words: Words, path: str, *, whole: bool) -> str:
        for place, name in words.get("format", ()):
            if name not in INTEGERS and name not in UNSIGNED and name not in FREE_NUMBERS:
                continue  # formats of strings say nothing of numbers
            if name not in FREE_NUMBERS and not whole:
                raise refuse(place, "format", f"{shown(name)} needs the type integer")
        low, high, steps = _bounds(words, path, whole=whole)
        if low is None and high is None and not steps:
            return "own-integer" if whole else "own-number"
        try:
            automata = [*decimals.in_range(low, high, whole=whole), *map(decimals.multiples, steps)]
        except pattern.PatternError as error:
            name = "multipleOf" if steps else "a bound"
            raise refuse(path, name, f"cannot be followed: {error}") from None
        return self.automaton_rule(automata, "minimum, maximum or multipleOf", path)

    # --- arrays

    def array(self, words: Words, path: str) -> str:
        low, high = words.get("minItems", 0), words.get("maxItems")
        if words.get("unevaluatedItems", False) not in (True, False):
            raise refuse(path, "unevaluatedItems", "with a schema cannot be followed; use items")
        first = words.get("prefixItems", [])
        rest = words.get("items", bool(words.get("unevaluatedItems", not first)) or low > len(first))
        if high is not None and low > high:
            raise impossible(path, f"minItems {low} is above maxItems {high}")
        if "contains" in words and words.get("minContains", 1) > 0:
            inner = self.containing(words, rest, path, low, high)
        elif words.get("uniqueItems") and high not in (0, 1):
            inner = self.different(words, rest, path, low, high)
        else:
            inner = self.items(first[:high], rest, path, low, high)
        if "maxContains" in words and "contains" in words:
            raise refuse(path, "maxContains", "cannot be followed by a grammar")
        return f'"[" own-space {inner} own-space "]"' if inner else '"[" own-space "]"'

    def items(self, first: Sequence[Schema], rest: Schema, path: str, low: int, high: int | None) -> str:
        parts = [self.visit(schema, inside(path, "prefixItems", k)) for k, schema in enumerate(first)]
        low, high = max(low - len(parts), 0), None if high is None else high - len(parts)
        item = ""
        try:
            item = "" if rest is False or high == 0 else self.visit(rest, inside(path, "items"))
        except Unsatisfiable:
            if low > 0:
                raise
        if not item and low > 0:
            raise impossible(path, "minItems asks for more items than there can be")
        fixed = ' "," own-space '.join(parts)
        if not item:
            return fixed
        if parts:
            return f'{fixed} ("," own-space {item}){_times(low, high)}'
        many = f'{item} ("," own-space {item}){_times(max(low - 1, 0), None if high is None else high - 1)}'
        # a rule of its own, because llama.cpp counts what is repeated inside parentheses again for those after them
        return many if low > 0 else f"{self.rule(many)}?"

    def containing(self, words: Words, rest: Schema, path: str, low: int, high: int | None) -> str:
        count = words.get("minContains", 1)
        if words.get("prefixItems") or words.get("uniqueItems") or high is not None or low > count:
            raise refuse(path, "contains", "beside prefixItems, uniqueItems, minItems or maxItems cannot be followed")
        wanted = self.visit(
            words["contains"] if rest is True else {"allOf": [rest, words["contains"]]}, inside(path, "contains")
        )
        item = self.visit(rest, inside(path, "items"))
        before = f'({item} "," own-space)*'
        return (
            f'{before} {wanted} ("," own-space ({item} "," own-space)* {wanted}){_times(count - 1, count - 1)} '
            f'("," own-space {item})*'
            if count > 1
            else f'{before} {wanted} ("," own-space {item})*'
        )

    def different(self, words: Words, rest: Schema, path: str, low: int, high: int | None) -> str:
        """Items that must differ, of a schema that allows few values."""
        values = None if words.get("prefixItems") else self.values(rest, path)
        if values is None:
            raise refuse(path, "uniqueItems", "cannot be followed unless the items are of an enum; leave it out")
        high = len(values) if high is None else min(high, len(values))
        if low > high:
            raise impossible(path, f"minItems asks for {low} different items of {len(values)}")
        names: dict[tuple[int, ...], str] = {}
        any_order = len(values) <= PERMUTED

        def rule(used: tuple[int, ...]) -> str:
            key = tuple(sorted(used)) if any_order else (len(used), used[-1] if used else -1)
            if key not in names:
                names[key] = self.name()
                left = [k for k in range(len(values)) if (k not in used if any_order else k > key[1])]
                parts = ['""'] if len(used) >= low else []
                if len(used) < high:
                    comma = '"," own-space ' if used else ""
                    enough = left if any_order else [k for k in left if len(used) + len(values) - k >= low]
                    parts += [f"{comma}{values[k]} {rule((*used, k))}" for k in enough]
                self.rule(" | ".join(parts), names[key])
            return names[key]

        return rule(())

    def values(self, schema: Schema, path: str) -> list[str] | None:
        """Literals of all values that a schema allows, if they are few."""
        if isinstance(schema, bool):
            return None
        out: list[str] = []
        for words in self.cases(self.merger.words(schema, path), path):
            if "enum" in words:
                out += [_literal(compact(value)) for value in words["enum"] if self.allows(words, value, path)]
            elif words.keys() == {"type"} and set(words["type"]) <= {"boolean", "null"}:
                out += ['"true"', '"false"'] * ("boolean" in words["type"]) + ['"null"'] * ("null" in words["type"])
            else:
                return None
        return list(dict.fromkeys(out))

    # --- objects

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
                child for expression, child in matching.items() if _matches(self.expression_of(expression, path), name)
            ]
            schemas.setdefault(name, fits[0] if fits else otherwise)
        for name in list(schemas):
            for expression, child in matching.items():
                if _matches(self.expression_of(expression, path), name) and not same(schemas[name], child):
                    schemas[name] = {"allOf": [schemas[name], child]}
        rules = {}
        for name, schema in schemas.items():
            place = inside(path, "properties", name)
            try:
                self.check_name(words, name, path)
                rules[name] = self.rule(
                    f'{_literal(compact(name))} own-space ":" own-space {self.visit(schema, place)}'
                )
            except Unsatisfiable:
                if name in required:
                    raise
        closed = bool(schemas) or bool(matching)
        return rules, required, words.get("additionalProperties", words.get("unevaluatedProperties", not closed))

    def check_name(self, words: Words, name: str, path: str) -> None:
        """Whether propertyNames allows a name."""
        if "propertyNames" in words:
            self.case(
                {**self.merger.words(words["propertyNames"], inside(path, "propertyNames")), "enum": [name]}, path
            )

    def expression_of(self, expression: str, path: str) -> pattern.Automaton:
        (out,) = self.automata({"pattern": [(inside(path, "patternProperties"), expression)]}, path)
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
                    out.append(f'{key} ":" own-space {self.visit(child, place)}')
            except Unsatisfiable:
                continue
        return self.rule(" | ".join(out)) if out else ""

    def key(self, words: Words, names: Sequence[str], expression: pattern.Automaton | None, path: str) -> str:
        """A name that is none of `names`."""
        place = inside(path, "propertyNames")
        of_names = self.merger.words(words.get("propertyNames", True), place)
        if "enum" in of_names:
            left = [name for name in of_names["enum"] if isinstance(name, str) and name not in names]
            left = [name for name in left if expression is None or _matches(expression, name)]
            return f"({self.enum({**of_names, 'enum': left}, place)})"
        if of_names.keys() & {"anyOf", "oneOf", "not"}:
            raise refuse(path, "propertyNames", "with alternatives cannot be followed; use one pattern")
        if "string" not in of_names.get("type", ["string"]):
            raise impossible(place, "names are strings")
        automata = self.automata(of_names, place) + ([expression] if expression else [])
        automata += [_none_of(names)] if names else []
        low, high = of_names.get("minLength", 0), of_names.get("maxLength")
        if not automata and (low, high) == (0, None):
            return "own-string"
        automata = automata or [pattern.automaton("")]
        return f'"\\"" {self.automaton_rule(automata, "propertyNames", path, low=low, high=high)} "\\""'

    def pairs(self, pairs: Sequence[tuple[str, bool]], extra: str, low: int, high: int | None, path: str) -> str:
        """The pairs in their order, with commas. A rule stands for what follows pair k when `count` have come."""
        counts = low > 0 or high is not None
        names: dict[tuple[int, int], str | None] = {}

        def rest(k: int, count: int) -> str | None:
            state = (k, count if counts else min(count, 1))
            if state not in names:
                names[state] = None
                text = last(count) if k == len(pairs) else step(k, count)
                names[state] = None if text is None else self.rule(text)
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
                return f'("," own-space {extra}){_times(least, most)}'
            many = f'{extra} ("," own-space {extra}){_times(0, None if most is None else most - 1)}'
            return many if least else f"{self.rule(many)}?"

        whole = rest(0, 0)
        if whole is None:
            raise impossible(path, "minProperties asks for more properties than there can be")
        return whole

    # --- oneOf

    def check_apart(self, made: Sequence[Words], path: str) -> None:
        """Refuses alternatives of which one value may have two."""
        for one, other in itertools.permutations(made, 2):
            if not self.apart(one, other, path, 0):
                raise refuse(path, "oneOf", "has alternatives that may both hold; tell them apart, or use anyOf")

    def apart(self, one: Words, other: Words, path: str, depth: int) -> bool:
        """Whether nothing that is generated for the first is valid for the second."""
        if depth > 5:
            return False
        both = itertools.product(self.cases(one, path), self.cases(other, path))
        return all(self._apart(a, b, path, depth) for a, b in both)

    def _apart(self, a: Words, b: Words, path: str, depth: int) -> bool:
        for first, second in ((a, b), (b, a)):
            if "enum" in first:
                return not any(
                    "enum" not in second or any(same(value, item) for item in second["enum"])
                    for value in first["enum"]
                    if self.allows(first, value, path) and self.allows(_without(second, "enum"), value, path)
                )
        types_a, types_b = self._types(a), self._types(b)
        if not types_a & types_b:
            return True
        if types_a & types_b == {"object"}:
            return self._objects_apart(a, b, path, depth)
        if types_a & types_b == {"string"}:
            automata = self.automata(a, path) + self.automata(b, path)
            low = max(a.get("minLength", 0), b.get("minLength", 0))
            high = min((one["maxLength"] for one in (a, b) if "maxLength" in one), default=None)
            if high is not None and high < low:
                return True
            return bool(automata) and pattern.rules(automata, "x", low=low, high=high) is None
        if types_a & types_b <= {"integer", "number"}:
            both = self.merger.both(_without(a, "type"), _without(b, "type"), path)
            try:
                self.number(both, path, whole="number" not in types_a & types_b)
            except Unsatisfiable:
                return True
        return False

    @staticmethod
    def _types(words: Words) -> set[str]:
        types = words.get("type")
        if types is None:
            types = [name for name, group in keywords.OF_TYPE.items() if words.keys() & group] or keywords.TYPES
        return {*types, *(["integer"] if "number" in types else [])}

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
                words = [self.merger.words(schema, inside(path, name)) for schema in (mine[name], other[name])]
            except Unsatisfiable:
                return True
            if self.apart(words[0], words[1], path, depth + 1):
                return True
        return False


def _without(words: Words, name: str) -> Words:
    return {key: value for key, value in words.items() if key != name}


def _dependent(words: Words, path: str) -> list[tuple[str, list[str]]]:
    value = words.get("dependentRequired", {})
    if not isinstance(value, dict) or not all(isinstance(names, list) for names in value.values()):
        raise refuse(path, "dependentRequired", "must be an object of lists of names")
    return list(value.items())


def _are_strings(values: Sequence[object], types: list[str]) -> bool:
    """Whether values of these types that are forbidden are all strings."""
    return types == ["string"] or all(isinstance(value, str) for value in values)


def _bounds(words: Words, path: str, *, whole: bool) -> tuple[Bound | None, Bound | None, list[Decimal]]:
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


_LOW = (("minimum", False), ("exclusiveMinimum", True))
_HIGH = (("maximum", False), ("exclusiveMaximum", True))


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))


def _times(low: int, high: int | None) -> str:
    return "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"


def _literal(text: str) -> str:
    """A literal of GBNF."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _matches(automaton: pattern.Automaton, text: str) -> bool:
    states, at_start = {automaton.start}, True
    for character in text:
        code = ord(character)
        steps = [step for state in states for step in automaton.closure(state, at_start=at_start)[0]]
        states = {target for ranges, target in steps if any(low <= code <= high for low, high in ranges)}
        at_start = False
    return any(automaton.closure(state, at_start=at_start)[1] for state in states)


def _none_of(texts: Sequence[str]) -> pattern.Automaton:
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
        for character in following:
            out.edges[state].append((((ord(character), ord(character)),), nodes[begin + character]))
        others = charset.complement(charset.union((ord(one), ord(one)) for one in following))
        out.edges[state].append((others, anything))
        if begin not in texts:
            out.edges[state].append((None, out.final))
    return out
