"""Converts a checkpoint, from a folder or from the hub, to GGUF files."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import NegHeadError, OutputError, RequestError
from ..files.input_file import shown_path
from ..files.output_file import check_output, os_errors_about, rename_in_errors, temporary
from ..files.progress import Progress, no_progress
from ..gguf_file.header import read_header
from ..gguf_file.info import ModelInfo
from ..neg.files import write_head
from ..neg.head import NegHead, with_backbone
from ..neg.info import info
from . import write
from .checkpoint import open_checkpoint
from .mmproj import make_projector_plan
from .plan import OUT_TYPES, Plan, lossless_type, make_plan
from .quantize import ALIASES, TYPES, check_plan, check_ready, dry_run, quantize, quantized_bytes
from .rows import Inputs, chunks_of, convert_rows
from .source import Source
from .vision import is_vision

# made by libllama's quantizer, in a second step
QUANTIZED = (TYPES.keys() | ALIASES.keys()) - OUT_TYPES.keys()
# those that it makes of this family only with an importance matrix
NEED_IMATRIX = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s"}


def check_type(outtype: str, imatrix: Path | None = None) -> None:
    """Raises RequestError, before anything is downloaded or written, for a type that cannot be made here."""
    if outtype in QUANTIZED:
        if imatrix is None and outtype in NEED_IMATRIX:
            raise RequestError(
                f"{outtype} needs an importance matrix; make one with llama-imatrix and give it as imatrix"
            )
        check_ready(outtype, imatrix)
    elif outtype != "auto" and outtype not in OUT_TYPES:
        raise RequestError(
            f"outtype must be auto, {', '.join(OUT_TYPES)} or one of llama.cpp's ({', '.join(sorted(QUANTIZED))}), "
            f"got {outtype!r}"
        )
    elif imatrix is not None:
        raise RequestError(
            f"an importance matrix is for quantized types such as q4_k_m, not for {outtype}; "
            "drop imatrix=, or choose such a type"
        )


def check_outputs(
    out: Path | None,
    side_car: Path | None,
    sources: Sequence[Path] = (),
    *,
    mmproj: Path | None = None,
    force: bool,
) -> None:
    """Raises OutputError for outputs that are the same file or an input, exist already, or cannot be files."""
    seen: dict[str, str] = {}
    for path, what in ((out, "the model"), (side_car, "the side-car"), (mmproj, "the projector")):
        if path is None:
            continue
        if (other := seen.get(real := os.path.realpath(path))) is not None:
            raise OutputError(f"{shown_path(path)}: is named for {other} and for {what}; choose two names")
        seen[real] = what
    for path in (out, side_car, mmproj):
        if path is not None:
            check_output(path, list(sources), force=force)


def plan(
    source: Source,
    *,
    outtype: str = "auto",
    neg: Path | None = None,
    without_neg: bool = False,
    embed: bool = True,
    mtp: bool = True,
) -> Plan:
    """Works out what a conversion of `source` writes; see make_plan."""
    return _about(source, lambda: _plan(source, outtype, neg, without_neg=without_neg, embed=embed, mtp=mtp))


def projector_plan(source: Source, *, outtype: str = "auto") -> Plan:
    """Works out the projector file of `source`; see make_projector_plan.

    A type that only the quantizer makes is one for language models, which a projector is written beside: as auto.
    """
    outtype = "auto" if outtype in QUANTIZED else outtype

    def make() -> Plan:
        checkpoint = open_checkpoint(source.folder, only=is_vision)
        return make_projector_plan(checkpoint, outtype=outtype, name=source.name)

    return _about(source, make)


def _about(source: Source, make: Callable[[], Plan]) -> Plan:
    """A plan with the notes on the source, which is shown under the name that the user knows."""
    # an outline lies in a folder whose name means nothing to the user
    shown_as = Path(source.name) if source.temporary is not None and source.name else source.folder
    with rename_in_errors(source.folder, shown_as):
        result = make()
    notes = [note.replace(str(source.folder), str(shown_as)) for note in result.notes]
    return replace(result, notes=(*source.notes, *notes))


def _plan(source: Source, outtype: str, neg: Path | None, *, without_neg: bool, embed: bool, mtp: bool) -> Plan:
    checkpoint = open_checkpoint(source.folder)
    if outtype in QUANTIZED:
        outtype = lossless_type(checkpoint)  # for the quantizer to start from
    # a vocabulary is a million small objects, none of them garbage: searching them for garbage takes a third of the
    # time
    collecting = gc.isenabled()
    gc.disable()
    try:
        result = make_plan(
            checkpoint, outtype=outtype, neg=neg, without_neg=without_neg, embed=embed, mtp=mtp, name=source.name
        )
    finally:
        if collecting:
            gc.enable()
    _check_backbone(result)
    return result


def default_name(plan: Plan, outtype: str) -> str:
    """Names a file as llama.cpp's converter does: model name and type."""
    name = re.sub(r"[^\w.+-]+", "-", plan.name).strip("-.") or "model"
    return f"{name}-{outtype.upper()}.gguf"


@contextlib.contextmanager
def outline(plan: Plan) -> Iterator[Path]:
    """The plan as a file with all but the backbone's weights, for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.gguf"
        with path.open("wb") as file:
            file.write(plan.header)
            for tensor, data in plan.head_tensors:
                file.seek(len(plan.header) + tensor.offset)
                file.write(np.ascontiguousarray(data, "<f4").tobytes())
            file.truncate(plan.file_size)  # a hole, which takes no space
        yield path


def check_matrix(plan: Plan, out: Path, kind: str, imatrix: Path) -> None:
    """Raises ModelFileError for a matrix that is not one of the planned model. out: its name in errors."""
    with outline(plan) as path, rename_in_errors(path, out):
        check_plan(path, kind, imatrix)


def preview(plan: Plan, kind: str | None = None, *, with_imatrix: bool = False) -> ModelInfo:
    """Describes the file as `info` will, quantized to `kind` if that is given. No weights are written for it."""
    with outline(plan) as path:
        model = info(path)
        if kind is None or model.memory is None:
            return model
        sizes, file_size = quantized_bytes(read_header(path), dry_run(path, kind, with_imatrix=with_imatrix))
    return replace(
        model,
        quantization=f"{kind.upper()}, made of {plan.outtype.upper()}",
        size_bytes=file_size,
        memory=replace(model.memory, weights=sum(sizes.values())),
    )


def bound_head(plan: Plan) -> NegHead:
    """Returns the plan's head, bound to its backbone, for a side-car."""
    if plan.head is None:
        raise NegHeadError("there is no NEG head for a side-car; drop without_neg=True, or pass neg=FILE")
    return with_backbone(plan.head, plan.arch, _norm_sha256(plan))


def _check_backbone(plan: Plan) -> None:
    """Raises NegHeadError for a head that was made for another backbone, as far as the head says so."""
    head = plan.head
    if head is None or not (head.base_arch or head.base_norm_sha256):
        return
    remedy = "use the head that was trained on this backbone"
    if head.base_arch and head.base_arch != plan.arch:
        raise NegHeadError(
            f"{head.source}: neg.base_arch: is for architecture {head.base_arch}, the checkpoint is {plan.arch}; "
            f"{remedy}"
        )
    if head.base_norm_sha256 and head.base_norm_sha256 != _norm_sha256(plan):
        raise NegHeadError(
            f"{head.source}: neg.base_norm_sha256: was made for another backbone (its output norm differs); {remedy}"
        )


def _norm_sha256(plan: Plan) -> str:
    norm = next(placed for placed in plan.tensors if placed.info.name == "output_norm.weight")
    with contextlib.closing(Inputs()) as inputs:
        digest = hashlib.sha256()
        for chunk in chunks_of(norm, 0):
            digest.update(convert_rows(inputs, chunk).tobytes())
    return digest.hexdigest()


def write_side_car(plan: Plan, out: Path, *, force: bool = False) -> None:
    """Writes the head alone, for use with any quantization of this backbone."""
    check_output(out, list(plan.sources), force=force)
    write_head(bound_head(plan), out)


def write_quantized(
    plan: Plan,
    out: Path,
    kind: str,
    *,
    imatrix: Path | None = None,
    force: bool = False,
    verify: bool = True,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes the plan unquantized beside `out`, quantizes that file to `out`, and removes it, also after an error."""
    check_type(kind, imatrix)
    check_output(out, [*plan.sources, *([imatrix] if imatrix is not None else [])], force=force)
    if imatrix is not None:
        check_matrix(plan, out, kind, imatrix)
    report = progress or no_progress
    # in bytes, half of them for each step: the two take about the same time
    half = plan.file_size
    with os_errors_about(out), temporary(out) as (file, full):
        quantized = preview(plan, kind, with_imatrix=imatrix is not None).size_bytes
        write.check_space(out, plan.file_size + quantized)
        write.write_into(
            plan,
            file,
            full,
            verify=verify,
            threads=threads,
            progress=lambda done, total: report(half * done // max(1, total), 2 * half),
        )
        # what the quantizer says of the file in between is about the checkpoint that it was made from
        with rename_in_errors(full, plan.sources[0].parent if plan.sources else out):
            quantize(
                full,
                out,
                kind,
                imatrix=imatrix,
                threads=threads,
                force=force,
                progress=lambda done, total: report(half + half * done // max(1, total), 2 * half),
            )


def write_any(
    plan: Plan,
    out: Path,
    kind: str,
    *,
    imatrix: Path | None = None,
    force: bool = False,
    verify: bool = True,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes the plan in type `kind`, through the quantizer if it is one of its types."""
    if kind in QUANTIZED:
        write_quantized(
            plan, out, kind, imatrix=imatrix, force=force, verify=verify, threads=threads, progress=progress
        )
    else:
        write.write(plan, out, force=force, verify=verify, threads=threads, progress=progress)
