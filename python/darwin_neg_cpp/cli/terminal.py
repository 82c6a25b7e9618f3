"""Output for people: colour of gated tokens, safe text, the closing line."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from ..engine.updates import join_chunks
from ..files.shown_text import escape_line, escape_terminal
from ..results import ChatReply, Chunk, Generation, NegTrace
from ..spans import UncertainSpan

GATED = "\033[33m"
DIM = "\033[2m"
RESET = "\033[0m"


def use_colour(stream: TextIO, choice: str = "auto") -> bool:
    """Decides on colour. auto: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class AnswerWriter:
    """Writes an answer while it is generated and keeps the figures for the closing line.

    Tokens at which the gate was active are coloured, where colour is wanted. Reasoning is shown dim on a terminal and
    left out of a pipe, which gets the answer alone.
    """

    def __init__(self, stream: TextIO, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._terminal = stream.isatty()
        self._raw: deque[tuple[str, bool]] = deque()  # generated characters that have not been shown yet
        self._thought = False
        self._shown = ""  # the last characters
        self.chunks: list[Chunk] = []
        self._parts: list[tuple[str | None, str]] = []  # visible text and reasoning

    def add(self, chunk: Chunk, text: str | None = None, reasoning: str = "") -> None:
        """Writes a chunk. text, reasoning: its visible parts, without the marks of a chat template."""
        self.chunks.append(chunk)
        self._parts.append((text, reasoning))
        active = chunk.neg.active if chunk.neg is not None else np.zeros(len(chunk.pieces), np.bool_)
        for piece, gated in zip(chunk.pieces, active, strict=True):
            self._raw.extend((c, bool(gated)) for c in piece)
        thoughts = self._marked(reasoning)
        if thoughts and self._terminal:
            self._write(thoughts, DIM if self._colour else "")
            self._thought = True
        visible = chunk.text if text is None else text
        if visible and self._thought:
            self._stream.write("\n\n")
            self._thought = False
        self._write(self._marked(visible), "")
        self._stream.flush()

    def answer(self) -> Generation | ChatReply:
        """Returns what has been written so far."""
        whole = join_chunks(self.chunks, "")
        if any(text is None for text, _ in self._parts):
            return whole
        text, reasoning = ("".join(part or "" for part in parts) for parts in zip(*self._parts, strict=True))
        return ChatReply(text, reasoning, whole)

    def end(self) -> None:
        """Closes the last line."""
        if not self._shown.endswith("\n"):
            self._stream.write("\n")
        self._stream.flush()

    def _marked(self, text: str) -> list[tuple[str, bool]]:
        """Pairs each visible character with whether its token was gated, by finding it in the generated text."""
        out = []
        for c in text:
            at = next((i for i, (raw, _) in enumerate(self._raw) if raw == c), None)
            for _ in range(at or 0):
                self._raw.popleft()
            out.append(self._raw.popleft() if at is not None else (c, False))
        return out

    def _write(self, marked: list[tuple[str, bool]], style: str) -> None:
        previous = False
        parts = [style]
        for c, gated in marked:
            if self._colour and gated != previous:
                parts.append(GATED if gated else RESET + style)
                previous = gated
            parts.append(escape_terminal(c, after=self._shown) if self._terminal else c)
            self._shown = (self._shown + c)[-3:]
        if previous or style:
            parts.append(RESET)
        if marked:
            self._stream.write("".join(parts))


def closing_line(chunks: list[Chunk]) -> str:
    """Sums up an answer: tokens, tokens/s, activation rate, mean predicted entropy and seed."""
    tokens = sum(len(chunk.token_ids) for chunk in chunks)
    seconds = chunks[-1].generate_seconds if chunks else 0.0
    # the first token comes with the prompt, so it takes none of the time
    rate = f"{(tokens - 1) / seconds:.1f} tokens/s" if tokens > 1 and seconds > 0 else "- tokens/s"
    traces = [chunk.neg for chunk in chunks if chunk.neg is not None]
    if traces:
        trace = NegTrace(np.concatenate([t.entropy for t in traces]), np.concatenate([t.active for t in traces]))
        neg = f"gate active {trace.activation_rate:.1%}, mean predicted entropy {trace.mean_entropy:.2f} nats"
    else:
        neg = "no NEG head"
    return f"[{tokens} tokens, {rate}, {neg}{f', seed {chunks[0].seed}' if chunks else ''}]"


def print_note(text: str) -> None:
    """Prints a line about the answer to stderr, dim on a terminal."""
    print(f"{DIM}{text}{RESET}" if use_colour(sys.stderr) else text, file=sys.stderr, flush=True)


def print_spans(spans: Sequence[UncertainSpan], text: str, threshold: float) -> None:
    """Prints the uncertain stretches of an answer to stderr, a line each. text: the answer."""
    characters = sum(span.end - span.start for span in spans)
    stretches = f"{len(spans)} uncertain {'stretch' if len(spans) == 1 else 'stretches'}"
    print_note(f"[{stretches} above {threshold:.3g} nats: {characters} of {len(text)} characters]")
    for span in spans:
        place = f"{span.start}-{span.end}"
        line = f"  {place:>9}  mean {span.mean_entropy:.2f}, max {span.max_entropy:.2f} nats  "
        print_note(f'{line}"{escape_line(span.text)}"')


def human_bytes(size: float) -> str:
    """Formats a number of bytes in the largest unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Formats names and values as lines, the values below each other."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
