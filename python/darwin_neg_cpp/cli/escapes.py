"""Escapes in texts that are given on the command line, where a shell makes a newline hard to type."""

from __future__ import annotations

import re

from ..errors import RequestError

MEANT = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"'": b"'", b'"': b'"', b"\\": b"\\"}
ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[nrt'\"\\])")


def unescape(name: str, text: str) -> str:
    r"""Replaces \n, \r, \t, \', \", \\ and \xHH, one byte, as llama.cpp's tools do; any other backslash stays.

    name: of the argument, for errors. Errors: RequestError where the bytes are not UTF-8.
    """
    if "\\" not in text:
        return text
    data = ESCAPE.sub(_meant, text.encode("utf-8", "surrogateescape"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(
            rf"{name}: its \xHH escapes are not UTF-8; write all bytes of a character, or pass escape=False"
        ) from None


def _meant(found: re.Match[bytes]) -> bytes:
    code = found[1]
    return bytes([int(code[1:], 16)]) if code.startswith(b"x") else MEANT[code]
