"""Works out all that a conversion will write, before anything is written."""

from __future__ import annotations

import contextlib
import logging
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGUFType, GGUFValueType, GGUFWriter, LlamaFileType, Metadata
from gguf import GGMLQuantizationType as Type

from ..errors import ModelFileError, NegHeadError, RequestError
from ..files.input_file import shown, shown_path
from ..files.safetensors_header import StoredTensor
from ..gguf_file import encode as gguf_encode
from ..gguf_file.header import TensorInfo
from ..neg.head import NegHead
from .checkpoint import Checkpoint
from .config import Config, Shape, add_keys
from .head import head_in_shards, split_head, without
from .model_card import read_metadata
from .tensors import Output, Planner, language_tensors, mtp_blocks
from .tokenizer import Vocabulary, read_vocabulary

OUT_TYPES = {
    "f32": (LlamaFileType.ALL_F32, Type.F32),
    "f16": (LlamaFileType.MOSTLY_F16, Type.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, Type.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
}


# a key, its type, its value, and the type of an array's elements
Entry = tuple[str, GGUFValueType, Any, "GGUFValueType | None"]


@dataclass(frozen=True)
class Placed:
    """A tensor of the backbone and its place in the file's data section."""

    output: Output
    info: TensorInfo


@dataclass(frozen=True)
class Plan:
    """A file to be written.

    header: its bytes up to the data. tensors: in file order. head: the checkpoint's, also when the file is not to
    hold it. head_tensors: the NEG tensors after the others, with their places. sources: the files that are read.
    notes: for the user.
    """

    outtype: str
    arch: str
    name: str
    header: bytes
    tensors: Sequence[Placed]
    head: NegHead | None
    head_tensors: Sequence[tuple[TensorInfo, np.ndarray[Any, np.dtype[np.float32]]]]
    sources: Sequence[Path]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def infos(self) -> list[TensorInfo]:
        """The places of all tensors, the head's after the others."""
        return [placed.info for placed in self.tensors] + [info for info, _ in self.head_tensors]

    @property
    def data_size(self) -> int:
        """Size of the data section in bytes, with padding."""
        return max((gguf_encode.aligned(info.offset + info.size) for info in self.infos), default=0)

    @property
    def file_size(self) -> int:
        return len(self.header) + self.data_size

    @property
    def n_params(self) -> int:
        return sum(placed.info.n_elements for placed in self.tensors)


def make_plan(
    checkpoint: Checkpoint,
    *,
    outtype: str = "auto",
    neg: Path | NegHead | None = None,
    without_neg: bool = False,
    embed: bool = True,
    mtp: bool = True,
    name: str | None = None,
) -> Plan:
    """Maps a checkpoint to a file.

    outtype: f32, f16, bf16, q8_0, or auto (the type of the weights; f16 for weights in F32). neg: a file with the
    head, by default the checkpoint's own. embed: put the head into the file. mtp: keep the block for multi-token
    prediction if there is one. name: of the model, by default from the model card and the folder's name. Errors:
    ModelFileError, NegHeadError, RequestError.
    """
    config = Config(checkpoint.config_path, checkpoint.config)
    backbone, head = split_head(checkpoint, neg, without_neg)
    language = language_tensors(backbone, mtp=mtp)
    shape = config.shape(n_mtp=mtp_blocks(config, language))
    if head is not None and head.n_embd != shape.hidden:
        raise NegHeadError(
            f"{head.source}: is a head for hidden size {head.n_embd}, the checkpoint has {shape.hidden}; "
            "use the head that was trained on it"
        )
    if outtype == "auto":
        outtype = stored_type(language)
    if outtype not in OUT_TYPES:
        raise RequestError(f"outtype must be one of {', '.join(OUT_TYPES)} or auto, got {outtype!r}")
    outputs = Planner(checkpoint.folder, language, shape, OUT_TYPES[outtype][1]).outputs()
    tensors, end = place(outputs)

    notes: list[str] = []
    with collect_warnings(notes):
        metadata, left_out = read_metadata(checkpoint.folder, checkpoint.config, counts(outputs), name)
        vocabulary = read_vocabulary(checkpoint.folder, shape.vocab)
        writer = _keys(metadata, config, shape, outtype, vocabulary)
    entries = entries_of(writer)
    head_tensors = []
    if head is not None and embed:
        entries += [(*entry, None) for entry in head.keys()]  # noqa: SIM118 (a method of ours)
        for tensor_name, data in head.tensors().items():
            head_tensors.append((TensorInfo(tensor_name, data.shape[::-1], Type.F32, end, data.nbytes), data))
            end = gguf_encode.aligned(end + data.nbytes)
    infos = [placed.info for placed in tensors] + [info for info, _ in head_tensors]
    header = encode_header(checkpoint, entries, infos)
    sources = checkpoint.files() + ([neg] if isinstance(neg, Path) else [])
    notes = [*checkpoint.notes, *left_out, *vocabulary.notes, *notes]
    return Plan(outtype, shape.arch, str(metadata.name), header, tensors, head, head_tensors, sources, tuple(notes))


def _keys(metadata: Metadata, config: Config, shape: Shape, outtype: str, vocabulary: Vocabulary) -> GGUFWriter:
    """Collects all keys but the head's in a writer that writes nothing."""
    writer = GGUFWriter(None, shape.arch)
    writer.add_type(GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)
    add_keys(writer, config, shape)
    writer.add_file_type(OUT_TYPES[outtype][0])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    vocabulary.add_to(writer)
    return writer


def entries_of(writer: GGUFWriter) -> list[Entry]:
    """The keys that a writer has collected."""
    return [(key, entry.type, entry.value, entry.sub_type) for key, entry in writer.kv_data[0].items()]


def encode_header(checkpoint: Checkpoint, entries: Sequence[Entry], infos: Sequence[TensorInfo]) -> bytes:
    """Encodes a file up to its data."""
    keys = [_encoded(checkpoint, *entry) for entry in entries]
    header = b"".join([gguf_encode.start(len(infos), len(keys)), *keys, *(gguf_encode.info(info) for info in infos)])
    return header + bytes(gguf_encode.aligned(len(header)) - len(header))


def _encoded(checkpoint: Checkpoint, key: str, kind: GGUFValueType, value: Any, element: GGUFValueType | None) -> bytes:
    """Encodes a key. Raises ModelFileError, which names the key, for a value that GGUF cannot hold."""
    try:
        return gguf_encode.key(key, kind, value, element)
    except (struct.error, ValueError, OverflowError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{shown_path(checkpoint.folder)}: {shown(key)}: its value cannot be stored ({shown(str(error))}); "
            "correct it in the checkpoint's files"
        ) from None


@contextlib.contextmanager
def collect_warnings(notes: list[str]) -> Iterator[None]:
    """Turns warnings that the gguf package would print into notes."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(shown(record.getMessage()))

    listener = Listener(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("gguf", "metadata")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(listener)
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(listener)


def stored_type(language: Mapping[str, StoredTensor]) -> str:
    """Guesses the stored type like llama.cpp's converter: from the first matrix that is not F32, by shard and name."""
    shards = list(dict.fromkeys(stored.path for stored in language.values()))
    for stored in sorted(language.values(), key=lambda tensor: (shards.index(tensor.path), tensor.name)):
        if len(stored.shape) >= 2 and stored.dtype in ("BF16", "F16"):
            return stored.dtype.lower()
    return "f16"


def lossless_type(checkpoint: Checkpoint) -> str:
    """The smallest type that holds every matrix as it is stored, for quantizing from."""
    language = language_tensors(without(checkpoint, head_in_shards(checkpoint)), mtp=True)
    kinds = {stored.dtype for stored in language.values() if len(stored.shape) >= 2}
    return {frozenset(("BF16",)): "bf16", frozenset(("F16",)): "f16"}.get(frozenset(kinds), "f32")


def place(outputs: Sequence[Output]) -> tuple[list[Placed], int]:
    placed: list[Placed] = []
    end = 0
    for output in outputs:
        kind = output.type
        block, _ = GGML_QUANT_SIZES[kind]
        if output.shape[-1] % block != 0:
            kind = Type.F16  # as llama.cpp's converter does for rows that are not a multiple of the block
        size = tensor_bytes(output.shape, kind)
        placed.append(Placed(output, TensorInfo(output.name, output.shape[::-1], kind, end, size)))
        end = gguf_encode.aligned(end + size)
    return placed, end


def tensor_bytes(shape: tuple[int, ...], kind: Type) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // int(block) * int(size)


def counts(outputs: Sequence[Output]) -> tuple[int, int, int, int]:
    """Returns (parameters, those outside experts, those of one expert, experts), as GGUF's size label counts them."""
    sizes = {output.name: math.prod(output.shape) for output in outputs}
    experts = [output for output in outputs if "_exps." in output.name]
    n = experts[0].shape[0] if experts else 0
    in_experts = sum(sizes[output.name] for output in experts)
    total = sum(sizes.values())
    return total, total - in_experts, in_experts // n if n else 0, n
