"""`darwin-neg`: each verb is a file of its own; this one finds the verb and turns errors into exit codes.

0 success, 1 failure, 2 usage or bad input, 3 a fault of the machine (disk full, I/O error, out of memory),
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ..errors import ContextFullError, DarwinNegError, ModelFileError, NegHeadError, OutputError, RequestError
from .flags import Flag, flags_of, parser_of, with_flags

# in the order of the help text; each module has add_parser(subparsers), which sets `run`
VERBS = (
    "download",
    "convert",
    "quantize",
    "generate",
    "chat",
    "answer",
    "info",
    "neg",
    "trace",
    "train-head",
    "calibrate",
    "batch",
    "eval",
    "serve",
    "rpc-server",
    "bench",
    "doctor",
)

# of these verbs, what follows such a word is for another program, and read by the verb itself
HANDED_ON = {"serve": ("--", "--raw")}

OK, FAILURE, BAD_INPUT, MACHINE, INTERRUPTED = 0, 1, 2, 3, 130

MACHINE_FAULTS = {errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE}


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line and no guessing at abbreviated options. Its subparsers are of this class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        _fail(f"{message}; see `{self.prog} --help`", BAD_INPUT)
        raise SystemExit(BAD_INPUT)


class Version(argparse.Action):
    """Prints the version; looked up only on request, because that takes time."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .. import __version__

        print(f"darwin-neg {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show a character gets a stand-in, not an error in the middle of an answer
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    flags: dict[str, Flag] = {}
    try:
        parser = build_parser(_verbs_needed(argv))
        args = parser.parse_args(_own_words(argv))
        args.argv = argv
        flags = args.flags = flags_of(parser_of(parser, args))
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of a pipe has gone; nothing more may be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except DarwinNegError as error:
        return _fail(with_flags(str(error), flags), _code(error))
    except MemoryError:
        return _fail(with_flags("out of memory; try a smaller n_ctx or n_parallel, or a smaller model", flags), MACHINE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", MACHINE if error.errno in MACHINE_FAULTS else BAD_INPUT)


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """Builds the parser of the command line, with these verbs only."""
    parser = Parser(
        prog="darwin-neg",
        description="Runs language models with a NEG head: every token comes with its predicted entropy, "
        "and a gate can act on it.",
    )
    parser.add_argument("--version", action=Version, help="show the version and exit")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in verbs:
        import_module(f".{name.replace('-', '_')}", __package__).add_parser(subparsers)
    return parser


def _verbs_needed(argv: Sequence[str]) -> Sequence[str]:
    """Returns the verb named alone, as the others need not be imported, or all of them for help and errors."""
    return (argv[0],) if argv and argv[0] in VERBS else VERBS


def _own_words(argv: Sequence[str]) -> Sequence[str]:
    """The words that the verb's parser reads."""
    marks = HANDED_ON.get(argv[0], ()) if argv else ()
    ends = [argv.index(mark) for mark in marks if mark in argv]
    if not ends:
        return argv
    end = min(ends)
    return argv[: end if argv[end] == "--" else end + 1]


def _code(error: DarwinNegError) -> int:
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.errno in MACHINE_FAULTS:
        return MACHINE
    bad_input = (ModelFileError, NegHeadError, RequestError, ContextFullError, OutputError)
    return BAD_INPUT if isinstance(error, bad_input) else FAILURE


def _fail(message: str, code: int) -> int:
    from ..files.shown_text import escape_line

    # one line, whatever a file name or a library's message holds
    print("darwin-neg: error: " + escape_line(" ".join(message.split())), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
