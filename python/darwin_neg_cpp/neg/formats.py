"""The NEG head as data: names and layout in GGUF and safetensors, reading, checking.

Layout and meaning: docs/format.md. This module needs numpy and gguf only.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType

from ..errors import ModelFileError, NegHeadError
from ..files.input_file import open_input, read_exactly, shown, shown_path
from ..files.safetensors_header import StoredTensor
from ..files.safetensors_header import read_header as read_stored
from ..gguf_file.header import Header, read_header

VERSION = 1
DEFAULT_TOP_K = 20
SIDE_CAR_ARCH = "neg"
MAX_REDUCED = 65536
MAX_WEIGHTS = 1 << 28  # 1 GiB in F32; the released head has 4 million
HALF_OR_FULL = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
MAX_SAFETENSORS_HEADER = 1 << 20  # six tensors need a few hundred bytes

DOWN_W, DOWN_B, OUT_W, OUT_B = "neg.proj_down.w", "neg.proj_down.b", "neg.proj_out.w", "neg.proj_out.b"
TENSORS = (DOWN_W, DOWN_B, OUT_W, OUT_B)
REATTACH = "attach the head again with `darwin-neg neg attach`"

# Names in the released neg_modules.safetensors
RELEASED = {
    "head.proj_down.weight": DOWN_W,
    "head.proj_down.bias": DOWN_B,
    "head.proj_out.weight": OUT_W,
    "head.proj_out.bias": OUT_B,
}
RELEASED_THRESHOLD = "gate.threshold"
RELEASED_TEMP_SCALE = "gate.temp_scale"
RELEASED_NAMES = {*RELEASED, RELEASED_THRESHOLD, RELEASED_TEMP_SCALE}

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NegHead:
    """A NEG head and its gate.

    down_w: [reduced, hidden], down_b: [reduced], out_w: [reduced], out_b: [1], all float32, finite.
    threshold: nats, >= 0 or inf. top_k >= 1. temp_scale > 0. source: where it came from, with its SHA-256.
    base_arch, base_norm_sha256: the backbone that a side-car belongs to, "" when it does not say.
    """

    down_w: F32
    down_b: F32
    out_w: F32
    out_b: F32
    threshold: float
    top_k: int = DEFAULT_TOP_K
    temp_scale: float = 1.0
    temp_enabled: bool = False
    source: str = ""
    base_arch: str = ""
    base_norm_sha256: str = ""

    @property
    def n_embd(self) -> int:
        return int(self.down_w.shape[1])

    @property
    def n_reduced(self) -> int:
        return int(self.down_w.shape[0])

    def tensors(self) -> dict[str, F32]:
        """By GGUF name, in file order."""
        return {DOWN_W: self.down_w, DOWN_B: self.down_b, OUT_W: self.out_w, OUT_B: self.out_b}

    def keys(self) -> list[tuple[str, GGUFValueType, Any]]:
        """The neg.* keys of the one-file form."""
        return [
            ("neg.version", GGUFValueType.UINT32, VERSION),
            ("neg.threshold", GGUFValueType.FLOAT32, self.threshold),
            ("neg.top_k", GGUFValueType.UINT32, self.top_k),
            ("neg.temp_scale", GGUFValueType.FLOAT32, self.temp_scale),
            ("neg.temp_enabled", GGUFValueType.BOOL, self.temp_enabled),
            ("neg.source", GGUFValueType.STRING, self.source),
        ]


def check(head: NegHead, path: str) -> NegHead:
    """The head itself, or NegHeadError naming `path`, the tensor or value and the remedy."""
    reduced, hidden = head.down_w.shape if head.down_w.ndim == 2 else (0, 0)
    if not (1 <= reduced <= MAX_REDUCED and hidden >= 1):
        raise NegHeadError(
            f"{path}: {DOWN_W}: has shape {list(head.down_w.shape)}, expected [reduced, hidden]; {REATTACH}"
        )
    expected = {DOWN_W: (reduced, hidden), DOWN_B: (reduced,), OUT_W: (reduced,), OUT_B: (1,)}
    for name, tensor in head.tensors().items():
        if tensor.shape != expected[name]:
            raise NegHeadError(
                f"{path}: {name}: has shape {list(tensor.shape)}, expected {list(expected[name])}; {REATTACH}"
            )
        if not np.isfinite(tensor).all():
            raise NegHeadError(
                f"{path}: {name}: holds values that are not finite numbers; the file is damaged, get it again"
            )
    _check_gate(path, head.threshold, head.top_k, head.temp_scale)
    return head


def _check_gate(path: str, threshold: float, top_k: int, temp_scale: float) -> None:
    if math.isnan(threshold) or threshold < 0:
        raise NegHeadError(f"{path}: neg.threshold: is {threshold}, expected a number of nats >= 0; {REATTACH}")
    if not 1 <= top_k < 2**31:
        raise NegHeadError(f"{path}: neg.top_k: is {top_k}, expected at least 1; {REATTACH}")
    if not math.isfinite(temp_scale) or temp_scale <= 0:
        raise NegHeadError(f"{path}: neg.temp_scale: is {temp_scale}, expected a finite number > 0; {REATTACH}")


def sha256_file(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_head(path: str | os.PathLike[str]) -> NegHead:
    """Reads a head from neg_modules.safetensors, a side-car, or a model file that carries one."""
    name = os.fspath(path)
    with open_input(name, NegHeadError) as file:
        magic = file.read(4)
    if not magic:
        raise NegHeadError(f"{name}: the file is empty; get it again")
    return read_gguf(name) if magic == b"GGUF" else read_safetensors(name)


# --- GGUF


def has_neg(header: Header) -> bool:
    """Whether the file has any neg.* key or tensor."""
    return any(key.startswith("neg.") for key in header.keys) or any(name.startswith("neg.") for name in header.tensors)


def read_gguf(path: str) -> NegHead:
    """Reads the neg.* part of a side-car or a one-file model; NegHeadError when it is not whole."""
    try:
        header = read_header(path)
    except ModelFileError as error:
        raise NegHeadError(str(error)) from None
    return head_of(header)


@dataclass(frozen=True)
class NegSection:
    """What the header of a GGUF file tells about its head; its weights are not read. Fields as in NegHead."""

    n_embd: int
    n_reduced: int
    threshold: float
    top_k: int
    temp_scale: float
    temp_enabled: bool
    source: str


def section_of(header: Header) -> NegSection:
    """The head as the header tells it, checked but for the values of its weights; NegHeadError when it is not whole."""
    path = header.path
    if not has_neg(header):
        raise NegHeadError(
            f"{path}: holds no NEG head; give neg_modules.safetensors, a side-car, or a model with a head"
        )
    version = _key(header, "neg.version", GGUFValueType.UINT32)
    if version != VERSION:
        raise NegHeadError(f"{path}: neg.version: is {version}, this version reads {VERSION}; update darwin-neg-cpp")
    if unknown := sorted(name for name in header.tensors if name.startswith("neg.") and name not in TENSORS):
        raise NegHeadError(f"{path}: {shown(unknown[0])}: is no tensor of a NEG head; {REATTACH}")
    n_embd, n_reduced = _sizes(header)
    section = NegSection(
        n_embd=n_embd,
        n_reduced=n_reduced,
        threshold=_key(header, "neg.threshold", GGUFValueType.FLOAT32),
        top_k=_key(header, "neg.top_k", GGUFValueType.UINT32),
        temp_scale=_key(header, "neg.temp_scale", GGUFValueType.FLOAT32),
        temp_enabled=_key(header, "neg.temp_enabled", GGUFValueType.BOOL),
        source=_text(header, "neg.source"),
    )
    _check_gate(path, section.threshold, section.top_k, section.temp_scale)
    return section


def _sizes(header: Header) -> tuple[int, int]:
    """(hidden, reduced) of the four tensors, which must all be there with the right type and shape."""
    for name in TENSORS:
        info = header.tensors.get(name)
        if info is None:
            raise NegHeadError(f"{header.path}: {name}: the tensor is missing; {REATTACH}")
        # the runtime takes the large one in half precision too
        if info.type not in (HALF_OR_FULL if name == DOWN_W else HALF_OR_FULL[:1]):
            raise NegHeadError(f"{header.path}: {name}: has type {info.type.name}, expected F32; {REATTACH}")
    hidden = _hidden_size(header)
    shape = header.tensors[DOWN_W].shape
    fits = len(shape) == 2 and shape[1] <= MAX_REDUCED and shape[0] * shape[1] <= MAX_WEIGHTS
    if not fits or (hidden is not None and shape[0] != hidden):
        raise NegHeadError(
            f"{header.path}: {DOWN_W}: has shape {list(shape)}, expected [{hidden or 'hidden'}, reduced]; {REATTACH}"
        )
    for name, extent in ((DOWN_B, shape[1]), (OUT_W, shape[1]), (OUT_B, 1)):
        found = header.tensors[name].shape
        if found[0] != extent or math.prod(found) != extent:  # [n] and [n, 1] are the same to ggml
            raise NegHeadError(f"{header.path}: {name}: has shape {list(found)}, expected [{extent}]; {REATTACH}")
    return shape[0], shape[1]


def _hidden_size(header: Header) -> int | None:
    """What the file itself says the hidden size is, None when it does not."""
    arch = header.value("general.architecture")
    size = header.value("neg.n_embd" if arch == SIDE_CAR_ARCH else f"{arch}.embedding_length")
    return size if isinstance(size, int) else None


def head_of(header: Header) -> NegHead:
    section = section_of(header)
    tensors = {name: _gguf_tensor(header, name) for name in TENSORS}
    head = NegHead(
        down_w=tensors[DOWN_W],
        down_b=tensors[DOWN_B].reshape(-1),
        out_w=tensors[OUT_W].reshape(-1),
        out_b=tensors[OUT_B].reshape(-1),
        threshold=section.threshold,
        top_k=section.top_k,
        temp_scale=section.temp_scale,
        temp_enabled=section.temp_enabled,
        source=section.source,
        base_arch=_text(header, "neg.base_arch"),
        base_norm_sha256=_text(header, "neg.base_norm_sha256"),
    )
    return check(head, header.path)


def _key(header: Header, key: str, kind: GGUFValueType) -> Any:
    entry = header.keys.get(key)
    if entry is None:
        raise NegHeadError(f"{header.path}: {key}: the key is missing; {REATTACH}")
    if entry.type != kind:
        raise NegHeadError(f"{header.path}: {key}: has type {entry.type.name}, expected {kind.name}; {REATTACH}")
    return header.value(key)


def _text(header: Header, key: str) -> str:
    value = header.value(key, "")
    return value if isinstance(value, str) else ""


def _gguf_tensor(header: Header, name: str) -> F32:
    info = header.tensors[name]
    with open(header.path, "rb") as file:
        file.seek(header.data_start + info.offset)
        data = file.read(info.size)
    if len(data) != info.size:
        raise NegHeadError(f"{header.path}: {name}: the file became shorter while it was read; try again")
    return _to_f32(data, info.type.name).reshape(tuple(reversed(info.shape)))


# --- safetensors


def read_safetensors(path: str) -> NegHead:
    """Reads the released layout; any other content is refused, so that nothing is dropped in silence."""
    stored = read_stored(
        path,
        NegHeadError,
        max_header=MAX_SAFETENSORS_HEADER,
        remedy="it is not a GGUF file, and a damaged safetensors file or none; get it again",
    )
    # before anything is read: a shard of a model may have gigabytes
    if unknown := sorted(stored.keys() - RELEASED_NAMES):
        raise NegHeadError(
            f"{shown_path(path)}: {shown(unknown[0])}: unknown tensor; give neg_modules.safetensors, which holds the head alone"
        )
    return head_of_stored(stored, path, f"{os.path.basename(path)} sha256:{sha256_file(path)}")


def head_of_stored(stored: Mapping[str, StoredTensor], path: str, source: str) -> NegHead:
    """A head from tensors of safetensors files, by their released names; `path` stands in messages."""
    path = shown_path(path)
    for name in (RELEASED_THRESHOLD, *RELEASED):
        if name not in stored:
            raise NegHeadError(f"{path}: {name}: the tensor is missing; get the released file again")
    data = {name: _read_f32(tensor) for name, tensor in stored.items() if name in RELEASED_NAMES}
    temp_scale = _scalar(path, data, RELEASED_TEMP_SCALE) if RELEASED_TEMP_SCALE in data else 1.0
    threshold = _scalar(path, data, RELEASED_THRESHOLD)
    tensors = {name: data[released] for released, name in RELEASED.items()}
    down_w, out_w = tensors[DOWN_W], tensors[OUT_W]
    if down_w.ndim != 2:
        raise NegHeadError(f"{path}: head.proj_down.weight: has shape {list(down_w.shape)}, expected [reduced, hidden]")
    if out_w.shape != (1, down_w.shape[0]):
        raise NegHeadError(
            f"{path}: head.proj_out.weight: has shape {list(out_w.shape)}, expected [1, {down_w.shape[0]}]"
        )
    head = NegHead(
        down_w,
        tensors[DOWN_B],
        out_w.reshape(-1),
        tensors[OUT_B].reshape(-1),
        threshold,
        temp_scale=temp_scale,
        source=source,
    )
    return check(head, path)


def _scalar(path: str, data: dict[str, F32], name: str) -> float:
    if data[name].size != 1:
        raise NegHeadError(f"{path}: {name}: has shape {list(data[name].shape)}, expected one number")
    return float(data[name].reshape(-1)[0])


def _read_f32(tensor: StoredTensor) -> F32:
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise NegHeadError(
            f"{shown_path(tensor.path)}: {tensor.name}: has type {tensor.dtype}, expected F32, F16 or BF16"
        )
    if math.prod(tensor.shape) > MAX_WEIGHTS:
        raise NegHeadError(
            f"{shown_path(tensor.path)}: {tensor.name}: has the impossible shape {list(tensor.shape)}; get the file again"
        )
    with open_input(tensor.path, NegHeadError) as file:
        data = read_exactly(file, tensor.size, tensor.offset, NegHeadError, tensor.path)
    return _to_f32(data, tensor.dtype).reshape(tensor.shape)


def _to_f32(data: bytes | bytearray, dtype: str) -> F32:
    if dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if dtype == "F16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


# --- a head without training


def random_head(n_embd: int, seed: int, *, n_reduced: int | None = None, threshold: float = 1.0) -> NegHead:
    """A seeded random head: its predictions mean nothing. For trying the machinery on a model that has no trained head."""
    rng = np.random.default_rng(seed)
    reduced = n_reduced or max(1, n_embd // 4)

    def normal(*shape: int, scale: float) -> F32:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    head = NegHead(
        down_w=normal(reduced, n_embd, scale=n_embd**-0.5),
        down_b=normal(reduced, scale=0.1),
        out_w=normal(reduced, scale=2.0 * reduced**-0.5),
        out_b=np.zeros(1, np.float32),
        threshold=float(np.float32(threshold)),
        source=f"RANDOM head, seed {seed}: not trained, its predictions mean nothing",
    )
    return check(head, "random head")


def with_backbone(head: NegHead, arch: str, norm_sha256: str) -> NegHead:
    """The head with the backbone it belongs to, as a side-car says it."""
    return replace(head, base_arch=arch, base_norm_sha256=norm_sha256)
