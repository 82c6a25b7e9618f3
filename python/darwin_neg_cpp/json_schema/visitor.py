"""What the rules of one kind of value need of the whole: rules of the schemas inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .gbnf import Rules
from .keywords import Schema
from .merge import Merger, Words


class Visitor(Protocol):
    """Goes through one schema and adds its rules, as the converter in schema.py does."""

    merger: Merger
    rules: Rules

    def visit(self, schema: Schema, path: str) -> str:
        """The rule of a schema."""

    def cases(self, words: Words, path: str) -> Iterator[Words]:
        """The keywords without anyOf and oneOf, once for each way to choose among those."""

    def case(self, words: Words, path: str) -> str:
        """The text of a rule, of keywords among which there is nothing to choose."""
