"""A checkpoint, from a folder or from the hub, to GGUF files."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import ModelFileError, NegHeadError, RequestError
from ..files.input_file import shown_path
from ..files.output_file import OutputError, check_output, naming, temporary
from ..files.progress import Progress, no_progress
from ..gguf_file.info import ModelInfo, info
from ..hub import snapshot
from ..neg import files as neg_files
from ..neg import formats as neg_format
from ..neg.formats import NegHead
from . import write
from .checkpoint import MORE_TEMPLATES, NEG_MODULES, READ, open_checkpoint
from .outline import outline
from .plan import OUT_TYPES, Plan, head_in_shards, lossless_type, make_plan
from .quantize import ALIASES, TYPES, about_bytes, check_ready, quantize

# what libllama's quantizer does, in a second step
QUANTIZED = (TYPES.keys() | ALIASES.keys()) - OUT_TYPES.keys()
# those that it makes of this family with an importance matrix alone
NEED_IMATRIX = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s"}

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# what a conversion reads; not the vision projector, not other people's GGUF files
WANTED = [*READ, "model*.safetensors", f"{MORE_TEMPLATES}/*.jinja"]


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, and the repository that it was downloaded from (None for a folder of the user's own).

    notes: what is to be said about the download. kept: the temporary folder that it is, of an outline.
    """

    folder: Path
    name: str | None
    notes: tuple[str, ...] = ()
    kept: tempfile.TemporaryDirectory[str] | None = None


def check_type(outtype: str, imatrix: Path | None = None) -> None:
    """Refuses, before anything is downloaded or written, a type that cannot be made here."""
    if outtype in QUANTIZED:
        if imatrix is None and outtype in NEED_IMATRIX:
            raise RequestError(
                f"{outtype} needs an importance matrix; make one with llama-imatrix and give it as imatrix"
            )
        check_ready(outtype, imatrix)
    elif outtype != "auto" and outtype not in OUT_TYPES:
        raise RequestError(
            f"outtype must be auto, {', '.join(OUT_TYPES)} or one of llama.cpp's ({', '.join(sorted(QUANTIZED))}), got {outtype!r}"
        )
    elif imatrix is not None:
        raise RequestError(f"an importance matrix is for quantized types such as q4_k_m, not for {outtype}")


def check_outputs(out: Path | None, side_car: Path | None, sources: Sequence[Path] = (), *, force: bool) -> None:
    """Refuses outputs that are the same file or an input, that exist already (without `force`), or that can be no file."""
    if out is not None and side_car is not None and os.path.realpath(out) == os.path.realpath(side_car):
        raise OutputError(f"{shown_path(out)}: is named for the model and for the side-car; choose two names")
    for one in (out, side_car):
        if one is not None:
            check_output(one, list(sources), force=force)


def find(source: str, *, revision: str | None = None, token: str | None = None, whole: bool = True) -> Source:
    """A folder as it is, a repository id after downloading what a conversion needs (resumed where an earlier download stopped).

    whole: False downloads no more of the weights than a plan and a side-car need.
    """
    if Path(source).exists() or not REPOSITORY.fullmatch(source):
        if revision is not None:
            raise ModelFileError(f"{shown_path(source)}: is a folder; a revision is for repositories of the hub")
        return Source(Path(source), None)
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    if not whole:
        folder, notes, kept = outline(source, revision=revision, token=token)
        return Source(folder, source, notes, kept)
    folder, notes = snapshot(source, WANTED, revision=revision, token=token)
    return Source(folder, source, notes)


@contextlib.contextmanager
def opened(
    source: str, *, revision: str | None = None, token: str | None = None, whole: bool = True
) -> Iterator[Source]:
    """As `find`, for as long as the block lasts: an outline is removed behind it."""
    found = find(source, revision=revision, token=token, whole=whole)
    try:
        yield found
    finally:
        if found.kept is not None:
            found.kept.cleanup()


def has_head(source: Source) -> bool:
    """Whether the checkpoint comes with a NEG head."""
    return (source.folder / NEG_MODULES).exists() or bool(head_in_shards(open_checkpoint(source.folder)))


def plan(
    source: Source,
    *,
    outtype: str = "auto",
    neg: Path | None = None,
    without_neg: bool = False,
    embed: bool = True,
    mtp: bool = True,
) -> Plan:
    """What a conversion of `source` would write; see make_plan."""
    # an outline lies in a folder that nobody has heard of
    called = Path(source.name) if source.kept is not None and source.name else source.folder
    with naming(source.folder, called):
        made = _planned(source, outtype, neg, without_neg=without_neg, embed=embed, mtp=mtp)
    notes = [note.replace(str(source.folder), str(called)) for note in made.notes]
    return replace(made, notes=(*source.notes, *notes))


def _planned(source: Source, outtype: str, neg: Path | None, *, without_neg: bool, embed: bool, mtp: bool) -> Plan:
    checkpoint = open_checkpoint(source.folder)
    if outtype in QUANTIZED:
        outtype = lossless_type(checkpoint)  # what the quantizer then starts from
    # a vocabulary is a million small objects, none of them garbage: looking for some among them takes a third of the time
    collecting = gc.isenabled()
    gc.disable()
    try:
        made = make_plan(
            checkpoint, outtype=outtype, neg=neg, without_neg=without_neg, embed=embed, mtp=mtp, name=source.name
        )
    finally:
        if collecting:
            gc.enable()
    _check_backbone(made)
    return made


def default_name(plan: Plan, outtype: str) -> str:
    """As llama.cpp's converter names files: model name and type."""
    name = re.sub(r"[^\w.+-]+", "-", plan.name).strip("-.") or "model"
    return f"{name}-{outtype.upper()}.gguf"


def preview(plan: Plan, kind: str | None = None) -> ModelInfo:
    """What `info` will say about the file, quantized to `kind` if that is given. Nothing of the model is written for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.gguf"
        with path.open("wb") as file:
            file.write(plan.header)
            for tensor, data in plan.head_tensors:
                file.seek(len(plan.header) + tensor.offset)
                file.write(np.ascontiguousarray(data, "<f4").tobytes())
            file.truncate(plan.file_size)  # a hole, which takes no space
        found = info(path)
    if kind is None or found.memory is None:
        return found
    weights = about_bytes(plan.infos, kind)
    return replace(
        found,
        quantization=f"{kind.upper()}, made of {plan.outtype.upper()}",
        size_bytes=len(plan.header) + weights,
        memory=replace(found.memory, weights=weights),
    )


def bound_head(plan: Plan) -> NegHead:
    """The plan's head, bound to its backbone, for a side-car."""
    if plan.head is None:
        raise NegHeadError("there is no NEG head for a side-car; drop without_neg=True, or give a head with neg=FILE")
    return neg_format.with_backbone(plan.head, plan.arch, _norm_sha256(plan))


def _check_backbone(plan: Plan) -> None:
    """Refuses a head that says that it is another backbone's, as a side-car does."""
    head = plan.head
    if head is None or not (head.base_arch or head.base_norm_sha256):
        return
    remedy = "use the head that was trained on this backbone"
    if head.base_arch and head.base_arch != plan.arch:
        raise NegHeadError(
            f"{head.source}: neg.base_arch: is for architecture {head.base_arch}, the checkpoint is {plan.arch}; {remedy}"
        )
    if head.base_norm_sha256 and head.base_norm_sha256 != _norm_sha256(plan):
        raise NegHeadError(
            f"{head.source}: neg.base_norm_sha256: was made for another backbone (its output norm differs); {remedy}"
        )


def _norm_sha256(plan: Plan) -> str:
    norm = next(placed for placed in plan.tensors if placed.info.name == "output_norm.weight")
    with contextlib.closing(write.Inputs()) as inputs:
        digest = hashlib.sha256()
        for chunk in write.chunks_of(norm, 0):
            digest.update(write.convert_rows(inputs, chunk).tobytes())
    return digest.hexdigest()


def write_side_car(plan: Plan, out: Path, *, force: bool = False) -> None:
    """The head alone, for use beside any quantization of this backbone."""
    check_output(out, list(plan.sources), force=force)
    neg_files.write_head(bound_head(plan), out)


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
    """Writes the plan in its full size beside `out`, quantizes that to `out`, and removes it again, whatever happens."""
    check_type(kind, imatrix)
    check_output(out, [*plan.sources, *([imatrix] if imatrix is not None else [])], force=force)
    tell = progress or no_progress
    # the bar counts bytes, and half of them for each step: they take about the same time
    half = plan.file_size
    with write.written(out), temporary(out) as (file, full):
        write.check_space(out, plan.file_size + about_bytes(plan.infos, kind))
        write.write_into(
            plan,
            file,
            full,
            verify=verify,
            threads=threads,
            progress=lambda done, total: tell(half * done // max(1, total), 2 * half),
        )
        with naming(full, out):
            quantize(
                full,
                out,
                kind,
                imatrix=imatrix,
                threads=threads,
                force=force,
                progress=lambda done, total: tell(half + half * done // max(1, total), 2 * half),
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
    """Writes the plan in the type that was asked for, through the quantizer where that is one of its types."""
    if kind in QUANTIZED:
        write_quantized(
            plan, out, kind, imatrix=imatrix, force=force, verify=verify, threads=threads, progress=progress
        )
    else:
        write.write(plan, out, force=force, verify=verify, threads=threads, progress=progress)
