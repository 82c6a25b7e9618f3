"""Describes a GGUF file, its NEG head included."""

from __future__ import annotations

from dataclasses import replace

from ..checks import check_integer
from ..errors import ModelFileError, NegHeadError
from ..files.input_file import PathLike, shown_path
from ..gguf_file.header import Header, read_header
from ..gguf_file.info import ModelInfo, describe
from ..gguf_file.parts import part_names, split_count, with_parts
from .formats import SIDE_CAR_ARCH, has_neg, head_of


def info(path: PathLike, *, n_ctx: int = 4096, n_parallel: int = 8) -> ModelInfo:
    """Describes a model file or a side-car. The head's weights are read and checked; of the model, the header alone.

    A split model is described as a whole, whichever part is given; see ModelInfo.part_error.
    n_ctx, n_parallel: what the memory is computed for. Raises ModelFileError when the header is not sound.
    """
    n_ctx = check_integer("n_ctx", n_ctx, low=0)
    n_parallel = check_integer("n_parallel", n_parallel, low=1, high=255)
    header, error = _whole(read_header(path))
    model = _with_head(describe(header, n_ctx=n_ctx, n_parallel=n_parallel), header)
    model = replace(model, part_error=error)
    if model.architecture != SIDE_CAR_ARCH:
        return model
    width = header.value("neg.n_embd", 0)
    return replace(model, n_embd=width if type(width) is int else 0, memory=None)


def _whole(header: Header) -> tuple[Header, str | None]:
    """The header of all parts, or the header as it is and why the parts cannot be read."""
    if split_count(header) == 1:
        return header, None
    first = part_names(header.path)[0]
    try:
        if first != header.path and header.value("split.no") != 0:
            return with_parts(read_header(first)), None
        return with_parts(header), None
    except ModelFileError as error:
        if "general.architecture" in header.keys:
            return header, str(error)
        # the first part alone says what the model is
        raise ModelFileError(
            f"{shown_path(header.path)}: is a part of a split model, which cannot be described by itself: {error}"
        ) from None


def _with_head(model: ModelInfo, header: Header) -> ModelInfo:
    if not has_neg(header):
        return model
    try:
        head = head_of(header)
    except NegHeadError as error:
        return replace(model, neg_error=str(error))
    names = ("n_embd", "n_reduced", "threshold", "top_k", "temp_scale", "temp_enabled", "source")
    return replace(model, neg={name: getattr(head, name) for name in names})
