"""Options that name servers, for verbs that can ask a model elsewhere."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import RequestError

if TYPE_CHECKING:
    from ..remote.engine import RemoteEngine

KEY_FLAG, KEY_VARIABLE = "--server-key", "DARWIN_NEG_SERVER_KEY"
STILL_OF_USE = ("verbose", "prefix_cache")


def add_server_options(parser: argparse.ArgumentParser, *, what: str, instead: bool = True) -> None:
    """Adds the options that name servers. what: is asked of them. instead: of a model in this process, whose options
    must have been added before."""
    local = {
        action.dest: (next((name for name in action.option_strings if name.startswith("--")), ""), action.default)
        for group in parser._action_groups
        if group.title not in ("positional arguments", "options", "protocol")
        for action in group._group_actions
        if instead and action.dest not in STILL_OF_USE
    }
    group = parser.add_argument_group("servers")
    group.add_argument(
        "--server",
        dest="servers",
        action="append",
        metavar="URL[,URL..]",
        help=f"{what} of these servers, `darwin-neg serve` or llama-server, all with the same model (repeatable)",
    )
    group.add_argument(
        KEY_FLAG,
        metavar="KEY",
        help=f"API key of the servers (default: the environment variable {KEY_VARIABLE}, which `ps` does not show)",
    )
    group.add_argument(
        "--server-patience",
        dest="server_patience",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="give up when no server has done anything for so long (default 120)",
    )
    parser.set_defaults(local_options=local)


def check_server_options(args: argparse.Namespace) -> None:
    """Refuses options of a model in this process beside --server."""
    for dest, (flag, default) in args.local_options.items():
        if getattr(args, dest) != default:
            raise RequestError(
                f"{flag} is about a model in this process, and --server names servers, which were started with options "
                "of their own; leave one of them out"
            )
    if getattr(args, "chat_template", None) is not None:
        raise RequestError(
            "--chat-template is for a model in this process; start the servers with --chat-template-file"
        )


def connect(args: argparse.Namespace) -> RemoteEngine:
    """Opens the servers that the options name."""
    from ..remote.engine import RemoteEngine

    if args.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(message)s")
    key = args.server_key if args.server_key is not None else os.environ.get(KEY_VARIABLE)
    cache = False if getattr(args, "prefix_cache", None) == 0 else None
    return RemoteEngine(args.servers, server_key=key, cache_prompt=cache, server_patience=args.server_patience)


def without_key(words: Sequence[str]) -> Iterator[str]:
    """A command line as a report may show it: without the key, which belongs to the environment."""
    rest = iter(words)
    for word in rest:
        if word == KEY_FLAG:
            next(rest, None)
        elif not word.startswith(f"{KEY_FLAG}="):
            yield word
