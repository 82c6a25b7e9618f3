"""What a person sees: colour of gated tokens, harmless output, the closing line, progress bars."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..results import Chunk, NegTrace

GATED = "\033[33m"
DIM = "\033[2m"
RESET = "\033[0m"


def use_colour(stream: TextIO, choice: str = "auto") -> bool:
    """auto: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def harmless(text: str) -> str:
    """Model output for a terminal: control characters other than newline and tab are shown, not obeyed."""
    return "".join(c if c in "\n\t" or (ord(c) >= 32 and not 0x7F <= ord(c) < 0xA0) else f"\\x{ord(c):02x}" for c in text)


def write_chunk(chunk: Chunk, stream: TextIO, *, colour: bool) -> None:
    """Writes a chunk's text; tokens at which the gate was active are coloured."""
    clean = harmless if stream.isatty() else str
    if chunk.neg is None or not colour:
        stream.write(clean(chunk.text))
    else:
        for piece, active in zip(chunk.pieces, chunk.neg.active, strict=True):
            stream.write(f"{GATED}{clean(piece)}{RESET}" if active and piece else clean(piece))
    stream.flush()


def closing_line(tokens: int, seconds: float, neg: NegTrace | None) -> str:
    """tokens, tokens/s, activation rate and mean predicted entropy of an answer."""
    rate = f"{tokens / seconds:.1f} tokens/s" if seconds > 0 and tokens > 1 else "- tokens/s"
    line = f"[{tokens} tokens, {rate}"
    if neg is None:
        return line + ", no NEG head]"
    return f"{line}, gate active {neg.activation_rate:.1%}, mean predicted entropy {neg.mean_entropy:.2f} nats]"


@contextmanager
def progress_bar(title: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that draws a bar on stderr, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from tqdm import tqdm

    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=title, unit=unit, unit_scale=True, leave=False)
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


def human_bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
