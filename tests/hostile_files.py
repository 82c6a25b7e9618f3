"""A table of bad files, one row a kind: to add a kind, add a row.

`make(folder, model)` gets a good model without a head, writes one bad file and returns its path. `kind` is what it
writes:

- "model": a damaged model that carries a head. Nothing may read it, attach to it, or load it, as a model or as a head;
- "runtime": a model whose header is sound, but holds a value on which llama.cpp would end the process. Loading it must
  fail;
- "head": a model that carries a damaged head. Inspecting it, loading it, and using its head for another model must
  fail;
- "side-car": a head for `model`. Attaching it, and loading it beside the model, must fail, and so must inspecting it,
  unless `only_with_model` says that it is wrong for this model alone. `a_model`: the file is a good model, but holds no
  head;
- "safetensors": a head for `model`. Attaching and inspecting it must fail, and so must loading it (which takes GGUF
  alone).

`words` stand in the error, which is one line that names the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from handmade import (
    ARR,
    F32,
    I32,
    REDUCED,
    STR,
    U8,
    U32,
    Keys,
    Tensors,
    good_side_car,
    head_parts,
    hidden_of,
    released_entries,
    with_head,
    write_gguf,
    write_safetensors,
)

Make = Callable[[Path, Path], Path]


@dataclass(frozen=True)
class Hostile:
    name: str
    kind: Literal["model", "runtime", "head", "side-car", "safetensors"]
    make: Make
    words: tuple[str, ...] = ()
    only_with_model: bool = False
    a_model: bool = False


# --- ways to spoil a file


def _bytes(change: Callable[[bytes], bytes]) -> Make:
    """The good model with a head, its bytes changed."""

    def make(folder: Path, model: Path) -> Path:
        path = with_head(folder / "bad.gguf", model)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _side_car_bytes(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path, model: Path) -> Path:
        path = good_side_car(folder / "bad-side-car.gguf", model)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _put(at: int, value: int) -> Make:
    """Overwrites a 64-bit number: at 8 the number of tensors, at 16 that of keys, at 24 the length of the first key."""
    return _bytes(lambda good: good[:at] + struct.pack("<Q", value) + good[at + 8 :])


def _cut(twentieths: float) -> Callable[[bytes], bytes]:
    return lambda good: good[: int(twentieths * len(good) / 20)]


def _raw(n_tensors: int, n_keys: int, body: bytes = b"", version: int = 3, rest: int = 64) -> Make:
    return _bytes(lambda _good: b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + body + bytes(rest))


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _kv(key: bytes, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _info(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCH = _kv(b"general.architecture", STR, _text(b"llama"))


def _tensor(*infos: bytes) -> Make:
    return _raw(len(infos), 1, ARCH + b"".join(infos))


def _missing(folder: Path, _model: Path) -> Path:
    return folder / "missing.gguf"


def _folder(folder: Path, _model: Path) -> Path:
    (folder / "folder.gguf").mkdir()
    return folder / "folder.gguf"


def _head(
    tensors: Callable[[Tensors], object] = lambda t: None, keys: Callable[[Keys], object] = lambda k: None
) -> Make:
    """The good model with a head that the two functions spoiled."""

    def make(folder: Path, model: Path) -> Path:
        t, k = head_parts(hidden_of(model))
        tensors(t)
        keys(k)
        return write_gguf(folder / "bad-head.gguf", "llama", k, t, gguf.GGUFReader(model))

    return make


def _side_car(
    tensors: Callable[[Tensors], object] = lambda t: None, keys: Callable[[Keys], object] = lambda k: None
) -> Make:
    def make(folder: Path, model: Path) -> Path:
        t, k = head_parts(hidden_of(model))
        k["neg.n_embd"] = (U32, hidden_of(model))
        tensors(t)
        keys(k)
        return write_gguf(folder / "bad-side-car.gguf", "neg", k, t)

    return make


def _says(arch: str = "llama", **keys: tuple[gguf.GGUFValueType, Any]) -> Make:
    """The good model with other values under <arch>.<key>; two underscores stand for a dot."""

    def make(folder: Path, model: Path) -> Path:
        named = {f"{arch}.{key.replace('__', '.')}": value for key, value in keys.items()}
        return write_gguf(folder / "bad.gguf", arch, named, {}, gguf.GGUFReader(model))

    return make


def _qwen35(**keys: tuple[gguf.GGUFValueType, Any]) -> Make:
    """The good model with two layers of this architecture, and with these values under its keys."""
    return _says("qwen35", block_count=(U32, 2), **keys)


def _a_token_twice(folder: Path, model: Path) -> Path:
    reader = gguf.GGUFReader(model)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    return write_gguf(
        folder / "bad.gguf", "llama", {"tokenizer.ggml.tokens": (ARR, [*tokens[:-1], tokens[0]])}, {}, reader
    )


def not_aligned(folder: Path, model: Path) -> Path:
    """Data at a multiple of 8 that is none of 32."""
    reader = gguf.GGUFReader(model)
    path = folder / "bad.gguf"
    for padding in range(8, 40, 8):
        write_gguf(path, "llama", {"general.alignment": (U32, 8), "x": (STR, "x" * padding)}, {}, reader)
        if gguf.GGUFReader(path).tensors[0].data_offset % 32:
            return path
    raise AssertionError


def _modules(
    entries: Callable[[dict[str, np.ndarray]], object] = lambda e: None,
    header: Callable[[dict[str, Any]], Any] | None = None,
) -> Make:
    def make(folder: Path, model: Path) -> Path:
        e = released_entries(hidden_of(model))
        entries(e)
        return write_safetensors(folder / "bad.safetensors", e, header)

    return make


def _modules_bytes(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path, model: Path) -> Path:
        path = write_safetensors(folder / "bad.safetensors", released_entries(hidden_of(model)))
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _column(array: np.ndarray) -> np.ndarray:
    """A row as a column; a single number as two, for want of another shape."""
    return array.T.copy() if array.ndim == 2 else np.zeros(2, np.float32) if array.size == 1 else array.reshape(-1, 1)


def _q4_k(array: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    # any bytes will do: it must be refused by its type
    rows = array.shape[0] if array.ndim == 2 else 1
    columns = max(array.shape[-1], 256)
    raw = np.zeros((rows, columns // 256 * 144), np.uint8)
    return (raw if array.ndim == 2 else raw[0]), gguf.GGMLQuantizationType.Q4_K


def _with_nan(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out.reshape(-1)[-1] = np.nan
    return out


def _spoil(name: str, how: Callable[[np.ndarray], Any]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: how(tensors[name])})


def _set(name: str, kind: gguf.GGUFValueType, value: Any) -> Callable[[Keys], object]:
    return lambda keys: keys.update({name: (kind, value)})


def _drop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda parts: parts.pop(name)


def _entry(name: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    """A header of safetensors with fields of one entry replaced."""
    return lambda header: {**header, name: {**header[name], **fields}}


# --- the table

_NAN, _INF = float("nan"), float("inf")
_TENSORS = ("neg.proj_down.w", "neg.proj_down.b", "neg.proj_out.w", "neg.proj_out.b")
_MODULES = ("head.proj_down.weight", "head.proj_down.bias", "head.proj_out.weight", "head.proj_out.bias")
_VALUES = (*_MODULES, "gate.threshold", "gate.temp_scale")

SPOILED: dict[str, Callable[[np.ndarray], Any]] = {
    "transposed": _column,
    "too long": lambda a: np.concatenate([a, a]),
    "too short": lambda a: a[..., : a.shape[-1] // 2].copy() if a.size > 1 else np.zeros((2, 2), np.float32),
    "I32": lambda a: np.zeros(a.shape, np.int32),
    "I8": lambda a: np.zeros(a.shape, np.int8),
    "Q4_K": _q4_k,
    "NaN": _with_nan,
    "infinite": lambda a: np.full_like(a, np.inf),
}
_BAD_TENSORS = {
    **{f"{t} missing": (t, _drop(t)) for t in _TENSORS},
    **{f"{t} {how}": ("neg.proj_", _spoil(t, f)) for t in _TENSORS for how, f in SPOILED.items()},
    # the large one may be in half precision
    **{f"{t} F16": (t, _spoil(t, lambda a: a.astype(np.float16))) for t in _TENSORS[1:]},
    "keys without tensors": ("neg.proj_", lambda t: t.clear()),
}
_BAD_KEYS = {
    **{
        f"{key} missing": (key, _drop(key))
        for key in ("neg.version", "neg.threshold", "neg.top_k", "neg.temp_scale", "neg.temp_enabled")
    },
    "version of the future": ("neg.version", _set("neg.version", U32, 2)),
    "threshold NaN": ("neg.threshold", _set("neg.threshold", F32, _NAN)),
    "threshold negative": ("neg.threshold", _set("neg.threshold", F32, -0.5)),
    "threshold as text": ("neg.threshold", _set("neg.threshold", STR, "1.17")),
    "top_k 0": ("neg.top_k", _set("neg.top_k", U32, 0)),
    "top_k too large": ("neg.top_k", _set("neg.top_k", U32, 0xFFFFFFFF)),
    "top_k as a fraction": ("neg.top_k", _set("neg.top_k", F32, 20.0)),
    "temp_scale 0": ("neg.temp_scale", _set("neg.temp_scale", F32, 0.0)),
    "temp_scale negative": ("neg.temp_scale", _set("neg.temp_scale", F32, -1.0)),
    "temp_scale NaN": ("neg.temp_scale", _set("neg.temp_scale", F32, _NAN)),
    "temp_scale infinite": ("neg.temp_scale", _set("neg.temp_scale", F32, _INF)),
    "temp_enabled as number": ("neg.temp_enabled", _set("neg.temp_enabled", U32, 1)),
}

MODELS = [
    Hostile("missing", "model", _missing, ("no such file",)),
    Hostile("folder", "model", _folder, ("folder",)),
    Hostile("empty", "model", _bytes(lambda _good: b""), ("empty",)),
    Hostile("three bytes", "model", _bytes(lambda good: good[:3])),
    Hostile("not GGUF", "model", _bytes(lambda _good: b"PK\x03\x04 something else entirely" * 9), ("GGUF",)),
    Hostile("zeros", "model", _bytes(lambda good: bytes(len(good))), ("GGUF",)),
    *(Hostile(f"truncated at {5 * i + 2} %", "model", _bytes(_cut(i + 0.5))) for i in range(20)),
    Hostile("truncated by one byte of the last tensor", "model", _bytes(lambda good: good.rstrip(b"\0")[:-1])),
    Hostile("version 1", "model", _raw(0, 0, version=1), ("version 1",)),
    Hostile("version 99", "model", _raw(0, 0, version=99), ("version 99",)),
    Hostile(
        "big-endian", "model", _bytes(lambda _good: b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + bytes(99)), ("big-endian",)
    ),
    Hostile("2^62 tensors", "model", _put(8, 1 << 62), ("tensors",)),
    Hostile("2^63 tensors", "model", _put(8, 1 << 63), ("tensors",)),
    Hostile("2^62 keys", "model", _put(16, 1 << 62), ("keys",)),
    Hostile("2^63 keys", "model", _put(16, 1 << 63), ("keys",)),
    Hostile("key of 2^62 bytes", "model", _put(24, 1 << 62)),
    Hostile("text of 2^63 bytes", "model", _raw(0, 1, _kv(b"a", STR, struct.pack("<Q", 1 << 63)))),
    Hostile("array of 2^61 numbers", "model", _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQ", U32, 1 << 61)))),
    Hostile("array of 2^61 texts", "model", _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQ", STR, 1 << 61))), ("strings",)),
    Hostile("text in an array too long", "model", _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQQ", STR, 1, 1 << 50)))),
    Hostile(
        "last array of texts ends early",
        "model",
        _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQ", STR, 2) + _text(b"x" * 56)), rest=0),
        ("runs past the end",),
    ),
    Hostile(
        "array of arrays",
        "model",
        _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQIQ", ARR, 1, U8, 1))),
        ("array of arrays",),
    ),
    Hostile("value of type 99", "model", _raw(0, 1, _kv(b"a", 99, b"")), ("99",)),
    Hostile("key twice", "model", _raw(0, 2, ARCH + ARCH), ("general.architecture", "twice")),
    Hostile("key not UTF-8", "model", _raw(0, 1, _kv(b"\xff\xfe", U8, b"\x01"))),
    Hostile("key with terminal codes", "model", _raw(0, 1, _kv(b"\x1b[2J\n\x07", 99, b""))),
    Hostile("tensor twice", "model", _tensor(_info(b"t", (4,)), _info(b"t", (4,))), ("twice",)),
    Hostile("tensor of type 999", "model", _tensor(_info(b"t", (4,), kind=999)), ("999",)),
    Hostile("tensor of a removed type", "model", _tensor(_info(b"t", (32,), kind=4))),
    Hostile("tensor of 5 dimensions", "model", _tensor(_info(b"t", (1, 1, 1, 1, 1))), ("5 dimensions",)),
    Hostile("tensor of 2^32 - 1 dimensions", "model", _tensor(_text(b"t") + b"\xff" * 4)),
    Hostile("tensor larger than memory", "model", _tensor(_info(b"t", (1 << 31, 1 << 31)))),
    Hostile("tensor with a negative extent", "model", _tensor(_info(b"t", ((1 << 64) - 4, 2)))),
    Hostile("tensor of 64-bit overflow", "model", _tensor(_info(b"t", (1 << 32, 1 << 32, 4)))),
    Hostile("half a quantized block", "model", _tensor(_info(b"t", (16,), kind=2)), ("block",)),
    Hostile("tensor not aligned", "model", _tensor(_info(b"t", (1,), offset=4)), ("aligned",)),
    Hostile("tensor past the end", "model", _tensor(_info(b"t", (4,), offset=1 << 40)), ("past the end",)),
    Hostile("tensors overlap", "model", _tensor(_info(b"t", (8,)), _info(b"u", (8,))), ("overlap",)),
    Hostile(
        "alignment 0", "model", _raw(0, 1, _kv(b"general.alignment", U32, struct.pack("<I", 0))), ("general.alignment",)
    ),
    Hostile(
        "alignment 3", "model", _raw(0, 1, _kv(b"general.alignment", U32, struct.pack("<I", 3))), ("general.alignment",)
    ),
    Hostile(
        "alignment as text", "model", _raw(0, 1, _kv(b"general.alignment", STR, _text(b"32"))), ("general.alignment",)
    ),
]

RUNTIME = [
    Hostile("no layers", "runtime", _says(block_count=(U32, 0)), ("llama.block_count",)),
    Hostile("2^32 - 1 layers", "runtime", _says(block_count=(U32, 0xFFFFFFFF)), ("llama.block_count",)),
    Hostile(
        "more prediction layers than layers",
        "runtime",
        _says(nextn_predict_layers=(U32, 3)),
        ("llama.nextn_predict_layers",),
    ),
    Hostile("experts of which none is used", "runtime", _says(expert_count=(U32, 8)), ("llama.expert_count",)),
    Hostile(
        "experts used of which there are none", "runtime", _says(expert_used_count=(U32, 2)), ("llama.expert_count",)
    ),
    Hostile(
        "more experts used than there are",
        "runtime",
        _says(expert_count=(U32, 2), expert_used_count=(ARR, [1, 3])),
        ("llama.expert_count",),
    ),
    Hostile(
        "2^31 experts",
        "runtime",
        _says(expert_count=(U32, 1 << 31), expert_used_count=(U32, 2)),
        ("llama.expert_count",),
    ),
    Hostile(
        "experts in uneven groups",
        "runtime",
        _says(expert_count=(U32, 8), expert_used_count=(U32, 2), expert_group_count=(U32, 3)),
        ("llama.expert_count",),
    ),
    Hostile("groups without experts", "runtime", _says(expert_group_count=(U32, 1)), ("llama.expert_count",)),
    Hostile(
        "epsilon NaN",
        "runtime",
        _says(attention__layer_norm_rms_epsilon=(F32, _NAN)),
        ("llama.attention.layer_norm_rms_epsilon",),
    ),
    Hostile(
        "epsilon negative",
        "runtime",
        _says(attention__layer_norm_rms_epsilon=(F32, -1.0)),
        ("llama.attention.layer_norm_rms_epsilon",),
    ),
    Hostile(
        "unknown rope scaling", "runtime", _says(rope__scaling__type=(STR, "x\x1b[2J")), ("llama.rope.scaling.type",)
    ),
    Hostile(
        "half a pair rotated", "runtime", _qwen35(rope__dimension_count=(U32, 3)), ("qwen35.rope.dimension_count",)
    ),
    Hostile(
        "no dimension rotated", "runtime", _qwen35(rope__dimension_count=(U32, 0)), ("qwen35.rope.dimension_count",)
    ),
    Hostile(
        "more than the head rotated",
        "runtime",
        _qwen35(attention__key_length=(U32, 64), rope__dimension_count=(U32, 66)),
        ("qwen35.rope.dimension_count",),
    ),
    Hostile(
        "value heads of another size",
        "runtime",
        _qwen35(ssm__inner_size=(U32, 100), ssm__state_size=(U32, 64), ssm__time_step_rank=(U32, 4)),
        ("qwen35.ssm.inner_size",),
    ),
    Hostile(
        "value heads that no group divides",
        "runtime",
        _qwen35(ssm__group_count=(U32, 3), ssm__time_step_rank=(U32, 4)),
        ("qwen35.ssm.group_count",),
    ),
    Hostile(
        "rotation of nothing",
        "runtime",
        _qwen35(rope__dimension_sections=(ARR, [0, 0, 0, 0])),
        ("qwen35.rope.dimension_sections",),
    ),
    Hostile(
        "rotation of less than nothing",
        "runtime",
        _qwen35(rope__dimension_sections=(I32, -1)),
        ("qwen35.rope.dimension_sections",),
    ),
    Hostile("data aligned to 8 bytes", "runtime", not_aligned, ("aligned", "use_mmap")),
    Hostile("a token twice", "runtime", _a_token_twice, ("tokenizer.ggml.tokens", "twice")),
    Hostile("a file of an unknown architecture", "runtime", _says("llama\x1b[2J\n", block_count=(U32, 1))),
    Hostile(
        "an architecture that is not UTF-8",
        "runtime",
        _bytes(lambda good: good.replace(ARCH, _kv(b"general.architecture", STR, _text(b"llam\xff")), 1)),
        ("general.architecture", "UTF-8"),
    ),
]

HEADS = [
    *(Hostile(what, "head", _head(tensors=change), (words,)) for what, (words, change) in _BAD_TENSORS.items()),
    *(Hostile(what, "head", _head(keys=change), (words,)) for what, (words, change) in _BAD_KEYS.items()),
    Hostile("tensors without keys", "head", _head(keys=lambda k: k.clear()), ("neg.",)),
]

SIDE_CARS = [
    *(
        Hostile(f"side-car, {what}", "side-car", _side_car(tensors=change), (words,))
        for what, (words, change) in _BAD_TENSORS.items()
    ),
    *(
        Hostile(f"side-car, {what}", "side-car", _side_car(keys=change), (words,))
        for what, (words, change) in _BAD_KEYS.items()
    ),
    *(Hostile(f"side-car, truncated at {5 * i + 2} %", "side-car", _side_car_bytes(_cut(i + 0.5))) for i in range(20)),
    Hostile(
        "side-car, a model without head",
        "side-car",
        lambda folder, model: write_gguf(folder / "bad.gguf", "llama", {}, {}, gguf.GGUFReader(model)),
        a_model=True,
    ),
    Hostile(
        "side-car, other architecture",
        "side-car",
        _side_car(keys=_set("neg.base_arch", STR, "qwen35")),
        ("neg.base_arch",),
        only_with_model=True,
    ),
    Hostile(
        "side-car, other output norm",
        "side-car",
        _side_car(keys=_set("neg.base_norm_sha256", STR, "0" * 64)),
        ("neg.base_norm_sha256",),
        only_with_model=True,
    ),
    Hostile(
        "side-car, other hidden size",
        "side-car",
        _side_car(
            _spoil("neg.proj_down.w", lambda a: np.zeros((REDUCED, 32), np.float32)), _set("neg.n_embd", U32, 32)
        ),
        only_with_model=True,
    ),
]

SAFETENSORS = [
    *(Hostile(f"{m} missing", "safetensors", _modules(_drop(m)), (m,)) for m in (*_MODULES, "gate.threshold")),
    *(Hostile(f"{m} NaN", "safetensors", _modules(_spoil(m, _with_nan))) for m in _VALUES),
    *(Hostile(f"{m} transposed", "safetensors", _modules(_spoil(m, _column))) for m in _MODULES),
    *(
        Hostile(f"{m} of type {dtype}", "safetensors", _modules(_spoil(m, lambda a, d=dtype: a.astype(d))), (m,))
        for m in _VALUES
        for dtype in ("int32", "float64")
    ),
    Hostile("threshold negative (safetensors)", "safetensors", _modules(_spoil("gate.threshold", np.negative))),
    Hostile("temp_scale 0 (safetensors)", "safetensors", _modules(_spoil("gate.temp_scale", np.zeros_like))),
    Hostile("two thresholds", "safetensors", _modules(_spoil("gate.threshold", lambda a: np.ones(2, np.float32)))),
    Hostile("unknown tensor", "safetensors", _modules(lambda e: e.update(extra=np.ones(3, np.float32))), ("extra",)),
    Hostile("no tensors", "safetensors", _modules(lambda e: e.clear())),
    *(
        Hostile(f"safetensors, truncated at {5 * i + 2} %", "safetensors", _modules_bytes(_cut(i + 0.5)))
        for i in range(20)
    ),
    Hostile("safetensors, empty", "safetensors", _modules_bytes(lambda _b: b""), ("empty",)),
    Hostile("safetensors, one byte too many", "safetensors", _modules_bytes(lambda b: b + b"\0")),
    Hostile("header of 2^63 bytes", "safetensors", _modules_bytes(lambda b: struct.pack("<Q", 1 << 63) + b[8:])),
    Hostile("header of no bytes", "safetensors", _modules_bytes(lambda b: bytes(8) + b[8:])),
    Hostile("header no JSON", "safetensors", _modules_bytes(lambda b: b[:8] + b"{" * 8 + b[16:])),
    Hostile("header not UTF-8", "safetensors", _modules_bytes(lambda b: b[:9] + b"\xff" + b[10:])),
    Hostile("header a list", "safetensors", _modules(header=lambda h: [h])),
    Hostile(
        "header nested deeply", "safetensors", _modules_bytes(lambda _b: struct.pack("<Q", 100_000) + b'{"a":' * 20_000)
    ),
    Hostile(
        "header with a number of 9,000 digits",
        "safetensors",
        _modules_bytes(lambda _b: struct.pack("<Q", 9_005) + b'{"a":' + b"9" * 8_999 + b"}"),
    ),
    Hostile("entry a number", "safetensors", _modules(header=lambda h: {**h, _MODULES[0]: 7})),
    Hostile(
        "entry without offsets",
        "safetensors",
        _modules(header=lambda h: {**h, _MODULES[0]: {"dtype": "F32", "shape": [1]}}),
    ),
    Hostile("type not known", "safetensors", _modules(header=_entry(_MODULES[0], dtype="F31"))),
    Hostile("type a list", "safetensors", _modules(header=_entry(_MODULES[0], dtype=["F32"]))),
    Hostile("shape negative", "safetensors", _modules(header=_entry(_MODULES[0], shape=[-256, -256]))),
    Hostile("shape a float", "safetensors", _modules(header=_entry(_MODULES[0], shape=[256.0, 256]))),
    Hostile("shape of 2^60", "safetensors", _modules(header=_entry(_MODULES[0], shape=[1 << 30, 1 << 30]))),
    Hostile("offsets negative", "safetensors", _modules(header=_entry(_MODULES[0], data_offsets=[-262144, 0]))),
    Hostile("offsets backwards", "safetensors", _modules(header=_entry(_MODULES[0], data_offsets=[262144, 0]))),
    Hostile(
        "offsets past the end",
        "safetensors",
        _modules(header=_entry(_MODULES[0], data_offsets=[1 << 40, (1 << 40) + 262144])),
    ),
    Hostile("offsets overlap", "safetensors", _modules(header=_entry(_MODULES[1], data_offsets=[0, 1024]))),
]

HOSTILE = [*MODELS, *RUNTIME, *HEADS, *SIDE_CARS, *SAFETENSORS]
