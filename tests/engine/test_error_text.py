"""An error quotes what a file holds, and a file may hold anything."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from darwin_neg_cpp import _core
from darwin_neg_cpp.errors import ModelFileError
from tiny_gguf import write_tiny_llama


def test_bytes_that_are_not_utf8_reach_the_message(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf")
    architecture = struct.pack("<Q", 5) + b"llama"
    good = path.read_bytes()
    assert architecture in good
    path.write_bytes(good.replace(architecture, architecture[:-1] + b"\xff", 1))
    with pytest.raises(ModelFileError, match="'llam\N{REPLACEMENT CHARACTER}'"):
        _core.quantize(
            str(path),
            str(tmp_path / "out.gguf"),
            7,
            imatrix="",
            allow_requantize=False,
            n_threads=1,
            progress=_core.QuantizeProgress(),
        )
