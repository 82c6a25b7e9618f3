"""Writes the text that the demo head is trained on: documentation and licences of Python and of packages from PyPI.

    python scripts/demo_corpus.py FOLDER

Each document is a file named after its source: the topics of Python's own help, the long module docstrings of its
standard library, and the descriptions (README) and licences of the packages installed here, those of the group `test`.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from pydoc_data import topics

SHORTEST, LONGEST = 500, 20_000  # characters


def documents() -> dict[str, str]:
    """Finds the documents and returns them by name."""
    out = {f"python-help-{name}": text for name, text in topics.topics.items()}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text("utf-8", "replace")))
        out[f"python-module-{path.stem}"] = text or ""
    for package in sorted(metadata.distributions(), key=lambda package: package.metadata["Name"].lower()):
        name = package.metadata["Name"].lower()
        out[f"readme-{name}"] = package.metadata.get_payload() or ""  # type: ignore[attr-defined]
        for file in package.files or ():
            if re.match(r"(licen[cs]e|copying|notice)", file.name, re.IGNORECASE) and file.suffix in (
                "",
                ".txt",
                ".md",
            ):
                out.setdefault(f"licence-{name}", Path(str(file.locate())).read_text("utf-8", "replace"))
    return out


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, whole in documents().items():
        text = whole.strip()[:LONGEST]
        # many packages have the same licence, word for word but for the first lines
        key = re.sub(r"\W+", "", text[-400:])
        if len(text) >= SHORTEST and key not in seen:
            seen.add(key)
            (folder / f"{re.sub(r'[^a-z0-9.-]+', '-', name.lower())}.txt").write_text(text + "\n", "utf-8")
    print(f"{len(seen)} documents")


if __name__ == "__main__":
    main()
