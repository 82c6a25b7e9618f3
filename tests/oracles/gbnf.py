"""Reads grammars in GBNF, of the part that llama.cpp documents, and draws texts of them at random."""

from __future__ import annotations

import random
from typing import Any

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX = {"x": 2, "u": 4, "U": 8}


class Grammar:
    """Rules by name. A node is ("text", str), ("set", negative, ranges), ("rule", name), ("all", nodes), ("any", nodes)
    or ("times", node, low, high)."""

    def __init__(self, text: str) -> None:
        self.rules: dict[str, Any] = {}
        for line in filter(None, text.split("\n")):
            name, _, body = line.partition(" ::= ")
            assert body and name not in self.rules, name
            self._text, self._at = body, 0
            self.rules[name] = self._alternatives()
            assert self._at == len(body), (name, body[self._at :])

    def draw(self, rng: random.Random, name: str, depth: int = 0) -> str:
        return self._draw(rng, self.rules[name], depth + 1)

    def _draw(self, rng: random.Random, node: Any, depth: int) -> str:
        if depth > 60:
            raise RecursionError
        kind = node[0]
        if kind == "text":
            return str(node[1])
        if kind == "rule":
            return self.draw(rng, node[1], depth)
        if kind == "all":
            return "".join(self._draw(rng, part, depth) for part in node[1])
        if kind == "any":
            return self._draw(rng, rng.choice(node[1]), depth)
        if kind == "times":
            low, high = node[2], node[3]
            count = rng.randint(low, low + 2 if high is None else min(high, low + 3))
            return "".join(self._draw(rng, node[1], depth) for _ in range(count))
        return self._character(rng, node[1], node[2])

    def _character(self, rng: random.Random, negative: bool, ranges: list[tuple[int, int]]) -> str:
        if negative:
            codes = [*range(0x20, 0x7F), 0xE9, 0x1F600]
            return chr(rng.choice([code for code in codes if not any(low <= code <= high for low, high in ranges)]))
        low, high = rng.choice(ranges)
        code = rng.randint(low, min(high, low + 200))
        return chr(code)

    def _peek(self) -> str:
        while self._at < len(self._text) and self._text[self._at] == " ":
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _alternatives(self) -> Any:
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())
        return ("any", options)

    def _sequence(self) -> Any:
        parts = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._item()))
        return ("all", parts)

    def _item(self) -> Any:
        first = self._peek()
        self._at += 1
        if first == "(":
            inner = self._alternatives()
            assert self._peek() == ")"
            self._at += 1
            return inner
        if first == '"':
            out = ""
            while self._text[self._at] != '"':
                out += self._char()
            self._at += 1
            return ("text", out)
        if first == "[":
            return self._set()
        begin = self._at - 1
        while self._at < len(self._text) and (self._text[self._at].isalnum() or self._text[self._at] == "-"):
            self._at += 1
        return ("rule", self._text[begin : self._at])

    def _set(self) -> Any:
        negative = self._text[self._at] == "^"
        self._at += negative
        ranges = []
        while self._text[self._at] != "]":
            low = high = ord(self._char())
            if self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = ord(self._char())
            ranges.append((low, high))
        self._at += 1
        return ("set", negative, ranges)

    def _char(self) -> str:
        character = self._text[self._at]
        self._at += 1
        if character != "\\":
            return character
        letter = self._text[self._at]
        self._at += 1
        if letter in _HEX:
            digits = self._text[self._at : self._at + _HEX[letter]]
            self._at += len(digits)
            return chr(int(digits, 16))
        return _ESCAPES[letter]

    def _repeated(self, item: Any) -> Any:
        mark = self._text[self._at : self._at + 1]
        if mark and mark in "*+?":
            self._at += 1
            return ("times", item, int(mark == "+"), 1 if mark == "?" else None)
        if mark == "{":
            end = self._text.index("}", self._at)
            low, comma, high = self._text[self._at + 1 : end].partition(",")
            self._at = end + 1
            return ("times", item, int(low), int(high) if high else None if comma else int(low))
        return item
