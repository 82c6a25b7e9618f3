"""Writes safetensors files. Format: https://huggingface.co/docs/safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

ALIGNMENT = 8  # of the data's first byte


def encode_f32(tensors: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """The bytes of a file that holds these tensors as float32, in this order and without gaps."""
    header = {}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + 4 * values.size
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    data = (np.ascontiguousarray(values, "<f4").tobytes() for values in tensors.values())
    return b"".join([len(text).to_bytes(8, "little"), text, *data])
