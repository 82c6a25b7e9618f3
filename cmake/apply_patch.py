"""Applies unified diffs with exact context: the source is pinned, so a hunk either fits to the letter or the pin has moved.

Standard library only; `patch` is not on every system and `git apply` skips files silently inside another repository.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """A patch that does not fit; the message names patch, file and hunk."""


@dataclass
class Hunk:
    """One change: `old` lines (with line ends) are replaced by `new` lines at about line `start` (1-based)."""

    start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


@dataclass
class FilePatch:
    path: str
    hunks: list[Hunk]


def parse(text: str, name: str) -> list[FilePatch]:
    """The files that a patch touches. Prose before the first `---` line is skipped."""
    files: list[FilePatch] = []
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            path = lines[at + 1][4:].split("\t")[0].strip()
            files.append(FilePatch(path.removeprefix("b/"), []))
            at += 2
            continue
        match = _HUNK.match(line)
        if match is None:
            at += 1
            continue
        if not files:
            raise PatchError(f"{name}: a hunk comes before any file name")
        hunk = Hunk(int(match[1]))
        left_old, left_new = int(match[2] or 1), int(match[4] or 1)
        at += 1
        while left_old > 0 or left_new > 0:
            if at >= len(lines):
                raise PatchError(f"{name}: the patch ends inside a hunk of {files[-1].path}")
            tag, body = lines[at][0], lines[at][1:]
            if tag in " -" or lines[at] == "\n":
                hunk.old.append(body if tag in " -" else "\n")
                left_old -= 1
            if tag in " +" or lines[at] == "\n":
                hunk.new.append(body if tag in " +" else "\n")
                left_new -= 1
            at += 1
        files[-1].hunks.append(hunk)
    return files


def _find(lines: list[str], hunk: Hunk, guess: int) -> int | None:
    """Where the old lines stand, nearest to `guess`; earlier patches may have moved them."""
    size = len(hunk.old)
    places = [i for i in range(len(lines) - size + 1) if lines[i : i + size] == hunk.old]
    return min(places, key=lambda i: abs(i - guess)) if places else None


def misfits(files: list[FilePatch], texts: dict[str, str | None], name: str) -> list[str]:
    """Applies in memory, changing `texts` (path -> text, None where the file is missing); returns what does not fit."""
    problems = []
    for file in files:
        text = texts.get(file.path)
        if text is None:
            problems.append(f"{name}: {file.path}: the file is missing")
            continue
        crlf = "\r\n" in text
        lines = text.replace("\r\n", "\n").splitlines(keepends=True)
        shift = 0
        for hunk in file.hunks:
            place = _find(lines, hunk, hunk.start - 1 + shift)
            if place is None:
                problems.append(f"{name}: {file.path}: the hunk at line {hunk.start} does not fit")
                continue
            lines[place : place + len(hunk.old)] = hunk.new
            shift = place - (hunk.start - 1) + len(hunk.new) - len(hunk.old)
        out = "".join(lines)
        texts[file.path] = out.replace("\n", "\r\n") if crlf else out
    return problems


def read_text(path: Path) -> str | None:
    """The file's text with its line ends kept, or None when it is not there."""
    return path.read_bytes().decode("utf-8") if path.is_file() else None


def patched_texts(tree: Path, patches: list[Path]) -> tuple[dict[str, str], list[str]]:
    """The new text of every touched file (patches in order), and what does not fit. Nothing is written."""
    texts: dict[str, str | None] = {}
    problems: list[str] = []
    for patch in patches:
        files = parse(patch.read_text("utf-8"), patch.name)
        for file in files:
            texts.setdefault(file.path, read_text(tree / file.path))
        problems += misfits(files, texts, patch.name)
    return {path: text for path, text in texts.items() if text is not None}, problems


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
