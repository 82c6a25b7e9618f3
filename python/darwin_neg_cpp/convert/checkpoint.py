"""Opens a checkpoint folder: its configuration, and where each tensor lies. No tensor data is read here."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..files.input_file import not_the_file, open_input, shown, shown_path
from ..files.input_text import decode_text
from ..files.safetensors_header import StoredTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
NEG_MODULES = "neg_modules.safetensors"
SHARD = re.compile(r"(model[\w.-]*)-(\d{5})-of-(\d{5})\.safetensors")
# how the vision tower's images are prepared; the latter comes from newer versions of transformers
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
MAX_SIZE = 256 << 20  # the largest tokenizer.json known has 33 MB
# what a conversion reads besides the shards
READ = (
    "config.json", INDEX, NEG_MODULES, "generation_config.json", "README.md",
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    PREPROCESSOR, PROCESSOR,
)  # fmt: skip
MORE_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class Checkpoint:
    """A folder, its config.json, and every tensor of its shards by name. notes: what the user should know about it."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    notes: tuple[str, ...] = ()

    @property
    def config_path(self) -> str:
        return str(self.folder / "config.json")

    def files(self) -> list[Path]:
        """All files that a conversion may read, and must not write to."""
        shards = [Path(name) for name in dict.fromkeys(tensor.path for tensor in self.tensors.values())]
        beside = [self.folder / name for name in READ]
        return [*shards, *beside, *sorted((self.folder / MORE_TEMPLATES).glob("*.jinja"))]


def open_checkpoint(folder: Path, *, only: Callable[[str], bool] | None = None) -> Checkpoint:
    """Reads config.json and the headers of all shards. Raises ModelFileError, which names the file and the tensor.

    only: which tensors matter, by name; shards that hold none of them, as the index says, need not be there.
    """
    if not folder.is_dir():
        what = "is a file; give the folder that holds it" if folder.exists() else "no such folder; check the path"
        raise ModelFileError(f"{shown_path(folder)}: {what}")
    config = read_json(folder / "config.json")
    tensors: dict[str, StoredTensor] = {}
    index = weight_map(folder)
    notes: tuple[str, ...] = ()
    shards = shard_names(shown_path(folder), os.listdir(folder), index, only=only)
    if index is not None and shards == [SINGLE]:
        if SINGLE not in index.values():
            notes = (f"{SINGLE} holds the model; {INDEX}, which names other files, is not used",)
        index = None
    for name in shards:
        for tensor in read_header(str(_inside(folder, name, indexed=index is not None)), ModelFileError).values():
            if (other := tensors.get(tensor.name)) is not None:
                raise ModelFileError(
                    f"{shown_path(tensor.path)}: {shown(tensor.name)}: is in {os.path.basename(other.path)} too; "
                    "remove the file that does not belong here"
                )
            tensors[tensor.name] = tensor
    if index is not None:
        _check_index(folder, index, tensors, shards)
    if not tensors and only is None:
        raise ModelFileError(f"{shown_path(folder)}: the checkpoint holds no tensors; download it again")
    return Checkpoint(folder, config, tensors, notes)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file, or raises ModelFileError."""
    data = read_bytes(path)
    if what := not_the_file(data):
        raise ModelFileError(f"{shown_path(path)}: {what}")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{shown_path(path)}: is not valid JSON ({shown(str(error))}); download it again"
        ) from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{shown_path(path)}: is not a JSON object; download it again")
    return value


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or raises ModelFileError."""
    return decode_text(read_bytes(path), f"{shown_path(path)}:", ModelFileError, remedy="download it again")


@contextlib.contextmanager
def without_marks(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """A folder with these files, for a library that stumbles over the byte order marks that some of them begin with.

    The folder itself where none does.
    """
    found = {name: read_bytes(folder / name) for name in names if (folder / name).is_file()}
    if not any(data.startswith(codecs.BOM_UTF8) for data in found.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copies:
        for name, data in found.items():
            (Path(copies) / name).write_bytes(data.removeprefix(codecs.BOM_UTF8))
        yield Path(copies)


def read_bytes(path: Path) -> bytes:
    """Reads a whole file of at most MAX_SIZE bytes, or raises ModelFileError."""
    with open_input(path, ModelFileError) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_SIZE:
            raise ModelFileError(
                f"{shown_path(path)}: has {size} bytes, more than the limit of {MAX_SIZE}; download it again"
            )
        try:
            return file.read()
        except OSError as error:
            raise ModelFileError(f"{shown_path(path)}: cannot be read ({error.strerror}); check the disk") from error


def is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can encode: JSON and YAML can hold lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def weight_map(folder: Path) -> dict[str, str] | None:
    """Reads from the index which file each tensor is in; None without an index."""
    path = folder / INDEX
    if not os.path.lexists(path):
        return None
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ModelFileError(f"{shown_path(path)}: weight_map is missing or empty; download it again")
    for name, file in files.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise ModelFileError(
                f"{shown_path(path)}: {shown(name)}: {shown(str(file))} is not a safetensors file; download it again"
            )
    return files


def shard_names(
    where: str,
    names: Collection[str],
    index: Mapping[str, str] | None,
    *,
    only: Callable[[str], bool] | None = None,
) -> list[str]:
    """Names the files that hold the tensors, of all that are in the folder or repository `where`.

    As in transformers, model.safetensors comes before an index, which may be left from shards that were merged. Without
    either, the shards are known by their names. only: of the files that an index names, those with such tensors
    alone. Raises ModelFileError where these do not tell.
    """
    if SINGLE in names and (index is None or SINGLE not in index.values() or set(index.values()) == {SINGLE}):
        return [SINGLE]
    if index is not None:
        return sorted({file for name, file in index.items() if only is None or only(name)})
    sets: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        if shard := SHARD.fullmatch(name):
            sets.setdefault((shard[1], shard[3]), []).append(name)
    if len(sets) > 1:
        first, second, *_ = (found[0] for found in sets.values())
        raise ModelFileError(
            f"{where}: holds {shown(first)} and {shown(second)}, shards of two checkpoints, and no {INDEX}; "
            "remove those that do not belong here"
        )
    for (prefix, count), found in sets.items():
        wanted = [f"{prefix}-{i:05d}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
        if missing := [name for name in wanted if name not in found]:
            raise ModelFileError(
                f"{where}: {shown(missing[0])}: no such file, but {shown(found[0])} is one of {int(count)} shards; "
                "download it too"
            )
        return wanted
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        raise ModelFileError(
            f"{where}: holds pickled weights, which may run code and are never loaded; download the safetensors files"
        )
    raise ModelFileError(
        f"{where}: holds neither {SINGLE} nor {INDEX} nor shards such as model-00001-of-00004.safetensors; "
        "give a checkpoint's folder"
    )


def _inside(folder: Path, name: str, *, indexed: bool) -> Path:
    """Returns the path of a shard, which must be named in the folder itself, not through others.

    It may be a link to wherever the file is kept: the user's own, or one of the hub's cache.
    """
    path = folder / name
    refused = f"{shown_path(folder / INDEX)}: {shown(name)} leads out of the folder; download the index again"
    if indexed:
        missing = f"{shown_path(path)}: no such file, but {INDEX} names it; download it too, or remove a stale {INDEX}"
    else:
        missing = f"{shown_path(path)}: is a link to a file that is not there; put the file itself there"
    if os.path.isabs(name) or ".." in Path(name).parts or "\x00" in name or not is_text(name):
        raise ModelFileError(refused)
    if len(Path(name).parts) > 1:
        real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
        blobs = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
        if not any(real.is_relative_to(inside) for inside in [root, *blobs]):
            raise ModelFileError(refused)
    if not os.path.exists(path):  # false also for a name that is too long
        raise ModelFileError(missing)
    return path


def _check_index(
    folder: Path, files: Mapping[str, str], tensors: Mapping[str, StoredTensor], shards: Collection[str]
) -> None:
    """Compares the index with the shards that were read."""
    index = shown_path(folder / INDEX)
    for name, file in files.items():
        if file not in shards:
            continue
        if name not in tensors or os.path.basename(tensors[name].path) != os.path.basename(file):
            raise ModelFileError(
                f"{index}: {shown(name)}: is not in {shown(file)}, where it should be; download both again"
            )
    if extra := sorted(tensors.keys() - files.keys()):
        raise ModelFileError(
            f"{shown_path(tensors[extra[0]].path)}: {shown(extra[0])}: is not in {INDEX}; download both again"
        )
