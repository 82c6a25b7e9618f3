"""Prompts as token ids: the servers' own template and tokenizer, used as the engine uses its own."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.token_ids import split_added
from ..engine.user_text import Given, UserText, tokenize_pieces
from ..errors import DarwinNegError
from .completion import Withheld
from .fleet import Fleet

# what every control token's text begins with or holds
MAY_BE_MARKER = re.compile(r"[<\[{|]")
KEPT = 256


@dataclass(frozen=True)
class Rendered:
    """text: what the template makes of a prompt. tokens: as the model gets it."""

    text: str
    tokens: tuple[int, ...]


class Renderer:
    """Puts prompts into the servers' chat template and tokenizes them; keeps the last ones. Safe in several threads."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._template = fleet.identity.chat_template if fleet.identity.has_template else ""
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, bool], Rendered] = OrderedDict()
        self._added: tuple[list[int], list[int]] | None = None

    def render(self, prompt: str, *, thinking: bool) -> Rendered:
        """The prompt as a user's only message, or as it is where the model has no template."""
        key = prompt, thinking
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        rendered = self._render_chat(prompt, thinking) if self._template else self._render_text(prompt)
        with self._lock:
            self._kept[key] = rendered
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return rendered

    def _render_text(self, prompt: str) -> Rendered:
        return Rendered(prompt, tuple(self._with_one_start(self.tokenize(prompt.encode(), True, False))))

    def _render_chat(self, prompt: str, thinking: bool) -> Rendered:
        given, mark = Given([{"role": "user", "content": prompt}], [], {}), ""
        if markers := self._find_markers(prompt):
            given, mark = UserText(_Texts(self, self._template, markers)).protect(given)
        answer = self._fleet.ask(
            "/apply-template", {"messages": given.messages, "chat_template_kwargs": {"enable_thinking": thinking}}
        )
        pieces = _entry(answer, "prompt", str).split(mark) if mark else [_entry(answer, "prompt", str)]
        text = "".join(pieces)
        if len(pieces) == 1:
            tokens = self.tokenize(text.encode(), True, True)
        else:
            tokens = tokenize_pieces(_Texts(self, self._template, []), pieces)
        return Rendered(text, tuple(self._without_end(self._with_one_start(tokens))))

    def _with_one_start(self, tokens: list[int]) -> list[int]:
        """A text that begins with the start token, as templates write it, does not get a second one."""
        start, _ = self._find_added()
        return tokens[1:] if start and tokens[:2] == start[:1] * 2 else tokens

    def _without_end(self, tokens: list[int]) -> list[int]:
        """Without the end token that some vocabularies put after every text: the answer would start after it."""
        _, end = self._find_added()
        return tokens[: len(tokens) - len(end)] if end and tokens[-len(end) :] == end else tokens

    def _find_added(self) -> tuple[list[int], list[int]]:
        """The tokens that the vocabulary puts before and after a text."""
        if self._added is None:
            self._added = split_added(self.tokenize(b"a", True, True), self.tokenize(b"a", False, True))
        return self._added

    def _find_markers(self, prompt: str) -> list[tuple[str, bool]]:
        """The texts in a prompt that would become control tokens (True), or single tokens that are tags (False)."""
        if not MAY_BE_MARKER.search(prompt):
            return []
        body = {"content": prompt, "add_special": False, "parse_special": True, "with_pieces": True}
        pieces = {entry["piece"]: entry["id"] for entry in self._tokens(body) if isinstance(entry["piece"], str)}
        texts = [(text, token) for text, token in pieces.items() if len(text) > 1 and MAY_BE_MARKER.search(text)]
        return [(text, self.tokenize(text.encode(), False, False) != [token]) for text, token in texts]

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        body = {"content": text.decode("utf-8", "replace"), "add_special": add_special, "parse_special": parse_special}
        return [int(token) for token in self._tokens(body)]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(_entry(self._fleet.ask("/detokenize", {"tokens": list(tokens)}), "content", str))

    def tokens_of(self, text: str) -> list[tuple[int, bytes]]:
        """Token ids of plain text, each with its bytes."""
        body = {"content": text, "add_special": False, "parse_special": False, "with_pieces": True}
        found = [(int(entry["id"]), entry["piece"]) for entry in self._tokens(body)]
        return [(token, piece.encode() if isinstance(piece, str) else bytes(piece)) for token, piece in found]

    def complete_ids(self, tokens: Sequence[int], withheld: Sequence[Withheld]) -> tuple[int, ...]:
        """The token ids of an answer, with those that the server has kept back; () where they cannot be told.

        A server sends a character that several tokens make up with the last of them. The others are those of the
        character's own tokenization, if that has as many, and the same last one.
        """
        ids = list(tokens)
        for place, count, text in reversed(withheld):
            if text is None or "\ufffd" in text:  # what is no character can be made up in many ways
                return ()
            found = self.tokens_of(text)[-count:]
            if b"".join(part for _, part in found) != text.encode() or found[-1][0] != ids[place]:
                return ()
            if len(found) != count:
                return ()
            ids[place : place + 1] = [token for token, _ in found]
        return tuple(ids)

    def _tokens(self, body: Any) -> list[Any]:
        return list(_entry(self._fleet.ask("/tokenize", body), "tokens", list))


class _Texts:
    """What UserText asks of an engine, answered by servers. markers: of the vocabulary, those that matter here."""

    def __init__(self, renderer: Renderer, template: str, markers: list[tuple[str, bool]]) -> None:
        self._renderer, self._template, self._markers = renderer, template, markers

    def model_info(self) -> dict[str, Any]:
        return {"chat_template": self._template}

    def marker_texts(self) -> list[tuple[str, bool]]:
        return self._markers

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        return self._renderer.tokenize(text, add_special, parse_special)

    def detokenize(self, tokens: list[int], special: bool) -> bytes:
        return self._renderer.detokenize(tokens).encode()


def _entry(answer: Any, name: str, kind: type[Any]) -> Any:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise DarwinNegError(f"a server's answer has no {name!r}; is it a llama-server of another version?")
    return value
