"""Attaches a NEG head to a model file, detaches it again, and writes it as a side-car."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, dequantize

from ..errors import ModelFileError, NegHeadError
from ..files.input_file import PathLike, shown_path
from ..files.output_file import check_output
from ..files.progress import Progress
from ..gguf_file import edit as gguf_edit
from ..gguf_file.header import Header, architecture, read_header
from ..gguf_file.parts import read_model, refuse_split
from ..gguf_file.preflight import check_header
from .formats import SIDE_CAR_ARCH, has_neg, read_head
from .head import DOWN_W, NegHead, with_backbone

# what other files of the same format hold, by general.type
NOT_MODELS = {"adapter": "an adapter", "mmproj": "a projector for images or sound", "imatrix": "an importance matrix"}


@dataclass(frozen=True)
class NegReport:
    """A head, and the type of the file that holds it: "safetensors", "side-car" or "model"."""

    path: str
    form: str
    head: NegHead


def attach(
    model: PathLike,
    neg: PathLike | NegHead,
    out: PathLike,
    *,
    force: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> NegHead:
    """Writes `out`: the model with the head inside. The model itself is not changed.

    neg: neg_modules.safetensors, a side-car, a model that carries a head, or a NegHead. force: replace an existing
    `out`. replace: drop the head that the model may have already. Errors: ModelFileError, NegHeadError (wrong
    backbone, malformed head), OutputError; then nothing has been written.
    """
    header = read_header(model)
    refuse_split(header)
    _check_model(header)
    out_path = Path(out)
    inputs = [Path(model)] + ([] if isinstance(neg, NegHead) else [Path(neg)])
    check_output(out_path, inputs, force=force)
    head = neg if isinstance(neg, NegHead) else read_head(neg)
    check_backbone(head, "the head" if isinstance(neg, NegHead) else shown_path(neg), header)
    if has_neg(header) and not replace:
        raise NegHeadError(
            f"{shown_path(header.path)}: carries a NEG head already; detach it first, or pass replace=True"
        )
    gguf_edit.write_edited(
        header, out_path, add_keys=head.keys(), add_tensors=head.tensors(), drop=_is_neg, progress=progress
    )
    return head


def detach(
    model: PathLike,
    out: PathLike,
    *,
    side_car: PathLike | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes `out`: the model without its head. side_car: write the head to this file."""
    header = read_header(model)
    refuse_split(header)
    hidden_size(header)  # refuses a side-car, of which nothing would be left
    if not has_neg(header):
        raise NegHeadError(
            f"{shown_path(header.path)}: carries no NEG head, so there is nothing to detach; use the file as it is"
        )
    check_output(Path(out), [Path(model)], force=force)
    if side_car is not None:
        # first, so that the head cannot be lost
        write_side_car(model, model, side_car, force=force)
    gguf_edit.write_edited(header, Path(out), drop=_is_neg, progress=progress)


def write_side_car(neg: PathLike | NegHead, model: PathLike, out: PathLike, *, force: bool = False) -> NegHead:
    """Writes the head alone, bound to the backbone of `model` by architecture, width and output norm.

    Of a split model all parts are read, so that the norm is found in whichever holds it.
    """
    header = read_model(model)
    _check_model(header)
    inputs = [Path(part.path) for part in header.parts or (header,)]
    inputs += [] if isinstance(neg, NegHead) else [Path(neg)]
    check_output(Path(out), inputs, force=force)
    head = neg if isinstance(neg, NegHead) else read_head(neg)
    check_backbone(head, "the head" if isinstance(neg, NegHead) else shown_path(neg), header)
    return write_head(with_backbone(head, architecture(header), output_norm_sha256(header)), Path(out))


def write_head(head: NegHead, out: Path) -> NegHead:
    """Writes a head that is bound to its backbone as a side-car."""
    keys = [
        ("general.architecture", GGUFValueType.STRING, SIDE_CAR_ARCH),
        *head.keys(),
        ("neg.n_embd", GGUFValueType.UINT32, head.n_embd),
        ("neg.base_arch", GGUFValueType.STRING, head.base_arch),
        ("neg.base_norm_sha256", GGUFValueType.STRING, head.base_norm_sha256),
    ]
    gguf_edit.write_new(out, keys, head.tensors())
    return head


def inspect(path: PathLike) -> NegReport:
    """Reads and checks the head of a file of any type that can hold one."""
    head = read_head(path)
    name = os.fspath(path)
    with open(name, "rb") as file:
        if file.read(4) != b"GGUF":
            return NegReport(name, "safetensors", head)
    form = "side-car" if architecture(read_header(name)) == SIDE_CAR_ARCH else "model"
    return NegReport(name, form, head)


def hidden_size(header: Header) -> int:
    """Width of the LM head's input, from <arch>.embedding_length."""
    arch = architecture(header)
    if arch == SIDE_CAR_ARCH:
        raise ModelFileError(
            f"{shown_path(header.path)}: is a NEG side-car, not a model; give the backbone's GGUF file"
        )
    size = header.value(f"{arch}.embedding_length")
    if not isinstance(size, int) or size < 1:
        raise ModelFileError(
            f"{shown_path(header.path)}: {arch}.embedding_length is missing; give the GGUF of a language model"
        )
    return size


def output_norm_sha256(header: Header) -> str:
    """Returns the SHA-256 of output_norm.weight as little-endian float32; "" for a model without it."""
    info = header.tensors.get("output_norm.weight")
    if info is None:
        return ""
    path, offset = header.place("output_norm.weight")
    with open(path, "rb") as file:
        file.seek(offset)
        raw = np.frombuffer(file.read(info.size), np.uint8)
    if info.type not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
        return ""
    return hashlib.sha256(dequantize(raw, info.type).astype("<f4").tobytes()).hexdigest()


def _check_model(header: Header) -> None:
    """Raises ModelFileError for a file that no engine opens as a model, with a head or without."""
    check_header(header)
    hidden_size(header)
    kind = header.value("general.type")
    if kind in NOT_MODELS:
        raise ModelFileError(
            f"{shown_path(header.path)}: is {NOT_MODELS[kind]}, not a model; give the backbone's GGUF file"
        )
    if not header.tensors:
        raise ModelFileError(
            f"{shown_path(header.path)}: holds no tensors, a vocabulary at most; give the GGUF file of a whole model"
        )


def check_backbone(head: NegHead, name: str, model: Header) -> None:
    """Raises NegHeadError for a head that was made for another backbone than `model`."""
    remedy = "use the head that was trained on this backbone"
    if head.n_embd != (hidden := hidden_size(model)):
        raise NegHeadError(f"{name}: {DOWN_W}: is for hidden size {head.n_embd}, {model.path} has {hidden}; {remedy}")
    if head.base_arch and head.base_arch != (arch := architecture(model)):
        raise NegHeadError(
            f"{name}: neg.base_arch: is for architecture {head.base_arch}, {model.path} is {arch}; {remedy}"
        )
    norm = output_norm_sha256(model)
    if head.base_norm_sha256 and norm and head.base_norm_sha256 != norm:
        raise NegHeadError(
            f"{name}: neg.base_norm_sha256: was made for another backbone than {model.path} (its output norm differs); "
            f"{remedy}"
        )


def _is_neg(name: str) -> bool:
    return name.startswith("neg.")
