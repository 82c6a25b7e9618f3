"""Finds the NEG head of a checkpoint: in a file of its own, or among the tensors of the shards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import NegHeadError, RequestError
from ..files.input_file import shown, shown_path
from ..files.safetensors_header import StoredTensor
from ..neg.formats import RELEASED_NAMES, head_of_stored, read_head
from ..neg.head import NegHead
from .checkpoint import NEG_MODULES, Checkpoint


def split_head(
    checkpoint: Checkpoint, neg: Path | NegHead | None, without_neg: bool
) -> tuple[Checkpoint, NegHead | None]:
    """Returns the checkpoint without NEG tensors, and the head: from `neg`, a file beside the shards, or the shards."""
    inside = head_in_shards(checkpoint)
    backbone = without(checkpoint, inside)
    if without_neg:
        if neg is not None:
            raise RequestError("neg and without_neg exclude each other: a head is given and left out; drop one of them")
        return backbone, None
    if isinstance(neg, NegHead):
        return backbone, neg
    if neg is not None:
        return backbone, read_head(neg)
    beside = checkpoint.folder / NEG_MODULES
    if beside.exists():
        if inside:
            stored = next(iter(inside.values()))
            raise NegHeadError(
                f"{shown_path(beside)}: {shown_path(stored.path)} holds a head too; pass neg=FILE to choose one, "
                "or remove the other"
            )
        return backbone, read_head(beside)
    if inside:
        path = next(iter(inside.values())).path
        digest = hashlib.sha256(b"".join(_read(stored) for _, stored in sorted(inside.items()))).hexdigest()
        return backbone, head_of_stored(inside, path, f"{Path(path).name} tensors sha256:{digest}")
    raise NegHeadError(
        f"{shown_path(checkpoint.folder)}: holds no NEG head ({NEG_MODULES}); pass neg=FILE to give one, "
        "or without_neg=True to convert the backbone alone"
    )


def head_in_shards(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Finds the NEG tensors in the shards, by their released names with or without a prefix."""
    found: dict[str, StoredTensor] = {}
    for name, stored in checkpoint.tensors.items():
        for released in RELEASED_NAMES:
            if name == released or name.endswith(("neg." + released, "neg_modules." + released)):
                if released in found:
                    raise NegHeadError(
                        f"{shown_path(stored.path)}: {shown(name)}: is a second {released}; remove one of the heads"
                    )
                found[released] = stored
    return found


def without(checkpoint: Checkpoint, head: Mapping[str, StoredTensor]) -> Checkpoint:
    """The checkpoint without the tensors of a head."""
    names = {stored.name for stored in head.values()}
    rest = {name: stored for name, stored in checkpoint.tensors.items() if name not in names}
    return replace(checkpoint, tensors=rest)


def _read(stored: StoredTensor) -> bytes:
    with open(stored.path, "rb") as file:
        file.seek(stored.offset)
        return file.read(stored.size)
