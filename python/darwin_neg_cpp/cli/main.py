"""`darwin-neg`: one verb, one file; this one finds the verb and turns errors into exit codes.

0 ok, 1 failure, 2 usage or bad input, 3 the machine's fault (disk full, I/O error), 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import ContextFullError, DarwinNegError, ModelFileError, NegHeadError, RequestError

# in the order of the help text; each module has add_parser(subparsers), which sets `run`
VERBS = ("generate", "chat", "info", "neg", "bench", "doctor")

BAD_INPUT = (ModelFileError, NegHeadError, RequestError, ContextFullError)
MACHINE_FAULTS = {errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="darwin-neg",
        description="Run language models with a NEG head: every token comes with its predicted entropy, and a gate may act on it.",
    )
    parser.add_argument("--version", action="version", version=f"darwin-neg {_version()}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in VERBS:
        import_module(f".{name}", __package__).add_parser(verbs)
    return parser


def _version() -> str:
    from .. import __version__

    return str(__version__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of a pipe has gone; nothing more may be written, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DarwinNegError as error:
        return _fail(str(error), 2 if isinstance(error, BAD_INPUT) or _is_usage(error) else 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 3 if error.errno in MACHINE_FAULTS else 2)


def _is_usage(error: DarwinNegError) -> bool:
    from ..atomic_file import OutputError

    return isinstance(error, OutputError)


def _fail(message: str, code: int) -> int:
    # one line, whatever a file name or a library's message holds
    print("darwin-neg: error: " + " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
