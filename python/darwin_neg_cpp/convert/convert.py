"""A checkpoint, from a folder or from the hub, to GGUF files."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import neg_files, neg_format
from ..atomic_file import OutputError, check_output, temporary
from ..errors import ModelFileError, NegHeadError
from ..gguf_info import ModelInfo, info
from ..hub import snapshot
from ..input_file import shown_path
from ..neg_format import NegHead
from ..quantize import ALIASES, TYPES, quantize
from . import write
from .checkpoint import NEG_MODULES, open_checkpoint
from .plan import OUT_TYPES, Plan, head_in_shards, lossless_type, make_plan

Progress = Callable[[int, int], None]

# what libllama's quantizer does, in a second step
QUANTIZED = (TYPES.keys() | ALIASES.keys()) - OUT_TYPES.keys()

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# what a conversion reads; not the vision projector, not other people's GGUF files
WANTED = [
    "config.json",
    "generation_config.json",
    "README.md",
    "model*.safetensors",
    "model.safetensors.index.json",
    NEG_MODULES,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
]


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, and the name that a repository gives it (None for a folder of the user's own)."""

    folder: Path
    name: str | None


def find(source: str, *, revision: str | None = None, token: str | None = None) -> Source:
    """A folder as it is, a repository id after downloading what a conversion needs (resumed where an earlier download stopped)."""
    if Path(source).exists() or not REPOSITORY.fullmatch(source):
        if revision is not None:
            raise ModelFileError(f"{shown_path(source)}: is a folder; a revision is for repositories of the hub")
        return Source(Path(source), None)
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return Source(snapshot(source, WANTED, revision=revision, token=token), source.partition("/")[2])


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
    checkpoint = open_checkpoint(source.folder)
    if outtype in QUANTIZED:
        outtype = lossless_type(checkpoint)  # what the quantizer then starts from
    # a vocabulary is a million small objects, none of them garbage: looking for some among them takes a third of the time
    collecting = gc.isenabled()
    gc.disable()
    try:
        return make_plan(
            checkpoint, outtype=outtype, neg=neg, without_neg=without_neg, embed=embed, mtp=mtp, name=source.name
        )
    finally:
        if collecting:
            gc.enable()


def default_name(plan: Plan, outtype: str) -> str:
    """As llama.cpp's converter names files: model name and type."""
    name = re.sub(r"[^\w.+-]+", "-", plan.name).strip("-.") or "model"
    return f"{name}-{outtype.upper()}.gguf"


def preview(plan: Plan) -> ModelInfo:
    """What `info` will say about the file. Nothing of the model is written for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.gguf"
        with path.open("wb") as file:
            file.write(plan.header)
            for tensor, data in plan.head_tensors:
                file.seek(len(plan.header) + tensor.offset)
                file.write(np.ascontiguousarray(data, "<f4").tobytes())
            file.truncate(plan.file_size)  # a hole, which takes no space
        return info(path)


def bound_head(plan: Plan) -> NegHead:
    """The plan's head, bound to its backbone, for a side-car."""
    if plan.head is None:
        raise NegHeadError("there is no NEG head for a side-car; drop --no-neg, or give a head with --neg")
    norm = next(placed for placed in plan.tensors if placed.info.name == "output_norm.weight")
    with contextlib.closing(write.Inputs()) as inputs:
        (chunk,) = write.chunks_of(norm, 0)
        data = write.convert_rows(inputs, chunk)
    return neg_format.with_backbone(plan.head, plan.arch, hashlib.sha256(data.tobytes()).hexdigest())


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
    check_output(out, list(plan.sources), force=force)
    tell = progress or (lambda _done, _total: None)
    with temporary(out.with_name(f"{out.name}.full")) as (_, full):
        # the bar counts half for each step: they take about the same time
        write.write(
            plan, full, force=True, verify=verify, threads=threads, progress=lambda done, total: tell(done, 2 * total)
        )
        quantize(
            full,
            out,
            kind,
            imatrix=imatrix,
            threads=threads,
            force=force,
            progress=lambda done, total: tell(total + done, 2 * total),
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


def check_both(out: Path, side_car: Path | None) -> None:
    if side_car is not None and out.absolute() == side_car.absolute():
        raise OutputError(f"{shown_path(out)}: is named for the model and for the side-car; choose two names")
