"""Errors of a grammar that was made from a JSON schema, told as what the user gave: the schema.

llama.cpp turns a schema into a grammar, and knows only the grammar when it refuses it. The counts of a schema itself
are checked before (json_schema/keywords.py); nested ones, and those of tools, show here.
"""

from __future__ import annotations

from ..errors import RequestError
from ..json_schema.keywords import MAX_REPEATS


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
    return RequestError(
        f"{given} repeats more than {MAX_REPEATS} times, which no grammar of llama.cpp may; lower the counts "
        "(minLength, minItems, {n} in a pattern), or check them in the answer"
    )
