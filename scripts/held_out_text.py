#!/usr/bin/env python3
"""Writes a text that the demo head was not trained on: the English chapters of the Debian Administrator's Handbook.

    apt-get download debian-handbook=11.20220922 && dpkg-deb -x debian-handbook_*.deb handbook
    python scripts/held_out_text.py handbook FOLDER

Each page becomes a file of its paragraphs and headings, without programs and tables. The handbook is under the GPL and
CC BY-SA; nothing of it is in this repository.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path

PAGES = "usr/share/doc/debian-handbook/html/en-US/*.html"
HEADINGS = ("h1", "h2", "h3")
SHORTEST = 1000  # characters of a page


class Paragraphs(HTMLParser):
    """Collects the text of paragraphs and headings."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HEADINGS or ("class", "para") in attrs:
            self._inside = tag
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def main() -> None:
    package, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for page in sorted(package.glob(PAGES)):
        reader = Paragraphs()
        reader.feed(page.read_text("utf-8"))
        paragraphs = [" ".join(text.split()) for text in reader.found]
        text = "\n\n".join(text for text in paragraphs if text)
        if len(text) >= SHORTEST:
            (folder / f"{page.stem}.txt").write_text(text + "\n", "utf-8")
            count += 1
    if not count:
        sys.exit(f"{package}: holds no pages {PAGES}; unpack the package debian-handbook there")
    print(f"{count} pages")


if __name__ == "__main__":
    main()
