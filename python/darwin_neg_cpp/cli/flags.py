"""Names of library arguments in an error, replaced by the flags of the verb that was run.

The library's errors name arguments (`top_k must be at least 0`, `replace it with force=True`). The command line shows
the same sentence with its own names (`--top-k must be at least 0`, `replace it with --force`). Which flag stands for
which argument is read from the parser: an option's `dest` is the name of the argument that it sets.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

# A name by itself, and `name=value`. Not inside a path, a quoted text or the key of a model file ("neg.top_k").
WORD = re.compile(r"""(?<![\w/\\.\-="'`])(?P<name>[a-z]\w*(?:\.[a-z]\w*)?)(?P<value>=[\w.]*)?(?![\w/\\"'`=-]|\.\w)""")
# What follows an argument that a sentence begins with.
VERB = re.compile(r" (?:must|is|are|has|holds|cannot|needs|and [a-z]\w* are) ?")


@dataclass(frozen=True)
class Flag:
    """How the command line spells an argument: as `on`, and as `off` where a flag sets it to False."""

    on: str = ""
    off: str = ""


def flags_of(parser: argparse.ArgumentParser) -> dict[str, Flag]:
    """The flags of a verb by argument. The verb's default `arguments` adds {argument: dest} where they differ."""
    flags = {action.dest: flag for action in parser._actions if (flag := _flag(action)) is not None}
    others: dict[str, str] = parser.get_default("arguments") or {}
    return {**flags, **{argument: flags[dest] for argument, dest in others.items()}}


def parser_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the verb that `args` came from."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return parser_of(action.choices[getattr(args, action.dest)], args)
    return parser


def with_flags(message: str, flags: dict[str, Flag]) -> str:
    """The message with flags in the place of arguments.

    Replaced are `name=value` anywhere, a name with an underscore anywhere, and a name of a single word where the
    message is about it ("seed must be ..."), because such words are also plain English.
    """

    def spelled(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        flag = flags.get(name.replace("neg.", "neg_", 1))
        leads = VERB.match(message, found.end()) and (found.start() == 0 or message[: found.start()].endswith(" and "))
        if flag is None or not (value or "_" in name or leads) or ("." in name and not leads):
            return found[0]
        if value == "=False":
            return flag.off or found[0]
        given = "" if value in (None, "=", "=True", "=...") else f" {value[1:]}"
        return f"{flag.on}{given}" if flag.on else found[0]

    return WORD.sub(spelled, message)


def _flag(action: argparse.Action) -> Flag | None:
    """None for what is not an option."""
    names = [name for name in action.option_strings if name.startswith("--")]
    if not names:
        return None
    if isinstance(action, argparse.BooleanOptionalAction):
        return Flag(names[0], names[-1])
    return Flag(off=names[0]) if action.const is False else Flag(names[0])
