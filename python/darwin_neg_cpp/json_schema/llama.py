"""Which schemas llama.cpp's converter (common/json-schema-to-grammar.cpp) obeys in full.

Its grammars are kept for these. It is told to obey more than it does nowhere: what is not listed here is converted in
schema.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .formats import INTEGERS, UNSIGNED
from .keywords import (
    ANNOTATIONS,
    KNOWN,
    MAX_REPEATS,
    OF_TYPE,
    Schema,
    constraints,
    has_type,
    resolve,
    type_of,
    types_of,
)

# not "date" and "date-time", where every month has 31 days
_FORMATS = ("time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5")
_STRUCTURE = {"string": ("minLength", "maxLength"), "array": ("items", "prefixItems"), "object": ("properties",)}


def obeys(schema: Schema) -> bool:
    return _Reader(schema).obeys(schema)


class _Reader:
    def __init__(self, root: Schema) -> None:
        self.root = root
        self.seen: set[str] = set()

    def obeys(self, schema: Schema) -> bool:
        if not isinstance(schema, Mapping):
            return False
        words = constraints(schema)
        if not words:
            return True
        if "$ref" in words:
            return len(words) == 1 and self._ref(words["$ref"])
        if "anyOf" in words:
            return len(words) == 1 and bool(words["anyOf"]) and all(map(self.obeys, words["anyOf"]))
        if "const" in words or "enum" in words:
            return self._values(words)
        if "allOf" in words:
            return self._all_of(words)
        types = types_of(words, "#")
        if words.keys() & {"oneOf", "not"}:
            return False
        if types is None:
            types = [
                name
                for name, marks in _STRUCTURE.items()
                if words.keys() & set(marks) and words.keys() <= OF_TYPE[name]
            ]
            if not types:
                return False
        return all(self._type(name, words) for name in types)

    def _ref(self, ref: Any) -> bool:
        if not isinstance(ref, str) or not ref.startswith("#/") or "~" in ref or "%" in ref:
            return False
        if ref not in self.seen:
            self.seen.add(ref)
            target = resolve(self.root, ref, "#")
            # a chain of references may be a circle
            return not (isinstance(target, Mapping) and "$ref" in target) and self.obeys(target)
        return True

    def _values(self, words: Mapping[str, Any]) -> bool:
        if words.keys() - {"const", "enum", "type"} or len(words.keys() & {"const", "enum"}) != 1:
            return False
        values = [words["const"]] if "const" in words else words["enum"]
        if not isinstance(values, list) or not values:
            return False
        types = types_of(words, "#")
        return all((types is None or has_type(value, types)) and _is_written_exactly(value) for value in values)

    def _all_of(self, words: Mapping[str, Any]) -> bool:
        """Objects whose properties and required ones add up."""
        if words.keys() - {"allOf", "type"} or words.get("type", "object") != "object" or not words["allOf"]:
            return False
        names: set[str] = set()
        required: set[str] = set()
        for part in words["allOf"]:
            child = part
            if isinstance(part, Mapping) and constraints(part).keys() == {"$ref"} and self._ref(part["$ref"]):
                child = resolve(self.root, part["$ref"], "#")
            if not isinstance(child, Mapping) or not self.obeys(child):
                return False
            keys = constraints(child).keys()
            if "properties" not in keys or keys - {"type", "properties", "required"}:
                return False
            if names & child["properties"].keys() or child.get("type", "object") != "object":
                return False
            names |= child["properties"].keys()
            required |= set(child.get("required", ()))
        return required <= names

    def _type(self, name: str, words: Mapping[str, Any]) -> bool:
        group = OF_TYPE["number" if name == "integer" else name] if name not in ("null", "boolean") else frozenset()
        mine = {word: value for word, value in words.items() if word in group}
        if name == "object":
            return self._object(mine)
        if name == "array":
            return self._array(mine)
        if name == "string":
            return _string(mine)
        if words.get("format") in (*INTEGERS, *UNSIGNED):
            return name in ("null", "boolean")
        return _integer(mine) if name == "integer" else not mine

    def _array(self, words: Mapping[str, Any]) -> bool:
        if words.keys() - {"items", "prefixItems", "minItems", "maxItems"} or {"items", "prefixItems"} <= words.keys():
            return False
        low, high = words.get("minItems", 0), words.get("maxItems")
        items = words.get("items", words.get("prefixItems", {}))
        if isinstance(items, list):
            return len(items) > 0 and low <= len(items) <= (high or len(items)) and all(map(self.obeys, items))
        # from none to many is counted twice there, and refused
        too_many = high is not None and low == 0 and high > MAX_REPEATS // 4
        return not too_many and (high is None or max(low, 1) <= high) and self.obeys(items)

    def _object(self, words: Mapping[str, Any]) -> bool:
        if words.keys() - {"properties", "required", "additionalProperties"}:
            return False
        names = words.get("properties", {})
        required = words.get("required", [])
        if not isinstance(required, list) or not all(name in names for name in required):
            return False
        more = words.get("additionalProperties", False)
        return all(map(self.obeys, names.values())) and (isinstance(more, bool) or self.obeys(more))


def _string(words: Mapping[str, Any]) -> bool:
    if "format" in words:
        return words.keys() == {"format"} and words["format"] in _FORMATS
    low, high = words.get("minLength", 0), words.get("maxLength")
    return words.keys() <= {"minLength", "maxLength"} and (high is None or max(low, 1) <= high)


def _integer(words: Mapping[str, Any]) -> bool:
    """Bounds below zero, and a minimum of several digits without a maximum, lead to numbers outside."""
    if words.keys() - {"minimum", "maximum"} or not all(type(value) is int for value in words.values()):
        return False
    low, high = words.get("minimum"), words.get("maximum")
    if low is None or high is None:
        return not words or (low is not None and low in range(10))
    return bool(0 <= low <= high < 2**62)


def _is_written_exactly(value: Any) -> bool:
    """Whether a value survives llama.cpp's reading and writing of JSON."""
    if isinstance(value, Mapping):
        return all(map(_is_written_exactly, value.values()))
    if isinstance(value, list):
        return all(map(_is_written_exactly, value))
    return type_of(value) not in ("integer", "number") or (isinstance(value, int) and abs(value) < 2**63)


assert not ANNOTATIONS & KNOWN
