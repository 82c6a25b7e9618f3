"""Reads metadata of a model: from the model card, generation_config.json and the repository's or folder's name.

People write these by hand. A value of a wrong type is left out with a note; it never keeps the weights from being
converted.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import Metadata, size_label

from ..errors import ModelFileError
from ..files.input_file import shown, shown_path
from .checkpoint import is_text, read_json, without_marks
from .config import MAX_F32, MAX_SIZE

MAX_CARD = 16 << 20
MAX_DEPTH = 100  # of brackets; what YAML takes for them grows with their square

# the keys of a model card that the library looks at
_NAMES = (
    "name", "author", "version", "organization", "description", "finetune", "basename", "size_label",
    "url", "doi", "uuid", "repo_url",
)  # fmt: skip
TEXTS = {*_NAMES, *("model_" + name for name in _NAMES), "model_creator", "model_type", "license_name", "license_link"}
LISTS = {"license", "tags", "pipeline_tag", "language", "languages"}
SOURCES = {"base_model", "base_models", "base_model_sources", "dataset", "datasets", "dataset_sources"}

# generation_config.json: where each value goes, and what it is
SAMPLING = {
    "sequence": ("sampling_sequence", str),
    "top_k": ("sampling_top_k", int),
    "top_p": ("sampling_top_p", float),
    "min_p": ("sampling_min_p", float),
    "xtc_probability": ("sampling_xtc_probability", float),
    "xtc_threshold": ("sampling_xtc_threshold", float),
    "temperature": ("sampling_temp", float),
    "penalty_last_n": ("sampling_penalty_last_n", int),
    "penalty_repeat": ("sampling_penalty_repeat", float),
    "mirostat": ("sampling_mirostat", int),
    "mirostat_tau": ("sampling_mirostat_tau", float),
    "mirostat_eta": ("sampling_mirostat_eta", float),
}
_MEANT = {str: "text", int: "whole number", float: "number"}


def read_metadata(
    folder: Path, config: Mapping[str, Any], counts: tuple[int, int, int, int], repository: str | None
) -> tuple[Metadata, list[str]]:
    """The general.* keys, and notes on what was left out.

    counts: (parameters, those outside experts, those of one expert, experts). repository: the name that takes the
    place of the folder's; a download's folder is named after a commit.
    """
    notes: list[str] = []
    total = counts[0]
    card = read_card(folder / "README.md", notes)
    where = None if repository is not None else Path(os.path.abspath(folder))
    # where a copy says that it was made from: often the model before, so a repository's name goes before it
    named = config.get("_name_or_path")
    hint = {"_name_or_path": named} if repository is None and is_text(named) else {}
    metadata = Metadata.apply_metadata_heuristic(Metadata(), card, hint, where, total)
    if repository is not None:
        _from_repository(metadata, repository, total)
    for key, value in _sampling(folder / "generation_config.json", notes).items():
        setattr(metadata, key, value)
    if not metadata.name or not is_text(metadata.name):
        metadata.name = "model"
    if metadata.size_label is None and total > 0:
        metadata.size_label = size_label(*counts)
    return metadata, notes


def _from_repository(metadata: Metadata, repository: str, total: int) -> None:
    """Fills in what the card does not say from a name such as lab/Model-9B-it."""
    name, organization, basename, finetune, version, label = Metadata.get_model_id_components(repository, total)
    found = {
        "name": name,
        "organization": None if organization is None else Metadata.id_to_title(organization),
        "basename": basename,
        "finetune": finetune,
        "version": version,
        "size_label": label,
    }
    for key, value in found.items():
        if getattr(metadata, key) is None:
            setattr(metadata, key, value)


def read_card(path: Path, notes: list[str]) -> dict[str, Any]:
    """Reads the front matter of a model card, without values of the wrong type."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_CARD or _depth(path) > MAX_DEPTH:
            raise ValueError("too large")
        with without_marks(path.parent, [path.name]) as folder:
            card = Metadata.load_model_card(folder)
    except OSError as error:
        raise ModelFileError(f"{shown_path(path)}: cannot be read ({error.strerror}); check the disk") from error
    except Exception as error:  # whatever a malformed card leads to in the library and in YAML
        notes.append(
            f"{shown_path(path)}: the model card cannot be read ({type(error).__name__}); its metadata is left out"
        )
        return {}
    return {
        key: kept
        for key, value in card.items()
        if value is not None and (kept := _kept(path, key, value, notes)) is not None
    }


def _depth(path: Path) -> int:
    """How deeply brackets are nested in the front matter, or appear to be."""
    front = path.read_text("utf-8").partition("\n---\n")[0]
    depth = deepest = 0
    for c in re.findall(r"[\[\]{}]", front):
        depth += 1 if c in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _kept(path: Path, key: object, value: Any, notes: list[str]) -> Any:
    """Returns the value of a key of the card without parts of the wrong type; None when nothing is left."""
    if key in TEXTS:
        return _checked(path, f"{key}", value, str, notes)
    if key not in LISTS and key not in SOURCES:
        return None
    items = value if isinstance(value, list) else [value]
    entries = key in SOURCES
    if entries:
        items = [_texts_in(path, f"{key}", item, notes) if isinstance(item, dict) else item for item in items]
    kept = [
        item
        for item in items
        if (entries and isinstance(item, dict)) or _checked(path, f"{key}", item, str, notes) is not None
    ]
    if not isinstance(value, list):
        return kept[0] if kept else None
    return kept


def _texts_in(path: Path, key: str, entry: Mapping[Any, Any], notes: list[str]) -> dict[str, str]:
    return {
        name: value
        for name, value in entry.items()
        if is_text(name) and _checked(path, f"{key}.{shown(name)}", value, str, notes) is not None
    }


def _sampling(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = read_json(path)
    except ModelFileError as error:
        if isinstance(error.__cause__, OSError):
            raise
        notes.append(f"{error}; its sampler settings are left out")
        return {}
    found = {
        to: _checked(path, key, config[key], kind, notes)
        for key, (to, kind) in SAMPLING.items()
        if config.get(key) is not None
    }
    return {to: value for to, value in found.items() if value is not None}


def _checked(path: Path, key: str, value: Any, kind: type, notes: list[str]) -> Any:
    """Returns the value, or None and a note when it is of the wrong type."""
    if kind is str:
        fits = is_text(value)
    elif kind is int:
        fits = type(value) is int and abs(value) <= MAX_SIZE
    else:
        fits = type(value) in (int, float) and abs(value) <= MAX_F32 and not math.isnan(value)
    if fits:
        return value
    try:
        text = shown(repr(value))
    except ValueError:  # a number of more digits than Python writes
        text = "a number with too many digits"
    notes.append(f"{shown_path(path)}: {shown(key)} is {text}, which is not a {_MEANT[kind]}; it is left out")
    return None
