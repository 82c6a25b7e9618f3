"""Prints the requirements of the named extras in pyproject.toml, for installing them without the package itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def requirements(text: str, extra: str) -> list[str]:
    """The quoted strings of `extra = [...]`; enough of TOML for our own file, and tomllib is missing in Python 3.10."""
    body = re.search(rf"^{extra} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    if body is None:
        raise SystemExit(f"pyproject.toml has no extra {extra}")
    lines = [line.split("#")[0] for line in body[1].splitlines()]
    return re.findall(r'"([^"]+)"', "\n".join(lines))


def main() -> None:
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text("utf-8")
    base = re.search(r"^dependencies = \[(.*?)\]$", text, re.MULTILINE)
    print(
        " ".join(
            sum(
                (requirements(text, extra) for extra in sys.argv[1:]), re.findall(r'"([^"]+)"', base[1] if base else "")
            )
        )
    )


if __name__ == "__main__":
    main()
