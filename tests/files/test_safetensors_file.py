"""The safetensors writer against the safetensors package."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load

from darwin_neg_cpp import ModelFileError
from darwin_neg_cpp.files.safetensors_file import encode_f32
from darwin_neg_cpp.files.safetensors_header import read_header


def test_what_is_written_is_what_the_safetensors_package_reads(tmp_path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "head.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "strided": rng.standard_normal((4, 6)).astype(np.float32)[:, ::2],
        "gate.threshold": np.array(1.5, np.float32),
        "empty": np.empty((0, 2), np.float32),
    }
    data = encode_f32(tensors)
    read = load(data)
    assert read.keys() == tensors.keys()
    for name, values in tensors.items():
        assert read[name].dtype == np.float32 and np.array_equal(read[name], values), name
    (tmp_path / "file.safetensors").write_bytes(data)
    stored = read_header(str(tmp_path / "file.safetensors"), ModelFileError)
    assert [stored[name].shape for name in tensors] == [values.shape for values in tensors.values()]
    assert stored["head.weight"].offset % 8 == 0
