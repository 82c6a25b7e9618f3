"""Text that a user gives, in a file or through a pipe: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import codecs

from ..errors import DarwinNegError

# other encodings begin with these; the longer mark first, which begins with the shorter
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decode_text(data: bytes, where: str, error: type[DarwinNegError], *, remedy: str = "convert it") -> str:
    """Decodes UTF-8 without its byte order mark, and with "\\n" at the end of every line.

    Windows editors write the mark, which would become a token in front of a prompt. where: how errors about it
    begin, "notes.txt:" or "standard input".
    """
    for mark, name in OTHER_MARKS.items():
        if data.startswith(mark) and _is_encoded(data, name):
            raise error(f"{where} is {name} text, not UTF-8; {remedy}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise error(f"{where} is not UTF-8 text (byte {wrong.start}); {remedy}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_encoded(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def without_last_newline(text: str) -> str:
    """A prompt without the newline that ends every file and every line of `echo`, as llama.cpp takes it."""
    return text.removesuffix("\n")
