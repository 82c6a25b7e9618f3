"""A grammar for the JSON that a schema allows.

Objects have their properties in the schema's order, and no others unless the schema names additionalProperties; in
general the grammar allows less than the schema where that is simpler, and never more.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ..checks import MAX_JSON_SIZE, json_text
from ..errors import RequestError
from . import keywords, llama, numbers, strings
from .apart import Apart
from .arrays import Arrays
from .gbnf import ROOT, Rules
from .keywords import Schema, Unsatisfiable, compact, impossible, inside, refuse, same
from .merge import Merger, Words
from .objects import Objects
from .values import enum

RULES_KEY = "x-gbnf"  # where the engine looks for the grammar (cpp/engine/schema_grammar.h); its first rule is ROOT

MAX_CASES = 256
MAX_DEPTH = 100


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
    """A Visitor: makes the rules of a schema from those of its parts."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.merger = Merger(root)
        self.rules = Rules()
        self.done: dict[str, str] = {}  # schema as JSON -> the rule that it has become
        self.failed: dict[str, Unsatisfiable] = {}
        self.depth = 0
        self.arrays, self.objects, self.apart = Arrays(self), Objects(self), Apart(self)

    def convert(self) -> dict[str, str]:
        self.rules.add("", ROOT)  # the first rule, and so before those inside
        self.rules.add(self.visit(self.root, "#"), ROOT)
        return self.rules.whole()

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
            self.done[key] = self.rules.name()
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise RequestError(f"json_schema: {path} is nested deeper than {MAX_DEPTH} levels; flatten it")
            try:
                self.rules.add(self.expression(schema, path), self.done[key])
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
                    self.apart.check(made, place)
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

    def case(self, words: Words, path: str) -> str:
        """Keywords among which there is nothing to choose."""
        types = words.get("type")
        if types is None:
            groups = [name for name, group in keywords.OF_TYPE.items() if words.keys() & group]
            types = groups or list(keywords.TYPES)
        words, types = self.without_not(words, types, path)
        if "enum" in words:
            return enum(words, path)
        if set(types) >= {"integer", "number"}:
            types = [name for name in types if name != "integer"]
        if set(types) == set(keywords.TYPES) - {"integer"} and not words.keys() - {"type"}:
            return "own-value"
        return self.union((lambda name=name: self.of_type(name, words, path) for name in types), path)

    def of_type(self, name: str, words: Words, path: str) -> str:
        if name in ("null", "boolean"):
            return f"own-{name}"
        if name in ("integer", "number"):
            return numbers.number(self.rules, words, path, whole=name == "integer")
        if name == "string":
            return strings.string(self.rules, words, path)
        return self.arrays.array(words, path) if name == "array" else self.objects.object(words, path)

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


def _dependent(words: Words, path: str) -> list[tuple[str, list[str]]]:
    value = words.get("dependentRequired", {})
    if not isinstance(value, dict) or not all(isinstance(names, list) for names in value.values()):
        raise refuse(path, "dependentRequired", "must be an object of lists of names")
    return list(value.items())


def _are_strings(values: Sequence[object], types: list[str]) -> bool:
    """Whether values of these types that are forbidden are all strings."""
    return types == ["string"] or all(isinstance(value, str) for value in values)
