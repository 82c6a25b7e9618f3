"""Bad model files, one row a kind: what is wrong, how to make it, and what the error must say.

`make(good, folder)` gets a good model file with a head inside and returns the bad one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

NEG_TENSORS = ("neg.proj_down.w", "neg.proj_down.b", "neg.proj_out.w", "neg.proj_out.b")


@dataclass(frozen=True)
class Kind:
    """error: name of the class that must be raised; words: what its message must contain."""

    name: str
    make: Callable[[Path, Path], Path]
    error: str
    words: str


def rewrite(
    good: Path,
    out: Path,
    *,
    tensor: Callable[[str, np.ndarray], tuple[np.ndarray, int | None] | None] | None = None,
    keys: dict[str, object] | None = None,
) -> Path:
    """Copies `good` with the gguf package, changing tensors (None drops one) and keys (None drops one)."""
    reader = gguf.GGUFReader(good)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    changed = keys or {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = changed.get(key, field.contents())
        if value is None:
            continue
        kind = field.types[0]
        if isinstance(value, tuple):
            value, kind = value
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, sub)
    for item in reader.tensors:
        data, dtype = np.array(item.data), None
        if tensor is not None and item.name.startswith("neg."):
            result = tensor(item.name, data)
            if result is None:
                continue
            data, dtype = result
        writer.add_tensor(item.name, data, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], Path]:
    def make(good: Path, folder: Path) -> Path:
        out = folder / "bad.gguf"
        out.write_bytes(change(good.read_bytes()))
        return out

    return make


def _tensor(
    name: str, change: Callable[[np.ndarray], tuple[np.ndarray, int | None] | None]
) -> Callable[[Path, Path], Path]:
    return lambda good, folder: rewrite(
        good, folder / "bad.gguf", tensor=lambda n, d: change(d) if n == name else (d, None)
    )


def _key(key: str, value: object) -> Callable[[Path, Path], Path]:
    return lambda good, folder: rewrite(good, folder / "bad.gguf", keys={key: value})


def _nan(data: np.ndarray) -> tuple[np.ndarray, None]:
    data = data.copy()
    data.flat[data.size // 2] = np.nan
    return data, None


def _q4_k(data: np.ndarray) -> tuple[np.ndarray, int]:
    # any bytes will do: it must be refused by its type. Rows are padded to one block.
    rows = data.shape[0] if data.ndim == 2 else 1
    return np.zeros((rows, 144), np.uint8), gguf.GGMLQuantizationType.Q4_K


def _whole_file_kinds() -> list[Kind]:
    huge = (1 << 62).to_bytes(8, "little")
    kinds = [
        Kind("missing", lambda _good, folder: folder / "nowhere.gguf", "ModelFileError", "nowhere.gguf"),
        Kind("empty", _bytes(lambda _b: b""), "ModelFileError", "empty"),
        Kind("folder", lambda _good, folder: folder, "ModelFileError", "folder"),
        Kind("not GGUF", _bytes(lambda _b: b"PK\x03\x04" * 100), "ModelFileError", "not a GGUF"),
        Kind("three bytes", _bytes(lambda b: b[:3]), "ModelFileError", "not a GGUF"),
        Kind("version 99", _bytes(lambda b: b[:4] + struct.pack("<I", 99) + b[8:]), "ModelFileError", "bad.gguf"),
        Kind(
            "big-endian version", _bytes(lambda b: b[:4] + struct.pack(">I", 3) + b[8:]), "ModelFileError", "bad.gguf"
        ),
        Kind("2^62 tensors", _bytes(lambda b: b[:8] + huge + b[16:]), "ModelFileError", "bad.gguf"),
        Kind("2^62 keys", _bytes(lambda b: b[:16] + huge + b[24:]), "ModelFileError", "bad.gguf"),
        Kind("first key 2^62 long", _bytes(lambda b: b[:24] + huge + b[32:]), "ModelFileError", "bad.gguf"),
    ]
    for i in range(20):
        share = (i + 0.5) / 20
        kinds.append(
            Kind(
                f"truncated at {share:.1%}",
                _bytes(lambda b, s=share: b[: int(len(b) * s)]),
                "ModelFileError",
                "bad.gguf",
            )
        )
    return kinds


def _head_kinds() -> list[Kind]:
    kinds = []
    for name in NEG_TENSORS:
        kinds += [
            Kind(f"{name} missing", _tensor(name, lambda _d: None), "NegHeadError", name),
            Kind(f"{name} I32", _tensor(name, lambda d: (np.ones(d.shape, np.int32), None)), "NegHeadError", name),
            Kind(f"{name} F16", _tensor(name, lambda d: (d.astype(np.float16), None)), "NegHeadError", name) if name != NEG_TENSORS[0]
            else Kind(f"{name} I8", _tensor(name, lambda d: (d.astype(np.int8), None)), "NegHeadError", name),
            Kind(f"{name} Q4_K", _tensor(name, _q4_k), "NegHeadError", name),
            Kind(f"{name} NaN", _tensor(name, _nan), "NegHeadError", name),
            Kind(f"{name} too long", _tensor(name, lambda d: (np.concatenate([d, d]), None)), "NegHeadError", "neg.proj_"),
        ]  # fmt: skip
    kinds += [
        Kind(
            "neg.proj_down.w transposed",
            _tensor("neg.proj_down.w", lambda d: (np.ascontiguousarray(d.T), None)),
            "NegHeadError",
            "neg.proj_",
        ),
        Kind(
            "neg.proj_out.w transposed",
            _tensor("neg.proj_out.w", lambda d: (d.reshape(-1, 1), None)),
            "NegHeadError",
            "neg.proj_out.w",
        ),
        Kind(
            "neg.proj_down.w of another width",
            _tensor("neg.proj_down.w", lambda d: (d[:, :32].copy(), None)),
            "NegHeadError",
            "neg.proj_down.w",
        ),
    ]
    for key, bad in {
        "neg.threshold": [float("nan"), -1.0, None, ("1.0", gguf.GGUFValueType.STRING)],
        "neg.temp_scale": [float("nan"), 0.0, -1.0, float("inf"), None],
        "neg.top_k": [0, None, (20.0, gguf.GGUFValueType.FLOAT32)],
        "neg.version": [2, None],
        "neg.temp_enabled": [None],
    }.items():
        kinds += [Kind(f"{key} = {value}", _key(key, value), "NegHeadError", key) for value in bad]
    kinds.append(
        Kind(
            "keys without tensors",
            lambda good, folder: rewrite(good, folder / "bad.gguf", tensor=lambda _n, _d: None),
            "NegHeadError",
            "neg.proj_down.w",
        )
    )
    return kinds


FILE_KINDS = _whole_file_kinds()
HEAD_KINDS = _head_kinds()
