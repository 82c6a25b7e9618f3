"""The names of the files that a split model consists of."""

from __future__ import annotations

import re

SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


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
