"""The errors that this package raises on purpose.

Every message names the file or argument, says what is wrong with it and what to do.
"""

import contextlib
from collections.abc import Iterator


class DarwinNegError(Exception):
    """Base of all errors below; catch it to catch them all."""


class ModelFileError(DarwinNegError):
    """A model file is missing, damaged, not GGUF, or not one that llama.cpp can run."""


class NegHeadError(DarwinNegError):
    """A NEG head or gate is missing where asked for, incomplete, malformed, or made for another backbone."""


class ContextFullError(DarwinNegError):
    """A prompt does not fit the context; nothing of it was evaluated."""


class RequestError(DarwinNegError):
    """An argument of a generation request is out of range or contradictory."""


class OutputError(DarwinNegError):
    """An output file cannot be written as asked."""


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Joins the lines of an error of llama.cpp's parsers into one."""
    try:
        yield
    except DarwinNegError as error:
        text = " ".join(str(error).split())
        if text == str(error):
            raise
        raise type(error)(text) from None
