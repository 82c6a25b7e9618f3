"""Settings that results depend on.

Two runs with equal settings may share a ledger; the settings hold everything needed to repeat a run.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..engine.build import build_info
from ..errors import ModelFileError, NegHeadError
from ..files.input_file import shown_path
from ..files.progress import Progress, no_progress
from ..gguf_file.info import ModelInfo
from ..gguf_file.parts import part_names
from ..neg.info import info
from ..protocols.modes import ModeConfig
from ..protocols.prompts import fingerprint
from .data import DataSet

Settings = dict[str, Any]


def describe_model(
    model: str, side_car: str | None, *, progress: Progress = no_progress
) -> tuple[Settings, dict[str, str]]:
    """Hashes the whole files of a model; returns what identifies its weights, and the files' names.

    progress: called with (bytes so far, bytes in total). Errors: ModelFileError, NegHeadError.
    """
    about = info(model)
    parts = _find_parts(model, about)
    paths = [*parts, *([side_car] if side_car else [])]
    total = sum(os.path.getsize(path) for path in paths)
    done = 0
    hashes = []
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
                done += len(block)
                progress(done, total)
        hashes.append(digest.hexdigest())
    neg = info(side_car).neg if side_car else about.neg
    if neg is None and (error := info(side_car).neg_error if side_car else about.neg_error):
        raise NegHeadError(error)
    settings = {
        "sha256": ",".join(hashes[: len(parts)]),
        "bytes": sum(os.path.getsize(path) for path in parts),
        "architecture": about.architecture,
        "quantization": about.quantization,
        "parameters": about.n_params,
        "side_car_sha256": hashes[-1] if side_car else None,
        "gate": None if neg is None else {key: neg[key] for key in ("threshold", "top_k", "temp_scale", "source")},
    }
    names = {"model": os.path.basename(model), **({"side_car": os.path.basename(side_car)} if side_car else {})}
    return settings, names


def _find_parts(model: str, about: ModelInfo) -> list[str]:
    """Returns all files of a split model, or the one file of another."""
    if about.split_count < 2:
        return [model]
    parts = part_names(model)
    for path in parts:
        if not os.path.isfile(path):
            raise ModelFileError(f"{shown_path(path)}: no such file; it is a part of {shown_path(model)}, get it too")
    return parts


def describe_files(names: Mapping[str, str], data: DataSet) -> dict[str, Any]:
    """Collects what a ledger says about its files, and no result depends on. names: of the model's files."""
    notes = {"left_out": data.left_out, "merged": data.merged}
    return {
        **names,
        "data": data.file,
        "diamond": data.is_diamond,
        **{key: list(lines) for key, lines in notes.items() if lines},
    }


def describe_run(
    model: Settings,
    data: DataSet,
    config: ModeConfig,
    *,
    build: Mapping[str, Any],
    early_stop: bool,
    engine: Mapping[str, Any],
) -> Settings:
    """Collects everything that results depend on. build: of llama.cpp. engine: options that change the output."""
    from .. import __version__

    return {
        "version": __version__,
        "llama_cpp": dict(build),
        "model": model,
        "data": {
            "sha256": data.sha256,
            "kind": data.kind,
            "questions": len(data.items),
            "skipped": len(data.skipped),
            # only where there are any, so that older ledgers of all other files can be resumed
            **({"merged": len(data.merged)} if data.merged else {}),
        },
        "prompt": {"name": config.prompt, "fingerprint": fingerprint(config.prompt)},
        "protocol": {**_describe_config(config), "early_stop": early_stop},
        "engine": dict(engine),
    }


def _describe_config(config: ModeConfig) -> dict[str, Any]:
    """All fields; those of mode auto only where they are not the defaults, so that older ledgers can be resumed."""
    usual = asdict(ModeConfig())
    values = {name: "inf" if value == math.inf else value for name, value in asdict(config).items()}
    return {name: value for name, value in values.items() if not (name.startswith("auto_") and value == usual[name])}


def describe_build() -> dict[str, Any]:
    """llama.cpp's commit and the patches' key, as this package was built."""
    build = build_info()
    return {"commit": build.get("llama_cpp_commit", ""), "patch": build.get("patch_key", "")}


def read_config(settings: Mapping[str, Any]) -> ModeConfig:
    """Returns the configuration in a run's settings. Errors: RequestError."""
    known = {field.name for field in fields(ModeConfig)}
    values: dict[str, Any] = {key: value for key, value in settings["protocol"].items() if key in known}
    values.update((key, math.inf) for key, value in values.items() if value == "inf")  # which JSON does not have
    return ModeConfig(**values)


def find_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Names the first setting that differs, as "name was x, is y"; None when all are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if found := find_difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key)):
                return found
        return None
    return None if old == new else f"{path} was {_short(old)}, is {_short(new)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:16] + "..."
