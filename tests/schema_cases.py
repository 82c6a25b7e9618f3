"""Schemas that llama.cpp does not obey with what is valid, schemas without a grammar, and schemas that it obeys."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_date(text: str) -> bool:
    """Whether a day is in the calendar, which repeats after 400 years; Python's begins with the year 1."""
    digits = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", text)
    if digits is None:
        return False
    year, month, day = map(int, digits.groups())
    try:
        datetime.date(2000 + year % 400, month, day)
    except ValueError:
        return False
    return True


ABC = {"enum": ["a", "b", "c"]}
PAIR = {"a": {"type": "integer"}, "b": {"type": "null"}}
A_OR_B = [
    {"type": "object", "properties": {"t": {"const": "a"}, "v": {"type": "null"}}, "required": ["t"]},
    {"type": "object", "properties": {"t": {"const": "b"}}, "required": ["t"]},
]
LIST = {
    "$ref": "#/$defs/n",
    "$defs": {
        "n": {
            "type": "object",
            "properties": {
                "v": {"type": "integer", "minimum": -3},
                "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]},
            },
            "required": ["v"],
        }
    },
}


def _is_list(value: Any) -> bool:
    return value is None or (value["v"] >= -3 and value.keys() <= {"v", "next"} and _is_list(value.get("next")))


# what is valid is said a second time, in Python
OBEYED: list[tuple[Any, Callable[[Any], bool]]] = [
    ({"type": "string", "pattern": r"\d{4}"}, lambda x: bool(re.search(r"\d{4}", x))),
    ({"type": "string", "pattern": r"^\d{4}$"}, lambda x: bool(re.fullmatch(r"\d{4}", x))),
    ({"pattern": "(?i)abc"}, lambda x: "abc" in x.lower()),
    ({"type": "string", "pattern": "^a|b$"}, lambda x: x.startswith("a") or x.endswith("b")),
    ({"type": "string", "pattern": "^.*$"}, lambda x: "\n" not in x),
    ({"type": "string", "pattern": '^"\\\\.$'}, lambda x: x[:2] == '"\\' and len(x) == 3),
    ({"type": "string", "pattern": "b", "minLength": 3, "maxLength": 5}, lambda x: "b" in x and 3 <= len(x) <= 5),
    ({"type": "string", "format": "ipv4"}, lambda x: all(int(part) < 256 for part in x.split("."))),
    (
        {"type": "string", "format": "email", "maxLength": 12},
        lambda x: re.search(".@.", x) is not None and len(x) <= 12,
    ),
    ({"type": "string", "format": "date"}, is_date),
    ({"type": "string", "format": "date-time"}, lambda x: x[10] == "T" and is_date(x[:10])),
    ({"type": "string", "not": {"enum": ["yes", "no"]}}, lambda x: x not in ("yes", "no")),
    ({"type": "string", "not": {"const": "a"}, "maxLength": 1}, lambda x: x != "a" and len(x) <= 1),
    ({"not": {"type": "string"}}, lambda x: not isinstance(x, str)),
    ({"enum": [1, 2, 3], "not": {"const": 2}}, lambda x: x in (1, 3)),
    ({"enum": ["a", 1, None, "abc"], "type": "string", "minLength": 2}, lambda x: x == "abc"),
    ({"const": 18446744073709551616}, lambda x: x == 18446744073709551616),
    ({"type": "integer", "multipleOf": 7}, lambda x: _is_int(x) and x % 7 == 0),
    ({"type": "integer", "multipleOf": 5, "minimum": 12, "maximum": 58}, lambda x: x % 5 == 0 and 12 <= x <= 58),
    ({"type": "number", "multipleOf": 0.25, "minimum": -1}, lambda x: float(x * 4).is_integer() and x >= -1),
    ({"type": "number", "minimum": 0, "maximum": 1}, lambda x: _is_number(x) and 0 <= x <= 1),
    ({"type": "number", "exclusiveMinimum": 0.5, "exclusiveMaximum": 0.75}, lambda x: 0.5 < x < 0.75),
    ({"type": "integer", "maximum": -5}, lambda x: _is_int(x) and x <= -5),
    ({"type": "integer", "minimum": 105}, lambda x: _is_int(x) and x >= 105),
    ({"type": "integer", "exclusiveMinimum": 3, "minimum": 1, "maximum": 5}, lambda x: x in (4, 5)),
    ({"type": "integer", "exclusiveMinimum": True, "minimum": 3, "maximum": 5}, lambda x: x in (4, 5)),
    ({"type": "integer", "format": "int32"}, lambda x: -(2**31) <= x < 2**31),
    ({"minimum": 3, "maximum": 3}, lambda x: x == 3),
    ({"type": "array", "items": ABC, "uniqueItems": True}, lambda x: len(set(x)) == len(x)),
    (
        {"type": "array", "items": {"enum": list("abcdefgh")}, "uniqueItems": True, "minItems": 3, "maxItems": 4},
        lambda x: len(set(x)) == len(x) in (3, 4),
    ),
    ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 2}, lambda x: sum(x) == 1),
    (
        {"type": "array", "items": {"enum": [1, 1.0, True, "1"]}, "uniqueItems": True},
        lambda x: sum(map(_is_number, x)) < 2,
    ),
    ({"type": "array", "contains": {"type": "null"}}, lambda x: None in x),
    (
        {"type": "array", "items": {"type": "boolean"}, "contains": {"const": True}, "minContains": 2},
        lambda x: sum(x) > 1,
    ),
    (
        {
            "type": "array",
            "prefixItems": [{"type": "null"}],
            "items": {"type": "boolean"},
            "minItems": 3,
            "maxItems": 4,
        },
        lambda x: x[0] is None and all(item in (True, False) for item in x[1:]) and len(x) in (3, 4),
    ),
    ({"type": "array", "items": [{"type": "null"}, {"type": "boolean"}], "maxItems": 1}, lambda x: x == [None]),
    ({"type": "array", "prefixItems": [{"type": "null"}], "items": False}, lambda x: x == [None]),
    ({"type": "array", "items": False}, lambda x: x == []),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 2000}, lambda x: len(x) <= 2000),
    ({"type": "object", "required": ["a"]}, lambda x: "a" in x),
    (
        {"type": "object", "properties": PAIR, "required": ["a", "c"]},
        lambda x: {"a", "c"} <= x.keys() and _is_int(x["a"]),
    ),
    ({"type": "object", "properties": PAIR, "minProperties": 1}, lambda x: len(x) > 0 and x.keys() <= PAIR.keys()),
    ({"type": "object", "properties": PAIR, "maxProperties": 1}, lambda x: len(x) <= 1),
    (
        {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2},
        lambda x: len(x) in (1, 2),
    ),
    ({"additionalProperties": {"type": "null"}, "maxProperties": 2000}, lambda x: len(x) <= 2000),
    (
        {"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": False},
        lambda x: all(name.startswith("x_") and _is_int(value) for name, value in x.items()),
    ),
    (
        {"type": "object", "propertyNames": {"pattern": "^[a-z]{1,3}$"}},
        lambda x: all(re.fullmatch("[a-z]{1,3}", name) for name in x),
    ),
    (
        {"type": "object", "properties": PAIR, "additionalProperties": {"type": "integer", "multipleOf": 3}},
        lambda x: all(value % 3 == 0 for name, value in x.items() if name not in PAIR) and x.get("b") is None,
    ),
    (
        {"type": "object", "properties": {"a": True, "c": {"type": "null"}}, "dependentRequired": {"a": ["c"]}},
        lambda x: "a" not in x or "c" in x,
    ),
    ({"type": "object", "properties": {"a": False, "b": True}}, lambda x: x.keys() <= {"b"}),
    ({"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 3}]}, lambda x: len(x) in (2, 3)),
    ({"allOf": [{"$ref": "#/$defs/s"}], "$defs": {"s": {"type": "string", "maxLength": 2}}}, lambda x: len(x) <= 2),
    (
        {"$ref": "#/$defs/s", "minLength": 2, "$defs": {"s": {"type": "string", "maxLength": 3}}},
        lambda x: len(x) in (2, 3),
    ),
    (
        {"allOf": [{"properties": PAIR, "required": ["a"]}, {"properties": {"a": {"minimum": 3}}}]},
        lambda x: x["a"] >= 3,
    ),
    (
        {"type": "object", "properties": {"k": {"type": "null"}}, "anyOf": [{"required": ["k"]}, {"required": ["j"]}]},
        lambda x: "k" in x or "j" in x,
    ),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, lambda x: isinstance(x, str) or _is_int(x)),
    ({"oneOf": A_OR_B}, lambda x: x["t"] in ("a", "b") and (x["t"] == "a" or "v" not in x)),
    ({"oneOf": [{"type": "integer", "minimum": 5}, {"type": "integer", "maximum": 4}]}, _is_int),
    (LIST, _is_list),
    (
        {
            "type": "object",
            "properties": {"c": {"$ref": "#"}, "v": {"type": "number", "maximum": 2}},
            "required": ["v"],
        },
        lambda x: x["v"] <= 2 and ("c" not in x or x["c"]["v"] <= 2),
    ),
    ({"type": ["integer", "null"], "minimum": -2, "maximum": 2}, lambda x: x is None or -2 <= x <= 2),
    (
        {"type": "object", "properties": {"a~/b": {"type": "string", "pattern": "^x"}}, "required": ["a~/b"]},
        lambda x: x["a~/b"][0] == "x",
    ),
]

REFUSED: list[tuple[Any, str]] = [
    ({"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}, r"pattern at #/properties/a .*lookahead"),
    ({"type": "string", "pattern": r"(a)\1"}, r"pattern at # .*\\1 has no equivalent"),
    ({"type": "string", "pattern": r"\bfoo"}, "pattern at # "),
    ({"type": "string", "pattern": "("}, r"pattern at # .*\( is not closed"),
    ({"type": "string", "pattern": "a{5,2}"}, "pattern at # .*out of order"),
    ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "pattern at # .*more than 20,000 states"),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems at #"),
    ({"not": {"pattern": "a"}}, "not at #"),
    ({"if": {}, "then": {}}, "if at #"),
    ({"dependentSchemas": {}}, "dependentSchemas at #"),
    ({"type": "string", "format": "nonsense"}, "format at # 'nonsense' is not known"),
    ({"type": "string", "minLength": 5000}, "minLength at # is 5000, .* at most 2000 times"),
    ({"type": "string", "maxLength": 2001}, "maxLength at # is 2001"),
    ({"items": {"type": "array", "maxItems": 2001}}, "maxItems at #/items is 2001"),
    ({"type": "string", "minLength": "3"}, "minLength at # must be a whole number"),
    ({"type": "string", "minlength": 3}, "'minlength' at # is not a keyword; 'minLength' is"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf at # .*may both hold"),
    ({"$ref": "http://x/y"}, r"\$ref at # must name a place in the same schema"),
    ({"$ref": "#/$defs/q"}, r"\$ref at # names '#/\$defs/q', which is not in the schema"),
    ({"$ref": "#"}, r"\$ref at # names itself"),
    ({"type": "nope"}, "type at # must be one of"),
    ({"type": "string", "minLength": 3, "maxLength": 2}, "nothing can be valid at #: minLength 3 is above maxLength 2"),
    ({"properties": {"a": False}, "required": ["a"]}, "nothing can be valid at #/properties/a"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "nothing can be valid at #/allOf/1"),
    ({"const": 1, "type": "string"}, "nothing can be valid at #"),
    ({"type": "number", "minimum": 5, "maximum": 3}, "nothing can be valid at #"),
    ({"type": "integer", "multipleOf": 0}, "multipleOf at # must be a number above 0"),
    ({"type": "integer", "multipleOf": 100003}, "multipleOf at # cannot be followed"),
    ({"type": "integer", "minimum": "1"}, "minimum at # must be a number"),
    ({"type": "array", "contains": {"const": 1}, "maxContains": 1}, "maxContains at #"),
    ({"type": "object", "required": "a"}, "required at # must be a list of names"),
    ({"anyOf": []}, "anyOf at # must be a list of schemas that is not empty"),
    ({"properties": 3}, "properties at # must be an object of schemas"),
]

LLAMA_OBEYS: list[Any] = [
    {},
    {"type": "object"},
    {"type": "object", "properties": PAIR, "required": ["a"], "additionalProperties": False},
    {"type": ["string", "null"], "minLength": 2, "description": "a name", "default": None},
    {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 99}, {"enum": ["a", None]}], "title": "T"},
    {"type": "array", "items": {"$ref": "#/$defs/x"}, "minItems": 1, "$defs": {"x": {"type": "number"}}},
    {"type": "string", "format": "time"},
    {"type": "array", "prefixItems": [{"type": "null"}, {}], "minItems": 2, "maxItems": 2},
    {"allOf": [{"type": "object", "properties": {"a": {}}}, {"properties": {"b": {}}, "required": ["b"]}]},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "x-order": 3, "type": "boolean"},
]
