"""Two schemas that must both hold, as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from .keywords import Schema, constraints, impossible, inside, refuse, resolve, same, types_of

MAX_DEPTH = 40

Words = dict[str, Any]

# where both have the keyword, one value says it all
_SIMPLE: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "required": lambda a, b: list(dict.fromkeys([*a, *b])),
    "uniqueItems": lambda a, b: a or b,
    # lists of what must all hold, made by Merger.words
    **dict.fromkeys(("pattern", "format", "not", "anyOf", "oneOf", "multipleOf"), lambda a, b: a + b),
}
_LISTED = ("pattern", "format", "not", "anyOf", "oneOf", "multipleOf")


class Merger:
    """Follows references of one schema."""

    def __init__(self, root: Schema) -> None:
        self.root = root

    def words(self, schema: Schema, path: str, depth: int = 0) -> Words:
        """The keywords of a schema with its references and allOf put in.

        "enum" is then the list of all values, "type" a list; each of _LISTED is a list of (place, value), all of which
        must hold.
        """
        if depth > MAX_DEPTH:
            raise refuse(path, "$ref", "leads back to itself where schemas are put together; write it out")
        if schema is False:
            raise impossible(path, "the schema is false")
        if schema is True:
            return {}
        words = constraints(schema)
        parts = [(inside(path, "allOf", k), child) for k, child in enumerate(words.pop("allOf", ()))]
        if "$ref" in words:
            parts.append((path, resolve(self.root, words.pop("$ref"), path)))
        words = _draft_4(words, path)
        if (types := types_of(words, path)) is not None:
            words["type"] = types
        if "const" in words:
            words["enum"] = [value for value in words.get("enum", [words["const"]]) if same(value, words["const"])]
            del words["const"]
        for name in _LISTED:
            if name in words:
                words[name] = [(path, words[name])]
        for part, child in parts:
            words = self.both(words, self.words(child, part, depth + 1), part, depth)
        return words

    def both(self, a: Words, b: Words, path: str, depth: int = 0) -> Words:
        """Of two results of `words`."""
        a, b = self._with_properties_of(a, b, path), self._with_properties_of(b, a, path)
        out = dict(a)
        for name, value in b.items():
            if name not in out:
                out[name] = value
            elif name in _SIMPLE:
                out[name] = _SIMPLE[name](out[name], value)
            elif name == "type":
                out[name] = _types(out[name], value, path)
            elif name == "enum":
                out[name] = [one for one in out[name] if any(same(one, other) for other in value)]
            elif name in ("properties", "patternProperties"):
                out[name] = {**out[name], **{key: _all_of(out[name], key, child) for key, child in value.items()}}
            elif name in ("items", "additionalProperties", "propertyNames") and not isinstance(value, list):
                out[name] = _all_of(out, name, value)
            elif not same(out[name], value):
                raise refuse(path, name, "cannot be put together with another one that must hold as well")
        return out

    def _with_properties_of(self, a: Words, b: Words, path: str) -> Words:
        """What `a` says of further properties also holds for those that `b` names."""
        if "additionalProperties" not in a or "properties" not in b or a["additionalProperties"] is True:
            return a
        if a.get("patternProperties"):
            raise refuse(path, "patternProperties", "cannot be put together with another schema; write it out")
        mine = a.get("properties", {})
        return {
            **a,
            "properties": {**mine, **{key: a["additionalProperties"] for key in b["properties"] if key not in mine}},
        }


def _all_of(words: Mapping[str, Any], name: str, value: Schema) -> Schema:
    if name not in words or words[name] is True or same(words[name], value):
        return value
    if value is True:
        return words[name]
    return False if words[name] is False or value is False else {"allOf": [words[name], value]}


def _types(a: list[str], b: list[str], path: str) -> list[str]:
    wide_a, wide_b = set(a), set(b)
    out = [name for name in a if name in wide_b or (name == "integer" and "number" in wide_b)]
    out += [name for name in b if name == "integer" and "number" in wide_a and name not in out]
    if not out:
        raise impossible(path, f"it would have to be {' or '.join(a)} and {' or '.join(b)} at once")
    return out


def _draft_4(words: Words, path: str) -> Words:
    """exclusiveMinimum: true of old schemas, and lists of items, in today's form."""
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(words.get(exclusive), bool) and words.pop(exclusive) and plain in words:
            words[exclusive] = words.pop(plain)
        for name in (plain, exclusive):
            if name in words and (isinstance(words[name], bool) or not isinstance(words[name], (int, float, Decimal))):
                raise refuse(path, name, "must be a number")
    if isinstance(words.get("items"), list):
        words["prefixItems"] = words.pop("items")
        if "additionalItems" in words:
            words["items"] = words.pop("additionalItems")
    words.pop("additionalItems", None)
    return words
