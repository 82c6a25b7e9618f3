"""Errors of a grammar that was made from a JSON schema, told as what the user gave: the schema, and its keyword.

llama.cpp turns a schema into a grammar, and knows only the grammar when it refuses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ..errors import RequestError

MOST_REPETITIONS = 2000  # llama.cpp's MAX_REPETITION_THRESHOLD
MOST_NAMED = 3

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_REPEATED = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def explain(error: RequestError, schema: str, *, of_template: bool) -> RequestError:
    """The error of submitting a request. schema: its JSON schema, or "". of_template: the grammar may be of a chat
    template, which has made it from the schema or from tools."""
    text = str(error)
    if not text.startswith("grammar cannot be parsed") or not (schema or of_template):
        return error
    given = "json_schema" if schema else "json_schema or tools"
    if "exceeds sane defaults" not in text:
        reason = text.removeprefix("grammar cannot be parsed").removeprefix(": ").partition(" (GBNF")[0]
        return RequestError(f"{given} cannot be turned into a grammar{': ' * bool(reason)}{reason}; simplify it")
    counts = sorted(_repetitions(json.loads(schema), "") if schema else [], key=lambda entry: -entry[1])
    too_many = [entry for entry in counts if entry[1] > MOST_REPETITIONS] or counts
    named = ", ".join(f"{place} is {count}" for place, count in too_many[:MOST_NAMED])
    return RequestError(
        f"{given} repeats more than {MOST_REPETITIONS} times, which no grammar of llama.cpp may"
        f"{f': {named}' if named else ''}; lower the counts (minLength, minItems, {{n}} in a pattern), or check them "
        "in the answer"
    )


def _repetitions(schema: Any, path: str) -> Iterator[tuple[str, int]]:
    """Every keyword that repeats something, by its place in the schema, with its count."""
    if isinstance(schema, list):
        for i, item in enumerate(schema):
            yield from _repetitions(item, f"{path}[{i}]")
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        place = f"{path}.{key}" if path else key
        if key in _COUNTS and isinstance(value, int):
            yield place, value
        elif key == "pattern" and isinstance(value, str):
            for found in _REPEATED.finditer(value):
                yield f"{place} {{{found[1]}}}", int(found[2] or found[1])
        else:
            yield from _repetitions(value, place)
