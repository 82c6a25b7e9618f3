"""Values that a schema lists: which of them its other keywords allow."""

from __future__ import annotations

from typing import Any

from . import keywords, numbers, strings
from .gbnf import literal
from .keywords import compact, impossible, refuse
from .merge import Words


def enum(words: Words, path: str) -> str:
    """Writes the values of enum that the other keywords allow."""
    if not isinstance(words["enum"], list):
        raise refuse(path, "enum", "must be a list")
    out = [literal(compact(value)) for value in words["enum"] if allows(words, value, path)]
    if not out:
        raise impossible(path, "no value of enum or const agrees with the other keywords")
    return " | ".join(dict.fromkeys(out))


def allows(words: Words, value: Any, path: str) -> bool:
    """Whether the keywords beside enum allow a value."""
    if "type" in words and not keywords.has_type(value, words["type"]):
        return False
    kind = keywords.type_of(value)
    kind = "number" if kind == "integer" else kind
    mine = words.keys() & keywords.OF_TYPE.get(kind, frozenset())
    if not mine:
        return True
    if kind == "string":
        return strings.allows(words, value, path)
    if kind == "number":
        return numbers.allows(words, value, path)
    raise refuse(path, sorted(mine)[0], "beside enum or const cannot be followed; leave out the values it forbids")
