"""Finds a checkpoint: a folder, or a repository of the hub, which is downloaded whole or in outline.

An outline is a folder with all that is needed for a plan and for a side-car, at a thousandth of the download: of the
shards only headers, the NEG head and the output norm are filled in. For a projector alone, the shards that hold the
vision tower are enough.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from .. import hub
from ..errors import ModelFileError, RequestError
from ..files.input_file import shown_path
from ..files.output_file import rename_in_errors
from ..hub import Repository
from .checkpoint import MORE_TEMPLATES, NEG_MODULES, READ, Checkpoint, open_checkpoint, shard_names, weight_map
from .head import head_in_shards
from .mmproj import no_tower
from .tensors import language_tensors
from .vision import is_vision

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SMALL = [*READ, f"{MORE_TEMPLATES}/*.jinja"]
Part = Literal["whole", "outline", "tower"]  # of a repository: what is downloaded
# what a conversion reads; not other people's GGUF files
WANTED = [*SMALL, "model*.safetensors"]
FIRST = 1 << 20  # bytes of a shard that are fetched first; headers have some ten thousand


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, and the repository that it was downloaded from (None for a folder of the user's own).

    notes: what the user should know about the download. temporary: the folder itself, when it is an outline.
    """

    folder: Path
    name: str | None
    notes: tuple[str, ...] = ()
    temporary: TemporaryDirectory[str] | None = None


def find(source: str, *, revision: str | None = None, token: str | None = None, part: Part = "whole") -> Source:
    """Returns a folder as it is, and a repository after downloading what a conversion needs.

    An earlier download is resumed where it stopped. part: "tower" is enough for a projector, "outline" for plans.
    """
    address = None if Path(source).exists() else hub.read_address(source, revision=revision)
    if address is None or not REPOSITORY.fullmatch(address.repo):
        if revision is not None:
            raise ModelFileError(f"{shown_path(source)}: is a folder; a revision is for repositories of the hub")
        return Source(Path(source), None)
    if address.quant is not None:
        raise RequestError(f"{source}: names the type {address.quant}; give the repository alone, and outtype=")
    repository = hub.look_up(address.repo, revision=address.revision, token=token)
    return {"whole": fetch, "outline": outline, "tower": fetch_tower}[part](repository)


@contextlib.contextmanager
def open_source(
    source: str, *, revision: str | None = None, token: str | None = None, part: Part = "whole"
) -> Iterator[Source]:
    """Like `find`, for the length of the block, after which an outline is removed."""
    found = find(source, revision=revision, token=token, part=part)
    try:
        yield found
    finally:
        if found.temporary is not None:
            found.temporary.cleanup()


def fetch(repository: Repository) -> Source:
    """Downloads what a conversion needs of a repository."""
    return Source(hub.snapshot(repository, WANTED), repository.id, repository.notes)


def fetch_tower(repository: Repository) -> Source:
    """Downloads what a projector needs of a repository: of the shards those that hold a part of the vision tower."""
    small = repository.folder or hub.snapshot(repository, SMALL, complete=False)
    shards = shard_names(repository.id, repository.names, weight_map(small), only=is_vision)
    if not shards:
        raise no_tower(repository.id)
    # without the hub: the shards were downloaded after the rest, so where they are, all is
    whole = repository.folder is not None and all((small / shard).exists() for shard in shards)
    folder = small if whole else hub.snapshot(repository, [*SMALL, *shards], complete=False)
    return Source(folder, repository.id, repository.notes)


def outline(repository: Repository) -> Source:
    """Downloads an outline of a repository. Where its shards have been downloaded already, it is their folder."""
    small = hub.snapshot(repository, SMALL, complete=False)
    shards = shard_names(repository.id, repository.names, weight_map(small))
    if all((small / shard).exists() for shard in shards):
        return Source(small, repository.id, repository.notes)
    temporary = TemporaryDirectory(prefix="darwin-neg-outline-")
    folder = Path(temporary.name)
    try:
        (folder / MORE_TEMPLATES).mkdir()
        for path in [*(small / name for name in READ), *(small / MORE_TEMPLATES).glob("*.jinja")]:
            if path.exists():
                shutil.copy(path, folder / path.relative_to(small))
        for shard in shards:
            if re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):  # any other is refused when the folder is opened
                _write_header(repository, shard, folder / shard)
        with rename_in_errors(folder, Path(repository.id)):
            _fill_in(repository, open_checkpoint(folder))
    except BaseException:
        temporary.cleanup()
        raise
    return Source(folder, repository.id, repository.notes, temporary)


def has_head(source: Source) -> bool:
    """Whether the checkpoint comes with a NEG head."""
    return (source.folder / NEG_MODULES).exists() or bool(head_in_shards(open_checkpoint(source.folder)))


def _write_header(repository: Repository, name: str, path: Path) -> None:
    """Writes a file with the header and the size of a shard; the rest is a hole, which takes no space."""
    data, size = hub.read_range(repository, name, 0, FIRST)
    length = 8 + struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0]
    if FIRST < length <= size:
        data += hub.read_range(repository, name, FIRST, length)[0]
    with path.open("wb") as file:
        file.write(data)
        file.truncate(size)


def _fill_in(repository: Repository, checkpoint: Checkpoint) -> None:
    """Fills in what a side-car consists of: the head, if it is in the shards, and the norm that it is bound to."""
    wanted = [language_tensors(checkpoint, mtp=False).get("norm.weight"), *head_in_shards(checkpoint).values()]
    for tensor in wanted:
        if tensor is None or not tensor.size:
            continue
        begin, end = tensor.offset, tensor.offset + tensor.size
        data, _ = hub.read_range(repository, Path(tensor.path).name, begin, end)
        with open(tensor.path, "rb+") as file:
            file.seek(begin)
            file.write(data)
