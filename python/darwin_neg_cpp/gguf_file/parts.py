"""Split models: the names of the files that one consists of, and the headers of all of them as one."""

from __future__ import annotations

import os
import re
from dataclasses import replace

from gguf import GGUFValueType

from ..errors import ModelFileError
from ..files.input_file import PathLike, shown, shown_path
from .header import Header, TensorInfo, read_header

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class UnreadablePartError(ModelFileError):
    """A part whose header is refused by our reader, which may know fewer types than llama.cpp."""


def part_names(name: str) -> list[str]:
    """The names of all parts of a model, given that of one: `a-00001-of-00002.gguf`, `a-00002-of-00002.gguf`."""
    split = SPLIT.search(name)
    if split is None:
        return [name]
    return [SPLIT.sub(f"-{part:05d}-of-{split[2]}.gguf", name) for part in range(1, int(split[2]) + 1)]


def whole_name(name: str) -> str:
    """The name of a part without its number."""
    return SPLIT.sub(".gguf", name)


def is_first(name: str) -> bool:
    """Whether it is the file that a model is opened by: not split, or the first part."""
    split = SPLIT.search(name)
    return split is None or split[1] == "00001"


def read_model(path: PathLike) -> Header:
    """Reads the header of a model, of all its parts if it is split. Raises ModelFileError."""
    return with_parts(read_header(path))


def with_parts(header: Header) -> Header:
    """Joins the other parts of a split model to the header of its first; any other header is returned as it is.

    Raises ModelFileError, which names the part that is missing, unreadable, or not of this model.
    """
    count = split_count(header)
    if count == 1:
        return header
    number = _part_number(header)
    first = shown_path(os.path.basename(header.path))
    if number != 1:
        raise ModelFileError(
            f"{shown_path(header.path)}: is part {number} of the {count} of a split model; give the first part"
            + (f", {shown_path(part_names(first)[0])}" if SPLIT.search(first) else "")
        )
    names = part_names(header.path)
    if not is_first(header.path) or len(names) != count:
        raise ModelFileError(
            f"{shown_path(header.path)}: is the first of the {count} parts of a split model, but its name does not end "
            f"in -00001-of-{count:05d}.gguf, by which the others are found; give all parts the names they came with"
        )
    parts = [header, *(_read_part(name, i, count, header) for i, name in enumerate(names[1:], 2))]
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        if twice := [name for name in part.tensors if name in tensors]:
            raise ModelFileError(
                f"{shown_path(part.path)}: tensor '{shown(twice[0])}' is in an earlier part of {first} too, so they "
                "are not of one model; download all parts again"
            )
        tensors |= part.tensors
    if (meant := header.value("split.tensors.count")) != len(tensors):
        raise ModelFileError(
            f"{shown_path(header.path)}: its {count} parts hold {len(tensors)} tensors, split.tensors.count is {meant}"
            ", so they are not of one model; download all parts again"
        )
    return replace(header, tensors=tensors, file_size=sum(part.file_size for part in parts), parts=tuple(parts))


def split_count(header: Header) -> int:
    """The number of files that the model consists of."""
    count = header.value("split.count", 1)
    return count if type(count) is int and count > 1 else 1


def describe_part(header: Header) -> str:
    """Says which part of how many it is: "part 2 of 3"."""
    number = header.value("split.no")
    place = f"part {number + 1}" if type(number) is int else "one"
    return f"{place} of {split_count(header)}"


def refuse_split(header: Header) -> None:
    """Raises ModelFileError for a part of a split model, in or out of which no head can be written."""
    if split_count(header) > 1:
        raise ModelFileError(
            f"{shown_path(header.path)}: is {describe_part(header)} of a split model; merge the parts with "
            "`llama-gguf-split --merge` first, or keep the head in a side-car: `neg attach --side-car FILE`"
        )


def _part_number(header: Header) -> int:
    """The number of a part, from 1. Raises ModelFileError for one that llama.cpp could not read."""
    entry = header.keys.get("split.no")
    if entry is None or entry.type != GGUFValueType.UINT16:
        what = "is missing" if entry is None else f"is of type {entry.type.name}, expected UINT16"
        raise ModelFileError(
            f"{shown_path(header.path)}: split.no {what}, so it is not a part of a split model; download it again"
        )
    return int(header.value("split.no")) + 1


def _read_part(path: str, number: int, count: int, first: Header) -> Header:
    name = shown_path(os.path.basename(first.path))
    if not os.path.lexists(path):
        raise ModelFileError(
            f"{shown_path(path)}: no such file, but {name} is the first of {count} parts of a split model; "
            "put all parts into one folder"
        )
    try:
        part = read_header(path)
    except ModelFileError as error:
        raise UnreadablePartError(str(error)) from None
    wrong = ""
    if (found := _part_number(part)) != number:
        wrong = f"is part {found} of its model by split.no"
    elif split_count(part) not in (1, count):
        wrong = f"is one of {split_count(part)} parts of its model"
    elif (arch := part.value("general.architecture")) not in (None, first.value("general.architecture")):
        wrong = f"is of architecture {shown(str(arch))}"
    if wrong:
        raise ModelFileError(
            f"{shown_path(path)}: {wrong}, not part {number} of {count} of {name}; download this part again"
        )
    return part
