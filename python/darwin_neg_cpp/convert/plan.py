"""All that a conversion will write, worked out before anything is written."""

from __future__ import annotations

import contextlib
import hashlib
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
from ..neg import formats as neg_format
from ..neg.formats import NegHead
from . import qwen35
from .checkpoint import NEG_MODULES, Checkpoint
from .model_card import read_metadata
from .qwen35 import Config, Output, Shape
from .tokenizer import Vocabulary, read_vocabulary

OUT_TYPES = {
    "f32": (LlamaFileType.ALL_F32, Type.F32),
    "f16": (LlamaFileType.MOSTLY_F16, Type.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, Type.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
}


@dataclass(frozen=True)
class Placed:
    """A tensor of the backbone and its place in the file's data section."""

    output: Output
    info: TensorInfo


@dataclass(frozen=True)
class Plan:
    """header: the file's bytes up to the data. tensors: in file order. head: the checkpoint's, also when it is not to be in the file;
    head_tensors: the NEG tensors behind the others, with their place."""

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
        """Of all tensors, the head's behind the others."""
        return [placed.info for placed in self.tensors] + [info for info, _ in self.head_tensors]

    @property
    def data_size(self) -> int:
        """Bytes of the data section, padding included."""
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

    outtype: f32, f16, bf16, q8_0, or auto (the type of the weights; f16 for weights in F32). neg: a file with the head; by default the
    checkpoint's own; embed: put it into the file. mtp: keep the multi-token-prediction block if there is one. name: general.name and what follows from it, by
    default from the model card and the folder's name. Errors: ModelFileError, NegHeadError, RequestError.
    """
    config = Config(checkpoint.config_path, checkpoint.config)
    backbone, head = split_head(checkpoint, neg, without_neg)
    language = qwen35.language_tensors(backbone, mtp=mtp)
    shape = config.shape(n_mtp=qwen35.mtp_blocks(config, language))
    if head is not None and head.n_embd != shape.hidden:
        raise NegHeadError(
            f"{head.source}: is a head for hidden size {head.n_embd}, the checkpoint has {shape.hidden}; use the head that was trained on it"
        )
    if outtype == "auto":
        outtype = _stored_type(language)
    if outtype not in OUT_TYPES:
        raise RequestError(f"outtype must be one of {', '.join(OUT_TYPES)} or auto, got {outtype!r}")
    outputs = qwen35.Planner(checkpoint.folder, language, shape, OUT_TYPES[outtype][1]).outputs()
    tensors, end = _place(outputs)

    notes: list[str] = []
    with _heard(notes):
        metadata, left_out = read_metadata(checkpoint.folder, checkpoint.config, _counts(outputs), name)
        writer = _keys(metadata, config, shape, outtype, read_vocabulary(checkpoint.folder, shape.vocab))
    entries = [(key, entry.type, entry.value, entry.sub_type) for key, entry in writer.kv_data[0].items()]
    head_tensors = []
    if head is not None and embed:
        entries += [(*entry, None) for entry in head.keys()]  # noqa: SIM118 (a method of ours)
        for tensor_name, data in head.tensors().items():
            head_tensors.append((TensorInfo(tensor_name, data.shape[::-1], Type.F32, end, data.nbytes), data))
            end = gguf_encode.aligned(end + data.nbytes)
    keys = [_encoded(checkpoint, *entry) for entry in entries]
    infos = [placed.info for placed in tensors] + [info for info, _ in head_tensors]
    header = b"".join([gguf_encode.start(len(infos), len(keys)), *keys, *(gguf_encode.info(info) for info in infos)])
    header += bytes(gguf_encode.aligned(len(header)) - len(header))
    sources = checkpoint.files() + ([neg] if isinstance(neg, Path) else [])
    notes = [*left_out, *notes]
    return Plan(outtype, shape.arch, str(metadata.name), header, tensors, head, head_tensors, sources, tuple(notes))


def _keys(metadata: Metadata, config: Config, shape: Shape, outtype: str, vocabulary: Vocabulary) -> GGUFWriter:
    """A writer that holds all keys but the head's, and writes nothing."""
    writer = GGUFWriter(None, shape.arch)
    writer.add_type(GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)
    qwen35.add_keys(writer, config, shape)
    writer.add_file_type(OUT_TYPES[outtype][0])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    vocabulary.add_to(writer)
    return writer


def _encoded(checkpoint: Checkpoint, key: str, kind: GGUFValueType, value: Any, element: GGUFValueType | None) -> bytes:
    """The bytes of a key; what GGUF cannot hold is an error that names it."""
    try:
        return gguf_encode.key(key, kind, value, element)
    except (struct.error, ValueError, OverflowError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{shown_path(checkpoint.folder)}: {shown(key)}: its value cannot be stored ({shown(str(error))}); "
            "correct it in the checkpoint's files"
        ) from None


@contextlib.contextmanager
def _heard(notes: list[str]) -> Iterator[None]:
    """What the library would say on standard error, as notes."""

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


def split_head(
    checkpoint: Checkpoint, neg: Path | NegHead | None, without_neg: bool
) -> tuple[Checkpoint, NegHead | None]:
    """The checkpoint without NEG tensors, and the head from where it is: the argument, a file beside the shards, the shards."""
    inside = head_in_shards(checkpoint)
    backbone = _without(checkpoint, inside)
    if without_neg:
        if neg is not None:
            raise RequestError("a NEG head is given and left out at the same time; drop one of the two options")
        return backbone, None
    if isinstance(neg, NegHead):
        return backbone, neg
    if neg is not None:
        return backbone, neg_format.read_head(neg)
    beside = checkpoint.folder / NEG_MODULES
    if beside.exists():
        if inside:
            stored = next(iter(inside.values()))
            raise NegHeadError(
                f"{shown_path(beside)}: {shown_path(stored.path)} holds a head too; choose one with neg=FILE, or remove one"
            )
        return backbone, neg_format.read_head(beside)
    if inside:
        path = next(iter(inside.values())).path
        digest = hashlib.sha256(b"".join(_read(stored) for _, stored in sorted(inside.items()))).hexdigest()
        return backbone, neg_format.head_of_stored(inside, path, f"{Path(path).name} tensors sha256:{digest}")
    raise NegHeadError(
        f"{shown_path(checkpoint.folder)}: holds no NEG head ({NEG_MODULES}); give one with neg=FILE, or convert without it with without_neg=True"
    )


def _without(checkpoint: Checkpoint, head: Mapping[str, StoredTensor]) -> Checkpoint:
    names = {stored.name for stored in head.values()}
    rest = {name: stored for name, stored in checkpoint.tensors.items() if name not in names}
    return Checkpoint(checkpoint.folder, checkpoint.config, rest)


def head_in_shards(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """NEG tensors among the shards' own by their released names, whatever stands before these."""
    found: dict[str, StoredTensor] = {}
    for name, stored in checkpoint.tensors.items():
        for released in neg_format.RELEASED_NAMES:
            if name == released or name.endswith(("neg." + released, "neg_modules." + released)):
                if released in found:
                    raise NegHeadError(
                        f"{shown_path(stored.path)}: {shown(name)}: is a second {released}; remove one of the heads"
                    )
                found[released] = stored
    return found


def _read(stored: StoredTensor) -> bytes:
    with open(stored.path, "rb") as file:
        file.seek(stored.offset)
        return file.read(stored.size)


def _stored_type(language: Mapping[str, StoredTensor]) -> str:
    """As llama.cpp's converter guesses it: from the first matrix that is not F32, by shard and name."""
    shards = list(dict.fromkeys(stored.path for stored in language.values()))
    for stored in sorted(language.values(), key=lambda one: (shards.index(one.path), one.name)):
        if len(stored.shape) >= 2 and stored.dtype in ("BF16", "F16"):
            return stored.dtype.lower()
    return "f16"


def lossless_type(checkpoint: Checkpoint) -> str:
    """The smallest type that holds every matrix as it is stored, for quantizing from."""
    language = qwen35.language_tensors(_without(checkpoint, head_in_shards(checkpoint)), mtp=True)
    kinds = {stored.dtype for stored in language.values() if len(stored.shape) >= 2}
    return {frozenset(("BF16",)): "bf16", frozenset(("F16",)): "f16"}.get(frozenset(kinds), "f32")


def _place(outputs: Sequence[Output]) -> tuple[list[Placed], int]:
    placed: list[Placed] = []
    end = 0
    for output in outputs:
        kind = output.type
        block, _ = GGML_QUANT_SIZES[kind]
        if output.shape[-1] % block != 0:
            kind = Type.F16  # rows that blocks do not divide, as llama.cpp's converter does it
        size = tensor_bytes(output.shape, kind)
        placed.append(Placed(output, TensorInfo(output.name, output.shape[::-1], kind, end, size)))
        end = gguf_encode.aligned(end + size)
    return placed, end


def tensor_bytes(shape: tuple[int, ...], kind: Type) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // int(block) * int(size)


def _counts(outputs: Sequence[Output]) -> tuple[int, int, int, int]:
    """(parameters, those outside experts, those of one expert, experts), as GGUF's size label counts them."""
    sizes = {output.name: math.prod(output.shape) for output in outputs}
    experts = [output for output in outputs if "_exps." in output.name]
    n = experts[0].shape[0] if experts else 0
    in_experts = sum(sizes[output.name] for output in experts)
    total = sum(sizes.values())
    return total, total - in_experts, in_experts // n if n else 0, n
