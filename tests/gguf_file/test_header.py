"""The reader of GGUF headers: how much of the file it reads, and a file that changes meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import pytest

from darwin_neg_cpp.errors import ModelFileError
from darwin_neg_cpp.gguf_file import header as module
from darwin_neg_cpp.gguf_file.header import read_header

TOKENS = [f"token {i}" * (i % 7) for i in range(5000)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("header") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(TOKENS)
    writer.add_array("an.array", list(range(3000)))
    writer.add_string("a.string", "x" * 40_000)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("size", [1, 7, 100, 4096, 1 << 20])
def test_a_header_read_in_pieces_is_the_same(model, monkeypatch, size):
    whole = read_header(model)
    assert whole.array_length("tokenizer.ggml.tokens") == len(TOKENS)
    assert whole.value("a.string") == gguf.GGUFReader(model).fields["a.string"].contents()
    monkeypatch.setattr(module, "FIRST_READ", size)
    assert read_header(model) == whole


def test_the_data_is_not_read(model, tmp_path):
    path = tmp_path / "large.gguf"
    path.write_bytes(model.read_bytes())
    os.truncate(path, 1 << 40)  # a hole of a terabyte
    assert read_header(path).file_size == 1 << 40


def test_a_file_that_is_cut_while_it_is_read_is_an_error(model, tmp_path, monkeypatch):
    path = tmp_path / "cut.gguf"
    path.write_bytes(model.read_bytes())
    monkeypatch.setattr(module, "FIRST_READ", 4096)
    real = module.open_input

    class Cut:
        """Loses the file's end after the first read, as another process would cut it."""

        def __init__(self, file) -> None:
            self._file = file

        def __enter__(self) -> Cut:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def fileno(self) -> int:
            return self._file.fileno()

        def read(self, size: int) -> bytes:
            block = self._file.read(size)
            os.truncate(path, 4096)
            return block

    monkeypatch.setattr(module, "open_input", lambda *arguments: Cut(real(*arguments)))
    with pytest.raises(ModelFileError, match=r"cut\.gguf: became shorter while it was read; try again"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\nsize 9\n",
            "it is a pointer of Git LFS; download the file itself",
        ),
        (b"\n<!doctype html>", "it is a web page; download the file that it shows"),
        (b"PK\x03\x04....", "convert the checkpoint to GGUF first"),
        (b"GG", "convert the checkpoint to GGUF first"),
    ],
)
def test_what_was_saved_in_the_place_of_a_model_is_named(tmp_path, content, says):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelFileError, match=f"m.gguf: not a GGUF file; {says}"):
        read_header(tmp_path / "m.gguf")
