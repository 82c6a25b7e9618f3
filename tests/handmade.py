"""Model, head and side-car files written with gguf-py or by hand: never with the code under test."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

REDUCED = 256  # a multiple of Q4_K's block, so that a quantized head is a sound GGUF file
Tensors = dict[str, Any]
Keys = dict[str, tuple[gguf.GGUFValueType, Any]]
U8, U32, I32, F32, BOOL, STR, ARR = (
    gguf.GGUFValueType.UINT8,
    gguf.GGUFValueType.UINT32,
    gguf.GGUFValueType.INT32,
    gguf.GGUFValueType.FLOAT32,
    gguf.GGUFValueType.BOOL,
    gguf.GGUFValueType.STRING,
    gguf.GGUFValueType.ARRAY,
)


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
    """Writes the keys and tensors of `base`, with these changed or added.

    A tensor is an array, or (uint8 array, type) for a quantized one.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, field in base.fields.items() if base else ():
        if not key.startswith("GGUF.") and key not in keys and key != "general.architecture":
            sub = field.types[-1] if field.types[0] == ARR else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for key, (kind, value) in keys.items():
        writer.add_key_value(key, value, kind)
        if key == "general.alignment":
            writer.data_alignment = value
    for tensor in base.tensors if base else ():
        if tensor.name not in tensors:
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


def hidden_of(model: Path) -> int:
    return int(gguf.GGUFReader(model).fields["llama.embedding_length"].contents())


def with_head(path: Path, model: Path, seed: int = 0) -> Path:
    """The model with a head inside."""
    tensors, keys = head_parts(hidden_of(model), seed)
    return write_gguf(path, "llama", keys, tensors, gguf.GGUFReader(model))


def good_side_car(path: Path, model: Path, seed: int = 0) -> Path:
    """A side-car without the optional keys that bind it to a backbone."""
    tensors, keys = head_parts(hidden_of(model), seed)
    return write_gguf(path, "neg", {**keys, "neg.n_embd": (U32, hidden_of(model))}, tensors)


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


def write_matrix(path: Path, model: Path, keep: Callable[[str], bool] = lambda _name: True, wider: int = 1) -> Path:
    """An importance matrix in the form that llama-imatrix writes, random, for those tensors that `keep` wants."""
    rng = np.random.default_rng(4)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["random"])
    writer.add_uint32("imatrix.chunk_count", 10)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in gguf.GGUFReader(model).tensors:
        if len(tensor.shape) == 2 and not tensor.name.startswith("neg.") and keep(tensor.name):
            sums = rng.exponential(size=(1, wider * int(tensor.shape[0]))).astype(np.float32) * 100
            writer.add_tensor(f"{tensor.name}.in_sum2", sums)
            writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 5120, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
