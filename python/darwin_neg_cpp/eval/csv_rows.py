"""Records of a CSV file, each with the line it begins in; what is wrong with the file is told with line and column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import RequestError
from ..files.input_file import open_input, shown_path

MAX_BYTES = 1 << 28  # the largest of the usual sets, all of MMLU, is below 10 MB


@dataclass(frozen=True)
class Row:
    """line: where the record begins, from 1; cells may hold line ends, so records are not lines."""

    line: int
    cells: tuple[str, ...]


def read_text(path: str) -> tuple[str, bytes]:
    """Text and bytes of a UTF-8 file, with or without a byte order mark. Errors: RequestError."""
    name = shown_path(path)
    with open_input(path, RequestError) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise RequestError(f"{name}: is larger than {MAX_BYTES >> 20} MiB; split it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        begin = data.rfind(b"\n", 0, error.start) + 1
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(
            f"{name}: line {line}, column {error.start - begin + 1} (bytes): is not UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        column = text.index("\0") - text.rfind("\n", 0, text.index("\0"))
        raise RequestError(f"{name}: line {line}, column {column}: holds a zero byte; it is no text file")
    return text, data


def rows(name: str, text: str) -> Iterator[Row]:
    """The records of CSV text in the form of RFC 4180, blank lines left out. name: of the file, for errors."""
    # newline="\n": line ends inside quotes stay what they are, and lines are those that an editor counts
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    begin = 1
    try:
        for cells in reader:
            if cells:
                yield Row(begin, tuple(cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise RequestError(f"{name}: line {begin}{_column(text, begin)}: {_said(error)}") from None


def _said(error: csv.Error) -> str:
    said = str(error)
    if "unexpected end of data" in said:
        return "a quote is opened and never closed; close it, and write a quote inside a cell twice"
    if "expected after" in said:
        return "a quoted cell goes on behind its closing quote; write a quote inside a cell twice"
    if "field larger" in said:
        return f"a cell has more than {csv.field_size_limit()} characters; a quote may be open before it"
    return f"is not CSV ({said}); write it again with a program that knows CSV"


def _column(text: str, line: int) -> str:
    """Which cell of the record that begins in `line` is the broken one, counted from 1; csv does not tell."""
    rest = text.split("\n", line - 1)[-1] if line > 1 else text
    state, cell, size = "begin", 1, 0
    for c in rest:
        size += 1
        if size > csv.field_size_limit():
            break
        if state == "quoted":
            state = "closed" if c == '"' else "quoted"
        elif c == "," and state in ("begin", "bare", "closed"):
            state, cell, size = "begin", cell + 1, 0
        elif c == '"' and state in ("begin", "closed"):
            state = "quoted"
        elif c in "\r\n" or state == "closed":
            break
        else:
            state = "bare"
    return f", column {cell}"
