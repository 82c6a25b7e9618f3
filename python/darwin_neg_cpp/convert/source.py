"""A repository's checkpoint without most of its data: enough for a plan and for a side-car, at a thousandth of the download."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

from ..files.output_file import naming
from ..hub import fetch_range, snapshot
from .checkpoint import MORE_TEMPLATES, READ, SINGLE, Checkpoint, open_checkpoint, weight_map
from .plan import head_in_shards
from .qwen35 import language_tensors

FIRST = 1 << 20  # bytes of a shard that are fetched at once; headers have some ten thousand


def outline(
    repo: str, *, revision: str | None, token: str | None
) -> tuple[Path, tuple[str, ...], TemporaryDirectory[str] | None]:
    """A folder with the checkpoint's files, in which of the shards only headers, the NEG head and the output norm are filled in.

    Returns (the folder, notes, what the folder lasts as long as). Where the shards have been downloaded already it is their folder.
    """
    small, notes = snapshot(repo, [*READ, f"{MORE_TEMPLATES}/*.jinja"], revision=revision, token=token, whole=False)
    names = sorted(set((weight_map(small) or {SINGLE: SINGLE}).values()))
    if all((small / name).exists() for name in names):
        return small, notes, None
    kept = TemporaryDirectory(prefix="darwin-neg-outline-")
    folder = Path(kept.name)
    (folder / MORE_TEMPLATES).mkdir()
    for path in [*(small / name for name in READ), *(small / MORE_TEMPLATES).glob("*.jinja")]:
        if path.exists():
            shutil.copy(path, folder / path.relative_to(small))
    try:
        # a commit: what its files hold does not change from one request to the next
        for name in names:
            if re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):  # any other is refused when the folder is opened
                _write_header(repo, name, folder / name, small.name, token)
        with naming(folder, Path(repo)):
            _fill_in(repo, open_checkpoint(folder), small.name, token)
    except BaseException:
        kept.cleanup()
        raise
    return folder, notes, kept


def _write_header(repo: str, name: str, path: Path, commit: str, token: str | None) -> None:
    """A file with the header of a shard, and of its size: the rest is a hole, which takes no space."""
    data, size = fetch_range(repo, name, 0, FIRST, revision=commit, token=token)
    length = 8 + struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    if FIRST < length <= size:
        data += fetch_range(repo, name, FIRST, length, revision=commit, token=token)[0]
    with path.open("wb") as file:
        file.write(data)
        file.truncate(size)


def _fill_in(repo: str, checkpoint: Checkpoint, commit: str, token: str | None) -> None:
    """The data of what a side-car is made of: the head, if it is in the shards, and the norm that it is bound to."""
    wanted = [language_tensors(checkpoint, mtp=False).get("norm.weight"), *head_in_shards(checkpoint).values()]
    for tensor in wanted:
        if tensor is None or not tensor.size:
            continue
        begin, end = tensor.offset, tensor.offset + tensor.size
        data, _ = fetch_range(repo, Path(tensor.path).name, begin, end, revision=commit, token=token)
        with open(tensor.path, "rb+") as file:
            file.seek(begin)
            file.write(data)
