"""The keywords of JSON schemas, references, and how a place in a schema is named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

from ..checks import shown
from ..errors import RequestError

Schema = Any  # an object of keywords, or True or False

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

MAX_REPEATS = 2000  # llama.cpp's grammars repeat no more often, and take a larger maximum for none

# say nothing about what is valid
ANNOTATIONS = frozenset(
    [
        "$schema",
        "$id",
        "id",
        "$comment",
        "$defs",
        "definitions",
        "$anchor",
        "$vocabulary",
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
        "xml",
        "externalDocs",
        "nullable",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "strict",
        "name",
    ]
)
OF_TYPE = {
    "string": frozenset(("pattern", "format", "minLength", "maxLength")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    "array": frozenset(
        [
            "items",
            "prefixItems",
            "additionalItems",
            "minItems",
            "maxItems",
            "uniqueItems",
            "contains",
            "minContains",
            "maxContains",
            "unevaluatedItems",
        ]
    ),
    "object": frozenset(
        [
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
            "dependentRequired",
            "unevaluatedProperties",
        ]
    ),
}
OF_ALL = frozenset(["type", "enum", "const", "anyOf", "oneOf", "allOf", "not", "$ref"])
# these have no grammar
REFUSED = frozenset(
    ["if", "then", "else", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef", "$dynamicAnchor"]
)
KNOWN = OF_ALL.union(REFUSED, *OF_TYPE.values())
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not")


class Unsatisfiable(RequestError):
    """Nothing is valid here."""


def refuse(path: str, keyword: str, why: str) -> RequestError:
    return RequestError(f"json_schema: {keyword} at {path} {why}")


def impossible(path: str, why: str) -> Unsatisfiable:
    return Unsatisfiable(f"json_schema: nothing can be valid at {path}: {why}")


def inside(path: str, *parts: str | int) -> str:
    """A JSON pointer."""
    return "/".join([path, *(str(part).replace("~", "~0").replace("/", "~1") for part in parts)])


def constraints(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that say what is valid; others, unless they look like a slip of the pen, say nothing."""
    return {name: value for name, value in schema.items() if name in KNOWN}


def check(schema: Schema, path: str = "#") -> None:
    """Refuses keywords that have no grammar, values that a keyword cannot have, and misspelt keywords."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise RequestError(f"json_schema: the schema at {path} must be an object or a boolean, got {shown(schema)}")
    for name, value in schema.items():
        if name in REFUSED:
            raise refuse(path, name, "cannot be followed by a grammar; write the cases out with anyOf")
        if name not in KNOWN and name not in ANNOTATIONS and not name.startswith("x-"):
            near = [word for word in KNOWN if word.lower() == name.lower()] or get_close_matches(name, KNOWN, 1, 0.85)
            if near:
                raise refuse(path, shown(name), f"is not a keyword; {near[0]!r} is")
        if name in _COUNTS:
            _check_count(name, value, path)
    for part, child in children(schema, path):
        check(child, part)


def children(schema: Mapping[str, Any], path: str) -> Iterable[tuple[str, Schema]]:
    """Every schema directly inside, with its place."""
    for name in _SCHEMAS:
        if name in schema and not isinstance(schema[name], list):
            yield inside(path, name), schema[name]
    for name in (*_SCHEMA_LISTS, "items"):
        value = schema.get(name)
        if isinstance(value, list):
            yield from ((inside(path, name, k), child) for k, child in enumerate(value))
        elif name in schema and name != "items":
            raise refuse(path, name, f"must be a list of schemas, got {shown(value)}")
    for name in _SCHEMA_MAPS:
        value = schema.get(name, {})
        if not isinstance(value, Mapping):
            raise refuse(path, name, f"must be an object of schemas, got {shown(value)}")
        yield from ((inside(path, name, key), child) for key, child in value.items())


def types_of(schema: Mapping[str, Any], path: str) -> list[str] | None:
    """The types that are named, or None."""
    value = schema.get("type")
    if value is None and "type" not in schema:
        return None
    named: list[Any] = value if isinstance(value, list) else [value]
    for name in named:
        if name not in TYPES:
            raise refuse(path, "type", f"must be one of {', '.join(TYPES)}, or a list of them, got {shown(name)}")
    if not named:
        raise refuse(path, "type", "is an empty list")
    return named


def resolve(root: Schema, ref: object, path: str) -> Schema:
    """The schema that a reference names."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        raise refuse(path, "$ref", f"must name a place in the same schema (#/...), got {shown(ref)}")
    at = root
    for part in unquote(ref[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and name in at:
            at = at[name]
        elif isinstance(at, list) and name.isdecimal() and int(name) < len(at):
            at = at[int(name)]
        else:
            raise refuse(path, "$ref", f"names {shown(ref)}, which is not in the schema")
    if ref != "#" and not ref.startswith("#/"):
        raise refuse(path, "$ref", f"names {shown(ref)}; write the place as #/$defs/...")
    return at


def same(a: object, b: object) -> bool:
    """Equality of JSON: 1 is 1.0, but not true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return a == b


def type_of(value: object) -> str:
    """The narrowest type of a value."""
    if isinstance(value, (bool, type(None))):
        return "null" if value is None else "boolean"
    if isinstance(value, (int, float)):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def has_type(value: object, types: Iterable[str]) -> bool:
    kind = type_of(value)
    return kind in types or (kind == "integer" and "number" in types)


def compact(value: object) -> str:
    """JSON as llama.cpp writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _check_count(name: str, value: object, path: str) -> None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise refuse(path, name, f"must be a whole number that is not negative, got {shown(value)}")
    if value > MAX_REPEATS:
        raise refuse(
            path, name, f"is {value}, but llama.cpp's grammars repeat at most {MAX_REPEATS} times; choose a smaller one"
        )
