"""`python -m darwin_neg_cpp.cli.docs`: prints docs/cli.md, made from the options that the verbs declare.

The layout of argparse's help differs between versions of Python, so the lists are laid out here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .main import build_parser

HEADER = """\
# Command line

Generated with `python -m darwin_neg_cpp.cli.docs > docs/cli.md`; a test compares this file with the code.

Exit codes: 0 success, 1 failure, 2 usage or bad input, 3 a fault of the machine (disk full, out of memory),
130 interrupted. An error is one line on standard error that begins with `darwin-neg: error:`. `NO_COLOR` is obeyed.

The same flag means the same in every verb: `-o, --out` is the file or folder to write, `--side-car` the NEG side-car,
`--neg` what the gate does, `--head` a file to take a head from, `-n, --max-tokens` a maximum number of tokens and
`--samples` a number of samples.
"""


def document() -> str:
    """Writes docs/cli.md as text."""
    sections = [HEADER]
    for parser in _leaves(build_parser()):
        sections.append(f"## {parser.prog}\n\n{parser.description}\n")
        for group in parser._action_groups:
            lines = [_line(action) for action in group._group_actions if not _hidden(action)]
            if lines:
                title = "" if group.title in ("positional arguments", "options") else f"{group.title}:\n\n"
                sections.append(title + "\n".join(lines) + "\n")
    return "\n".join(sections)


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields the parsers of verbs without verbs of their own, in the order of the help text."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        for child in action.choices.values():
            yield from _leaves(child)


def _hidden(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS


def _line(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or _choices(action) or action.dest.upper())
    names = ", ".join(action.option_strings)
    help_text = (action.help or "") % {**vars(action), "prog": "darwin-neg"}
    return f"- `{f'{names} {value}'.strip()}`: {help_text}"


def _choices(action: argparse.Action) -> str:
    return "|".join(map(str, action.choices)) if action.choices else ""


if __name__ == "__main__":
    print(document(), end="")
