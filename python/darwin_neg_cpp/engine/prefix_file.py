"""The evaluated beginning of a text as a file: what the model has made of it, for another day.

A line of JSON, zeros up to a multiple of 64 bytes, the token ids (int32), and the state as llama.cpp writes it. A state
is read only by the model and the build that wrote it, and only whole: the reader of llama.cpp trusts its bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFileError
from ..files.input_file import open_input, read_exactly, sha256_file, shown_path
from ..files.output_file import check_output, os_errors_about, replacing
from ..gguf_file.parts import read_model
from .build import build_info

MAGIC = b"DARWINPX"
VERSION = 1
MAX_HEADER = 1 << 16  # bytes
SAMPLE = 512  # bytes of a tensor's data at its beginning, middle and end that stand for it
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Prefix:
    """tokens: int32 ids. state: llama.cpp's bytes."""

    tokens: Sequence[int]
    state: bytes


def describe_model(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a state depends on: the model's header, samples of its weights, the build, and options of the engine."""
    header = read_model(path)
    digest = hashlib.sha256(header.raw)
    for name, tensor in sorted(header.tensors.items()):
        file_path, begin = header.place(name)
        size = min(SAMPLE, tensor.size)
        with open_input(file_path, ModelFileError) as file:
            for at in (0, (tensor.size - size) // 2, tensor.size - size):
                digest.update(read_exactly(file, size, begin + at, ModelFileError, file_path))
    if adapters := options.get("lora"):
        options = {**options, "lora": [(sha256_file(adapter), scale) for adapter, scale in adapters]}
    build = build_info()
    return {
        "model": digest.hexdigest(),
        "build": f"{build['llama_cpp_commit']} {build['patch_key']}",
        "options": json.loads(json.dumps(options, sort_keys=True, default=str)),
    }


def write(
    out: PathLike, prefix: Prefix, made_by: Mapping[str, Any], *, inputs: Sequence[PathLike], force: bool
) -> None:
    """Writes the file whole or not at all. inputs: files that it must not replace. Raises OutputError."""
    path = Path(out)
    check_output(path, [Path(name) for name in inputs], force=force)
    tokens = np.asarray(prefix.tokens, "<i4").tobytes()
    digest = hashlib.sha256(tokens)
    digest.update(prefix.state)
    header = {
        "version": VERSION,
        **made_by,
        "n_tokens": len(prefix.tokens),
        "n_bytes": len(prefix.state),
        "sha256": digest.hexdigest(),
    }
    text = json.dumps(header).encode()
    with os_errors_about(path), replacing(path) as (file, _):
        begin = MAGIC + struct.pack("<I", len(text)) + text
        file.write(begin + bytes(-len(begin) % 64))
        file.write(tokens)
        file.write(prefix.state)


def read(path: PathLike, made_by: Mapping[str, Any], *, n_vocab: int) -> Prefix:
    """Reads and checks a file. Raises ModelFileError, which says what is wrong with it."""
    name = shown_path(path)
    with open_input(path, ModelFileError) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 12 or bytes(read_exactly(file, 8, 0, ModelFileError, path)) != MAGIC:
            raise ModelFileError(f"{name}: is not a file that save_prefix wrote; give one")
        (length,) = struct.unpack("<I", read_exactly(file, 4, 8, ModelFileError, path))
        header = _parse(bytes(read_exactly(file, min(length, size), 12, ModelFileError, path)), name)
        for key, what in (("model", "another model"), ("build", "another build"), ("options", "other model options")):
            if header[key] != made_by[key]:
                detail = f" ({_difference(header[key], made_by[key])})" if key == "options" else ""
                raise ModelFileError(f"{name}: was written with {what}{detail}; save the prefix again with this one")
        begin = 12 + length
        begin += -begin % 64
        n_tokens, n_bytes = header["n_tokens"], header["n_bytes"]
        if size != begin + 4 * n_tokens + n_bytes:
            raise ModelFileError(
                f"{name}: has {size} bytes instead of {begin + 4 * n_tokens + n_bytes}; it was cut or added to, so "
                "save the prefix again"
            )
        body = read_exactly(file, size - begin, begin, ModelFileError, path)
    if hashlib.sha256(body).hexdigest() != header["sha256"]:
        raise ModelFileError(f"{name}: is damaged (its checksum differs); save the prefix again")
    tokens = np.frombuffer(body, "<i4", n_tokens)
    if n_tokens == 0 or tokens.min() < 0 or tokens.max() >= n_vocab:
        raise ModelFileError(f"{name}: holds token ids outside the vocabulary of {n_vocab}; save the prefix again")
    return Prefix(tokens.tolist(), bytes(memoryview(body)[4 * n_tokens :]))


def _parse(text: bytes, name: str) -> dict[str, Any]:
    damaged = ModelFileError(f"{name}: its header is damaged; save the prefix again")
    if len(text) > MAX_HEADER:
        raise damaged
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged from None
    if not isinstance(header, dict):
        raise damaged
    if header.get("version") != VERSION:
        raise ModelFileError(
            f"{name}: has format {header.get('version')!r:.20}, this version reads {VERSION}; save the prefix again"
        )
    kinds = {"model": str, "build": str, "options": dict, "n_tokens": int, "n_bytes": int, "sha256": str}
    for key, kind in kinds.items():
        if type(header.get(key)) is not kind or (kind is int and header[key] < 0):
            raise damaged
    return header


def _difference(written: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    names = [name for name in {**written, **here} if written.get(name) != here.get(name)]
    return ", ".join(f"{name} {written.get(name)!r:.40} instead of {here.get(name)!r:.40}" for name in names)
