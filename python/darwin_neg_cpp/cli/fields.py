"""Prints a titled list of labelled values, labels dim on a terminal that wants colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

LABEL_WIDTH = 14


def print_fields(title: str, fields: Iterable[tuple[str, str]], out: TextIO | None = None) -> None:
    """One line a field, under `title`; fields with an empty value are left out."""
    out = out or sys.stdout
    dim, bold, plain = ("\033[2m", "\033[1m", "\033[0m") if _wants_colour(out) else ("", "", "")
    print(f"{bold}{title}{plain}", file=out)
    for label, value in fields:
        if value:
            print(f"  {dim}{label:<{LABEL_WIDTH}}{plain} {value}", file=out)


def size(n_bytes: int) -> str:
    """Bytes in the unit a reader wants: 98.4 MB, 5.63 GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}" if n_bytes < 1000 * scale else f"{n_bytes / scale:.0f} {unit}"
    return f"{n_bytes} B"


def count(n: int) -> str:
    """A count of parameters: 134.5 M, 8.95 B."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.4g} {unit}"
    return str(n)


def _wants_colour(out: TextIO) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
