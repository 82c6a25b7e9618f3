"""Checks that an importance matrix is one of the model that is to be quantized, before anything is written."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from gguf import GGUFValueType

from ..errors import ModelFileError
from ..files.input_file import PathLike, open_input, shown, shown_path
from ..gguf_file.header import MAGIC, Header, architecture, read_header

logger = logging.getLogger(__name__)

BLOCK = re.compile(r"blk\.(\d{1,6})\.")
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
# what llama-imatrix gathers nothing for, as most of its runs
NOT_MEASURED = (*EMBEDDINGS, "output.weight")
# types that are of no use without a matrix, as llama.cpp's quantizer has it
NEED_VALUES = ("iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s")
LISTED = 3  # names in an error


def check_imatrix(
    core: Any, model: Header, path: str, number: int, kind: str, imatrix: PathLike, *, warn: bool = True
) -> None:
    """Raises ModelFileError for a matrix of another model, or without values that the type `kind` cannot do without.

    core: the compiled engine. model: the model's header; path: where it, or a file with its header and no data, lies.
    number: llama.cpp's of the type. warn: log what the matrix lacks and the type can do without, as one warning.
    """
    name = shown_path(imatrix)
    _check_keys(imatrix)
    sizes: dict[str, int] = core.imatrix_sizes(str(imatrix))
    types: dict[str, str] = core.quantized_types(path, number, with_imatrix=True)
    _check_sizes(name, model, sizes, types)
    lacking = [tensor for tensor in types if tensor not in NOT_MEASURED and tensor not in sizes]
    _check_blocks(name, model, sizes, types, lacking)
    needed = [t for t in lacking if types[t] in NEED_VALUES or (types[t] == "q2_K" and kind == "q2_k_s")]
    if needed:
        raise ModelFileError(
            f"{name}: has no values for {_listed(needed)}, which {kind} cannot do without; {_remedy(model, needed)}"
        )
    if lacking and warn:
        logger.warning("%s: has no values for %s, which are quantized without", name, _listed(lacking))


def _check_keys(imatrix: PathLike) -> None:
    """Raises ModelFileError for a damaged file, and for what llama.cpp would abort on."""
    with open_input(imatrix, ModelFileError) as file:
        if file.read(4) != MAGIC:
            return  # the form of older versions
    header = read_header(imatrix)
    for key in ("imatrix.chunk_count", "imatrix.chunk_size"):
        if key in header.keys and header.keys[key].type != GGUFValueType.UINT32:
            raise ModelFileError(
                f"{shown_path(imatrix)}: {key} is not a 32-bit number; make the file again with llama-imatrix"
            )


def _check_sizes(name: str, model: Header, sizes: Mapping[str, int], types: Collection[str]) -> None:
    for tensor in types:
        shape = model.tensors[tensor].shape
        columns = shape[0] * (shape[2] if len(shape) > 2 else 1)
        if tensor not in EMBEDDINGS and sizes.get(tensor, columns) != columns:
            raise _of_another(
                name, model, f"{shown(tensor)} has {sizes[tensor]} values there, and {columns} columns here"
            )


def _check_blocks(
    name: str, model: Header, sizes: Collection[str], types: Collection[str], lacking: Collection[str]
) -> None:
    """A matrix knows all blocks of its model, but may lack a few tensors in them, such as experts never chosen."""
    total, trunk = _blocks(model)
    if total and (beyond := sorted(tensor for tensor in sizes if _block(tensor) >= total)):
        raise _of_another(name, model, f"it has values for {_listed(beyond)}, the model has {total} blocks")
    known = {_block(tensor) for tensor in types if tensor in sizes}
    if unknown := [tensor for tensor in lacking if _block(tensor) < trunk and _block(tensor) not in known]:
        raise _of_another(name, model, f"it has no values for {_listed(unknown)}")


def _of_another(name: str, model: Header, why: str) -> ModelFileError:
    return ModelFileError(
        f"{name}: is not an importance matrix of {shown_path(model.path)}: {why}; "
        "use the one that was made of this model, or make one with llama-imatrix"
    )


def _remedy(model: Header, needed: Collection[str]) -> str:
    _, trunk = _blocks(model)
    other = "choose a type that needs no matrix, such as q4_k_m"
    if all(_block(tensor) >= trunk > 0 for tensor in needed):
        return (
            "they are of the block for multi-token prediction: leave it out when converting "
            f"(`darwin-neg convert --no-mtp`), or {other}"
        )
    return f"make a matrix of more text with llama-imatrix, or {other}"


def _blocks(model: Header) -> tuple[int, int]:
    """The number of blocks in total, and without those for multi-token prediction."""
    arch = architecture(model)
    total, extra = model.value(f"{arch}.block_count", 0), model.value(f"{arch}.nextn_predict_layers", 0)
    return (total, total - extra) if type(total) is int and type(extra) is int else (0, 0)


def _block(tensor: str) -> int:
    """The number of the block that a tensor is in, -1 for none."""
    match = BLOCK.match(tensor)
    return int(match[1]) if match else -1


def _listed(tensors: Collection[str]) -> str:
    names = ", ".join(shown(tensor) for tensor in list(tensors)[:LISTED])
    return names if len(tensors) <= LISTED else f"{names} and {len(tensors) - LISTED} more tensors"
