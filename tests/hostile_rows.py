"""Bad files in a table, one row a kind: made by hand where hostile_gguf.py damages a good file.

A row's `make(folder, good_model)` writes one bad file and returns its path. `kind` says how the file is used:

- "model": as the model; reading, attaching to, and loading it must fail;
- "head": as a model that carries a head; inspecting and loading it must fail;
- "side-car": as the head for `good_model`; attaching and loading it beside the model must fail, and inspecting it too,
  unless `only_with_model` says that it is wrong for this model alone;
- "safetensors": as the head for `good_model`, when attaching and inspecting.

`words` stand in the error, which is one line and of class `error`. Files are written with gguf-py or by hand, never
with the code under test.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from darwin_neg_cpp.errors import DarwinNegError, ModelFileError, NegHeadError

REDUCED = 256  # a multiple of Q4_K's block, so that a quantized head is a sound GGUF file
Make = Callable[[Path, Path], Path]
Tensors = dict[str, Any]
Keys = dict[str, tuple[gguf.GGUFValueType, Any]]
U8, U32, F32, BOOL, STR, ARR = (
    gguf.GGUFValueType.UINT8,
    gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.FLOAT32,
    gguf.GGUFValueType.BOOL,
    gguf.GGUFValueType.STRING,
    gguf.GGUFValueType.ARRAY,
)


@dataclass(frozen=True)
class Hostile:
    name: str
    kind: Literal["model", "head", "side-car", "safetensors"]
    make: Make
    error: type[DarwinNegError]
    words: tuple[str, ...] = ()
    only_with_model: bool = False


# --- good parts to spoil


def head_parts(hidden: int, seed: int = 0) -> tuple[Tensors, Keys]:
    """A good head as GGUF tensors (numpy order) and keys."""
    rng = np.random.default_rng(seed)
    tensors = {
        "neg.proj_down.w": rng.standard_normal((REDUCED, hidden)).astype(np.float32) * 0.1,
        "neg.proj_down.b": rng.standard_normal(REDUCED).astype(np.float32) * 0.1,
        "neg.proj_out.w": rng.standard_normal(REDUCED).astype(np.float32) * 0.1,
        "neg.proj_out.b": np.array([0.5], np.float32),
    }
    keys: Keys = {
        "neg.version": (U32, 1),
        "neg.threshold": (F32, 1.175187349319458),
        "neg.top_k": (U32, 20),
        "neg.temp_scale": (F32, 0.5983633399009705),
        "neg.temp_enabled": (BOOL, False),
        "neg.source": (STR, "a test"),
    }
    return tensors, keys


def write_gguf(path: Path, arch: str, keys: Keys, tensors: Tensors, base: gguf.GGUFReader | None = None) -> Path:
    """Keys and tensors after those of `base`. A tensor is an array, or (uint8 array, type) for a quantized one."""
    writer = gguf.GGUFWriter(path, arch)
    for key, field in base.fields.items() if base else ():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub = field.types[-1] if field.types[0] == ARR else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for key, (kind, value) in keys.items():
        writer.add_key_value(key, value, kind)
    for tensor in base.tensors if base else ():
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, data in tensors.items():
        if isinstance(data, tuple):
            writer.add_tensor(name, data[0], raw_dtype=data[1])
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def good_side_car(path: Path, good: Path, seed: int = 0) -> Path:
    """A side-car without the optional keys that bind it to a backbone."""
    tensors, keys = head_parts(_hidden(good), seed)
    return write_gguf(path, "neg", {**keys, "neg.n_embd": (U32, _hidden(good))}, tensors)


def released_entries(hidden: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The six tensors of neg_modules.safetensors."""
    tensors, _ = head_parts(hidden, seed)
    return {
        "head.proj_down.weight": tensors["neg.proj_down.w"],
        "head.proj_down.bias": tensors["neg.proj_down.b"],
        "head.proj_out.weight": tensors["neg.proj_out.w"].reshape(1, -1),
        "head.proj_out.bias": tensors["neg.proj_out.b"],
        "gate.threshold": np.array(1.175187349319458, np.float32),
        "gate.temp_scale": np.array(0.5983633399009705, np.float32),
    }


def write_safetensors(
    path: Path, entries: dict[str, np.ndarray], change: Callable[[dict[str, Any]], Any] | None = None
) -> Path:
    """By hand, so that `change` can spoil the header (it gets the dict, and returns what to write as JSON)."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32", "int64": "I64"}
    header: dict[str, Any] = {}
    data = b""
    for name, array in entries.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(change(header) if change else header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _hidden(good: Path) -> int:
    return int(gguf.GGUFReader(good).fields["llama.embedding_length"].contents())


# --- spoiling them


def _bytes(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path, good: Path) -> Path:
        path = folder / "bad.gguf"
        path.write_bytes(change(good.read_bytes()))
        return path

    return make


def _raw(n_tensors: int, n_keys: int, body: bytes = b"", version: int = 3) -> Make:
    return _bytes(lambda _good: b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + body + bytes(64))


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _kv(key: bytes, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _info(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCH = _kv(b"general.architecture", STR, _text(b"llama"))


def _missing(folder: Path, _good: Path) -> Path:
    return folder / "missing.gguf"


def _folder(folder: Path, _good: Path) -> Path:
    (folder / "folder.gguf").mkdir()
    return folder / "folder.gguf"


def _cut(part: float) -> Make:
    return _bytes(lambda good: good[: int(part * len(good))])


def _head(
    tensors: Callable[[Tensors], object] = lambda t: None, keys: Callable[[Keys], object] = lambda k: None
) -> Make:
    """The good model with a head that the two functions spoiled."""

    def make(folder: Path, good: Path) -> Path:
        t, k = head_parts(_hidden(good))
        tensors(t)
        keys(k)
        return write_gguf(folder / "bad-head.gguf", "llama", k, t, gguf.GGUFReader(good))

    return make


def _side_car(
    tensors: Callable[[Tensors], object] = lambda t: None, keys: Callable[[Keys], object] = lambda k: None
) -> Make:
    def make(folder: Path, good: Path) -> Path:
        t, k = head_parts(_hidden(good))
        k["neg.n_embd"] = (U32, _hidden(good))
        tensors(t)
        keys(k)
        return write_gguf(folder / "bad-side-car.gguf", "neg", k, t)

    return make


def _modules(
    entries: Callable[[dict[str, np.ndarray]], object] = lambda e: None,
    header: Callable[[dict[str, Any]], Any] | None = None,
) -> Make:
    def make(folder: Path, good: Path) -> Path:
        e = released_entries(_hidden(good))
        entries(e)
        return write_safetensors(folder / "bad.safetensors", e, header)

    return make


def _modules_bytes(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path, good: Path) -> Path:
        path = write_safetensors(folder / "bad.safetensors", released_entries(_hidden(good)))
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _transposed(array: np.ndarray) -> np.ndarray:
    """The one row as a column; a square matrix gets another shape by a column more, a single number by a second one."""
    if array.ndim == 2:
        return np.concatenate([array, array[:, :32]], axis=1).T.copy()
    return np.zeros(2, np.float32) if array.size == 1 else array.reshape(-1, 1)


def _q4_k(array: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    rows = array.shape[0] if array.ndim == 2 else 1
    columns = max(array.shape[-1], 256)
    raw = np.zeros((rows, columns // 256 * 144), np.uint8)
    return (raw if array.ndim == 2 else raw[0]), gguf.GGMLQuantizationType.Q4_K


def _with_nan(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out.reshape(-1)[-1] = np.nan
    return out


SPOILED: dict[str, Callable[[np.ndarray], Any]] = {
    "transposed": _transposed,
    "I32": lambda a: np.zeros(a.shape, np.int32),
    "Q4_K": _q4_k,
    "NaN": _with_nan,
    "infinite": lambda a: np.full_like(a, np.inf),
}


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
_BAD_KEYS: dict[str, tuple[str, Callable[[Keys], object]]] = {
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
    "temp_scale 0": ("neg.temp_scale", _set("neg.temp_scale", F32, 0.0)),
    "temp_scale NaN": ("neg.temp_scale", _set("neg.temp_scale", F32, _NAN)),
    "temp_scale infinite": ("neg.temp_scale", _set("neg.temp_scale", F32, _INF)),
    "temp_enabled as number": ("neg.temp_enabled", _set("neg.temp_enabled", U32, 1)),
}

MODELS = [
    Hostile("missing", "model", _missing, ModelFileError),
    Hostile("folder", "model", _folder, ModelFileError),
    Hostile("empty", "model", _bytes(lambda _good: b""), ModelFileError),
    Hostile("not GGUF", "model", _bytes(lambda _good: b"PK\x03\x04 something else entirely" * 9), ModelFileError),
    Hostile("zeros", "model", _bytes(lambda good: bytes(len(good))), ModelFileError),
    *(Hostile(f"truncated at {5 * i + 2} %", "model", _cut(0.05 * i + 0.025), ModelFileError) for i in range(20)),
    Hostile("truncated by one byte of the last tensor", "model", _bytes(lambda good: good[:-1]), ModelFileError),
    Hostile("version 1", "model", _raw(0, 0, version=1), ModelFileError),
    Hostile("version 99", "model", _raw(0, 0, version=99), ModelFileError),
    Hostile(
        "big-endian", "model", _bytes(lambda _g: b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + bytes(99)), ModelFileError
    ),
    Hostile("2^63 tensors", "model", _raw(1 << 63, 1, ARCH), ModelFileError),
    Hostile("2^60 keys", "model", _raw(0, 1 << 60, ARCH), ModelFileError),
    Hostile("key of 2^62 bytes", "model", _raw(0, 1, struct.pack("<Q", 1 << 62)), ModelFileError),
    Hostile("text of 2^63 bytes", "model", _raw(0, 1, _kv(b"a", STR, struct.pack("<Q", 1 << 63))), ModelFileError),
    Hostile(
        "array of 2^61 numbers", "model", _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQ", U32, 1 << 61))), ModelFileError
    ),
    Hostile(
        "array of 2^61 texts", "model", _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQ", STR, 1 << 61))), ModelFileError
    ),
    Hostile(
        "text in an array too long",
        "model",
        _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQQ", STR, 1, 1 << 50))),
        ModelFileError,
    ),
    Hostile(
        "array of arrays", "model", _raw(0, 1, _kv(b"a", ARR, struct.pack("<IQIQ", ARR, 1, U8, 1))), ModelFileError
    ),
    Hostile("value of type 99", "model", _raw(0, 1, _kv(b"a", 99, b"")), ModelFileError),
    Hostile("key twice", "model", _raw(0, 2, ARCH + ARCH), ModelFileError, ("general.architecture",)),
    Hostile("key not UTF-8", "model", _raw(0, 1, _kv(b"\xff\xfe", U8, b"\x01")), ModelFileError),
    Hostile("key with terminal codes", "model", _raw(0, 1, _kv(b"\x1b[2J\n\x07", 99, b"")), ModelFileError),
    Hostile("tensor twice", "model", _raw(2, 1, ARCH + 2 * _info(b"t", (4,))), ModelFileError),
    Hostile("tensor of type 999", "model", _raw(1, 1, ARCH + _info(b"t", (4,), kind=999)), ModelFileError),
    Hostile("tensor of a removed type", "model", _raw(1, 1, ARCH + _info(b"t", (32,), kind=4)), ModelFileError),
    Hostile("tensor of 5 dimensions", "model", _raw(1, 1, ARCH + _info(b"t", (1, 1, 1, 1, 1))), ModelFileError),
    Hostile("tensor of 2^32 - 1 dimensions", "model", _raw(1, 1, ARCH + _text(b"t") + b"\xff" * 4), ModelFileError),
    Hostile("tensor larger than memory", "model", _raw(1, 1, ARCH + _info(b"t", (1 << 31, 1 << 31))), ModelFileError),
    Hostile(
        "tensor with a negative extent", "model", _raw(1, 1, ARCH + _info(b"t", ((1 << 64) - 4, 2))), ModelFileError
    ),
    Hostile(
        "tensor of 64-bit overflow", "model", _raw(1, 1, ARCH + _info(b"t", (1 << 32, 1 << 32, 4))), ModelFileError
    ),
    Hostile("half a quantized block", "model", _raw(1, 1, ARCH + _info(b"t", (16,), kind=2)), ModelFileError),
    Hostile("tensor not aligned", "model", _raw(1, 1, ARCH + _info(b"t", (1,), offset=4)), ModelFileError),
    Hostile("tensor behind the end", "model", _raw(1, 1, ARCH + _info(b"t", (4,), offset=1 << 40)), ModelFileError),
    Hostile("tensors overlap", "model", _raw(2, 1, ARCH + _info(b"t", (8,)) + _info(b"u", (8,))), ModelFileError),
    Hostile("alignment 0", "model", _raw(0, 1, _kv(b"general.alignment", U32, struct.pack("<I", 0))), ModelFileError),
    Hostile("alignment 3", "model", _raw(0, 1, _kv(b"general.alignment", U32, struct.pack("<I", 3))), ModelFileError),
    Hostile("alignment as text", "model", _raw(0, 1, _kv(b"general.alignment", STR, _text(b"32"))), ModelFileError),
]

HEADS = [
    *(Hostile(f"{t} missing", "head", _head(_drop(t)), NegHeadError, (t,)) for t in _TENSORS),
    *(
        Hostile(f"{t} {how}", "head", _head(_spoil(t, f)), NegHeadError, ("neg.proj_",))
        for t in _TENSORS
        for how, f in SPOILED.items()
    ),
    *(Hostile(what, "head", _head(keys=change), NegHeadError, (key,)) for what, (key, change) in _BAD_KEYS.items()),
    Hostile("keys without tensors", "head", _head(lambda t: t.clear()), NegHeadError, ("neg.proj_",)),
    Hostile("tensors without keys", "head", _head(keys=lambda k: k.clear()), NegHeadError, ("neg.",)),
]

SIDE_CARS = [
    *(Hostile(f"side-car, {t} missing", "side-car", _side_car(_drop(t)), NegHeadError, (t,)) for t in _TENSORS),
    *(
        Hostile(f"side-car, {t} {how}", "side-car", _side_car(_spoil(t, f)), NegHeadError, ("neg.proj_",))
        for t in _TENSORS
        for how, f in SPOILED.items()
    ),
    *(
        Hostile(f"side-car, {what}", "side-car", _side_car(keys=c), NegHeadError, (key,))
        for what, (key, c) in _BAD_KEYS.items()
    ),
    Hostile("side-car, missing", "side-car", _missing, NegHeadError),
    Hostile("side-car, empty", "side-car", _bytes(lambda _good: b""), NegHeadError),
    Hostile("side-car, a model without head", "side-car", _bytes(lambda good: good), NegHeadError),
    Hostile("side-car, truncated", "side-car", _cut(0.01), NegHeadError),
    Hostile(
        "side-car, other architecture",
        "side-car",
        _side_car(keys=_set("neg.base_arch", STR, "qwen35")),
        NegHeadError,
        ("neg.base_arch",),
        True,
    ),
    Hostile(
        "side-car, other output norm",
        "side-car",
        _side_car(keys=_set("neg.base_norm_sha256", STR, "0" * 64)),
        NegHeadError,
        ("neg.base_norm_sha256",),
        True,
    ),
    Hostile(
        "side-car, other hidden size",
        "side-car",
        _side_car(
            _spoil("neg.proj_down.w", lambda a: np.zeros((REDUCED, 32), np.float32)), _set("neg.n_embd", U32, 32)
        ),
        NegHeadError,
        (),
        True,
    ),
]

SAFETENSORS = [
    *(
        Hostile(f"{m} missing", "safetensors", _modules(_drop(m)), NegHeadError, (m,))
        for m in (*_MODULES, "gate.threshold")
    ),
    *(Hostile(f"{m} NaN", "safetensors", _modules(_spoil(m, _with_nan)), NegHeadError) for m in _MODULES),
    *(Hostile(f"{m} transposed", "safetensors", _modules(_spoil(m, _transposed)), NegHeadError) for m in _MODULES),
    *(
        Hostile(
            f"{m} of type {dtype}",
            "safetensors",
            _modules(_spoil(m, lambda a, d=dtype: a.astype(d))),
            NegHeadError,
            (m,),
        )
        for m in (*_MODULES, "gate.threshold", "gate.temp_scale")
        for dtype in ("int32", "float64")
    ),
    Hostile(
        "threshold NaN (safetensors)",
        "safetensors",
        _modules(_spoil("gate.threshold", lambda a: a * np.float32(_NAN))),
        NegHeadError,
    ),
    Hostile(
        "threshold negative (safetensors)", "safetensors", _modules(_spoil("gate.threshold", np.negative)), NegHeadError
    ),
    Hostile(
        "two thresholds",
        "safetensors",
        _modules(_spoil("gate.threshold", lambda a: np.ones(2, np.float32))),
        NegHeadError,
    ),
    Hostile(
        "unknown tensor",
        "safetensors",
        _modules(lambda e: e.update(extra=np.ones(3, np.float32))),
        NegHeadError,
        ("extra",),
    ),
    Hostile("no tensors", "safetensors", _modules(lambda e: e.clear()), NegHeadError),
    Hostile("safetensors, missing", "safetensors", lambda folder, _good: folder / "missing.safetensors", NegHeadError),
    Hostile("safetensors, empty", "safetensors", _modules_bytes(lambda b: b""), NegHeadError),
    *(
        Hostile(
            f"safetensors, truncated at {10 * i + 5} %",
            "safetensors",
            _modules_bytes(lambda b, i=i: b[: (10 * i + 5) * len(b) // 100]),
            NegHeadError,
        )
        for i in range(10)
    ),
    Hostile("safetensors, one byte too many", "safetensors", _modules_bytes(lambda b: b + b"\0"), NegHeadError),
    Hostile(
        "header of 2^63 bytes",
        "safetensors",
        _modules_bytes(lambda b: struct.pack("<Q", 1 << 63) + b[8:]),
        NegHeadError,
    ),
    Hostile("header of no bytes", "safetensors", _modules_bytes(lambda b: bytes(8) + b[8:]), NegHeadError),
    Hostile("header no JSON", "safetensors", _modules_bytes(lambda b: b[:8] + b"{" * 8 + b[16:]), NegHeadError),
    Hostile("header not UTF-8", "safetensors", _modules_bytes(lambda b: b[:9] + b"\xff" + b[10:]), NegHeadError),
    Hostile("header a list", "safetensors", _modules(header=lambda h: [h]), NegHeadError),
    Hostile(
        "header nested deeply",
        "safetensors",
        _modules_bytes(lambda b: struct.pack("<Q", 100_000) + b'{"a":' * 20_000),
        NegHeadError,
    ),
    Hostile(
        "header with a number of 9,000 digits",
        "safetensors",
        _modules_bytes(lambda b: struct.pack("<Q", 9_005) + b'{"a":' + b"9" * 8_999 + b"}"),
        NegHeadError,
    ),
    Hostile("entry a number", "safetensors", _modules(header=lambda h: {**h, _MODULES[0]: 7}), NegHeadError),
    Hostile(
        "entry without offsets",
        "safetensors",
        _modules(header=lambda h: {**h, _MODULES[0]: {"dtype": "F32", "shape": [1]}}),
        NegHeadError,
    ),
    Hostile("type not known", "safetensors", _modules(header=_entry(_MODULES[0], dtype="F31")), NegHeadError),
    Hostile("type a list", "safetensors", _modules(header=_entry(_MODULES[0], dtype=["F32"])), NegHeadError),
    Hostile("shape negative", "safetensors", _modules(header=_entry(_MODULES[0], shape=[-256, -256])), NegHeadError),
    Hostile("shape a float", "safetensors", _modules(header=_entry(_MODULES[0], shape=[256.0, 256])), NegHeadError),
    Hostile(
        "shape of 2^60", "safetensors", _modules(header=_entry(_MODULES[0], shape=[1 << 30, 1 << 30])), NegHeadError
    ),
    Hostile(
        "offsets negative", "safetensors", _modules(header=_entry(_MODULES[0], data_offsets=[-262144, 0])), NegHeadError
    ),
    Hostile(
        "offsets backwards", "safetensors", _modules(header=_entry(_MODULES[0], data_offsets=[262144, 0])), NegHeadError
    ),
    Hostile(
        "offsets behind the end",
        "safetensors",
        _modules(header=_entry(_MODULES[0], data_offsets=[1 << 40, (1 << 40) + 262144])),
        NegHeadError,
    ),
    Hostile(
        "offsets overlap", "safetensors", _modules(header=_entry(_MODULES[1], data_offsets=[0, 1024])), NegHeadError
    ),
]

HOSTILE = [*MODELS, *HEADS, *SIDE_CARS, *SAFETENSORS]
