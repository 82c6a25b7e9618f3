"""Model files of other makes. What no engine opens is named, and no head is joined to it."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, _core
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, write
from darwin_neg_cpp.convert.quantize import quantize
from darwin_neg_cpp.errors import ModelFileError
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg.head import random_head
from darwin_neg_cpp.neg.info import info
from oracles import tiny_tokenizer
from tiny_gguf import HIDDEN, write_tiny_llama

# --- Ollama's own files


def qwen(path: Path, sections: list[int], tensors: tuple[str, ...] = (), arch: str = "qwen35") -> Path:
    """A file with the keys that tell the layouts apart."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_rope_dimension_count(16)
    writer.add_array(f"{arch}.rope.dimension_sections", sections)
    for name in ("token_embd.weight", *tensors):
        writer.add_tensor(name, np.zeros((1, HIDDEN), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


OLLAMA: dict[str, tuple[str, list[int], tuple[str, ...], str]] = {
    "three sections": ("qwen35", [3, 3, 2], (), "qwen35.rope.dimension_sections has 3 numbers"),
    "with experts": ("qwen35moe", [3, 3, 2], (), "qwen35moe.rope.dimension_sections has 3 numbers"),
    "of an older family": ("qwen2vl", [3, 3, 2], (), "qwen2vl.rope.dimension_sections has 3 numbers"),
    "with its vision tower": ("qwen35", [3, 3, 2, 0], ("v.blk.0.attn_q.weight",), "v.blk.0.attn_q.weight"),
    "vision tower of others": ("gemma3", [3, 3, 2, 0], ("v.patch_embedding.weight",), "v.patch_embedding.weight"),
    "the block ahead by its old name": ("qwen35", [3, 3, 2, 0], ("mtp.fc.weight",), "mtp.fc.weight"),
    "bias without its name": ("qwen35", [3, 3, 2, 0], ("blk.0.ssm_dt",), "blk.0.ssm_dt"),
}


@pytest.mark.parametrize("kind", OLLAMA)
def test_ollamas_layout_is_named_and_gets_no_head(tmp_path: Path, kind: str) -> None:
    arch, sections, tensors, says = OLLAMA[kind]
    model = qwen(tmp_path / "model.gguf", sections, tensors, arch)
    out = tmp_path / "out.gguf"
    for work in (
        lambda: DarwinNEG(model, n_ctx=64, n_parallel=1),
        lambda: quantize(model, out, "q8_0"),
        lambda: neg_files.attach(model, random_head(HIDDEN, 1), out),
        lambda: neg_files.write_side_car(random_head(HIDDEN, 1), model, out),
    ):
        with pytest.raises(ModelFileError) as caught:
            work()
        said = str(caught.value)
        assert said.startswith(f"{model}: ") and "Ollama" in said and says in said and "darwin-neg convert" in said
        assert "\n" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("arch", "sections", "tensors"),
    [("qwen35", [3, 3, 2, 0], ("blk.0.ssm_dt.bias",)), ("clip", [3, 3, 2, 0], ("v.blk.0.attn_q.weight",))],
)
def test_llama_cpps_own_layout_is_not_taken_for_it(
    tmp_path: Path, arch: str, sections: list[int], tensors: tuple[str, ...]
) -> None:
    with pytest.raises(ModelFileError) as caught:
        DarwinNEG(qwen(tmp_path / "model.gguf", sections, tensors, arch))
    assert "Ollama" not in str(caught.value)


@pytest.fixture(scope="module")
def tiny_qwen35(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of that family in llama.cpp's layout."""
    base = tmp_path_factory.mktemp("qwen")
    folder = tiny_tokenizer.write_checkpoint(
        base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), head=False, mtp=False
    )
    write.write(convert.plan(convert.Source(folder, None), without_neg=True), base / "model.gguf")
    return base / "model.gguf"


def as_ollama_writes(model: Path, path: Path, kind: str) -> Path:
    """The model with one of that layout's marks."""
    keys: dict[str, list[int]] = {
        "sections": {"qwen35.rope.dimension_sections": [3, 3, 2]},
        "heads": {"qwen35.attention.head_count_kv": [0, 0, 0, 2]},
    }.get(kind, {})
    more = {"vision": "v.blk.0.attn_q.weight", "ahead": "mtp.fc.weight"}
    reader = gguf.GGUFReader(model)
    writer = gguf.GGUFWriter(path, "qwen35")
    for name, field in reader.fields.items():
        if name in keys:
            writer.add_array(name, keys[name])
        elif not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".bias") if kind == "bias" and "ssm_dt" in tensor.name else tensor.name
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
    if kind in more:
        writer.add_tensor(more[kind], np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["sections", "heads", "vision", "ahead", "bias", "none of them"])
def test_what_is_named_is_what_llama_cpp_refuses(tiny_qwen35: Path, tmp_path: Path, kind: str) -> None:
    model = as_ollama_writes(tiny_qwen35, tmp_path / "model.gguf", kind)
    if kind == "none of them":
        with DarwinNEG(model, n_ctx=64, n_parallel=1) as llm:
            assert llm.generate("the in", max_tokens=2).finish_reason
        return
    with pytest.raises(ModelFileError, match="Ollama"):
        DarwinNEG(model, n_ctx=64, n_parallel=1)
    params = _core.ModelParams(str(model), n_ctx=64, n_parallel=1)  # by itself, without our checks
    with pytest.raises(ModelFileError, match="cannot be loaded") as caught:
        _core.Engine(params, chat_template=None, progress=lambda _: True)
    assert "Ollama" not in str(caught.value)


def test_three_sections_in_a_model_that_has_none(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    assert info(model).architecture == "llama"
    with pytest.raises(ModelFileError, match="Ollama"):
        neg_files.attach(qwen(tmp_path / "q.gguf", [1, 2]), random_head(HIDDEN, 1), tmp_path / "out.gguf")


@pytest.mark.parametrize("name", ["llama.attention.layer_norm_rms_epsilon", "llama.block_count"])
def test_no_head_is_joined_to_what_ends_the_engine(tmp_path: Path, name: str) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    data = bytearray(model.read_bytes())
    at = data.index(name.encode()) + len(name) + 4
    data[at : at + 4] = struct.pack("<f", -1) if "epsilon" in name else struct.pack("<I", 10_000)
    model.write_bytes(data)
    for out in ("a.gguf", "s.gguf"):
        with pytest.raises(ModelFileError, match=name):
            if out == "a.gguf":
                neg_files.attach(model, random_head(HIDDEN, 1), tmp_path / out)
            else:
                neg_files.write_side_car(random_head(HIDDEN, 1), model, tmp_path / out)
        assert not (tmp_path / out).exists()


@pytest.mark.parametrize("kind", ["adapter", "mmproj", "imatrix", "no tensors"])
def test_no_head_is_joined_to_what_is_no_model(tmp_path: Path, kind: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.add_embedding_length(HIDDEN)
    if kind != "no tensors":
        writer.add_type(kind)
        writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((1, HIDDEN), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for out, work in (("a.gguf", neg_files.attach), ("s.gguf", None)):
        with pytest.raises(ModelFileError, match=r"other.gguf: .*(not a model|holds no tensors)"):
            if work:
                work(tmp_path / "other.gguf", random_head(HIDDEN, 1), tmp_path / out)
            else:
                neg_files.write_side_car(random_head(HIDDEN, 1), tmp_path / "other.gguf", tmp_path / out)
        assert not (tmp_path / out).exists()


# --- no pre-tokenizer


@pytest.mark.parametrize(("pre", "warned"), [(None, True), ("", True), ("gpt-2", False), ("default", False)])
def test_a_missing_pre_tokenizer_is_one_warning_and_a_row(
    tmp_path: Path, caplog, capsys, pre: str | None, warned: bool
) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", pre=pre)
    with caplog.at_level(logging.WARNING), DarwinNEG(model, n_ctx=64, n_parallel=1) as llm:
        llm.generate("a", max_tokens=1)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == warned
    assert all(line.startswith(f"{model}: has no tokenizer.ggml.pre") for line in warnings)
    assert info(model).pre_tokenizer == (pre or None)
    assert main(["info", str(model)]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("pre-tokenizer"))
    assert ("missing (tokenizer.ggml.pre)" in row) == warned and (pre or "missing") in row


def test_other_vocabularies_need_none(tmp_path: Path, capsys) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", pre=None)
    model.write_bytes(model.read_bytes().replace(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0bert"))
    assert info(model).pre_tokenizer == ""
    assert main(["info", str(model)]) == 0
    assert "pre-tokenizer" not in capsys.readouterr().out


# --- texts that are not UTF-8

TEMPLATE = "{{ messages }}"
NOT_UTF8: dict[str, tuple[bytes, bool]] = {
    # the text whose last byte is changed, and whether the file is refused everywhere
    "architecture": (b"llama", True),
    "a needed key": (b"llama.context_length", True),
    "a tensor": (b"blk.0.ffn_up.weight", True),
    "tokenizer": (b"gpt2", True),
    "pre-tokenizer": (b"gpt-2", True),
    "name": (b"tiny model", False),
    "template": (TEMPLATE.encode(), False),
    "token": (b"</s>", False),
    "merge": (b"h e", False),
}


def texts(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("kind", NOT_UTF8)
def test_texts_that_are_not_utf8_end_in_one_line_or_are_shown(tmp_path: Path, capsys, kind: str) -> None:
    text, fatal = NOT_UTF8[kind]
    model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=TEMPLATE, name="tiny model")
    data = model.read_bytes()
    assert data.count(texts(text)) == 1
    model.write_bytes(data.replace(texts(text), texts(text[:-1] + b"\xff")))
    out = tmp_path / "out.gguf"

    def load() -> None:
        with DarwinNEG(model, n_ctx=64, n_parallel=1) as llm:
            llm.generate("a", max_tokens=2, temperature=0)
            assert llm.metadata and llm.info

    works: list[Callable[[], object]] = [
        load,
        lambda: quantize(model, out, "q8_0", force=True),
        lambda: neg_files.attach(model, random_head(HIDDEN, 1), out, force=True),
        lambda: neg_files.write_side_car(random_head(HIDDEN, 1), model, out, force=True),
    ]
    for work in works:
        if not fatal:
            work()
            continue
        with pytest.raises(ModelFileError) as caught:
            work()
        assert str(caught.value).startswith(f"{model}: ") and "is not UTF-8" in str(caught.value)
        assert "\n" not in str(caught.value) and not out.exists()
    for arguments in (
        ["generate", "-m", str(model), "-n", "2", "a"],
        ["quantize", str(model), str(out), "q8_0", "--force"],
        ["neg", "attach", str(model), "--random", "1", "-o", str(out), "--force"],
    ):
        capsys.readouterr()
        assert main(arguments) == (2 if fatal else 0)
        if fatal:
            said = [line for line in capsys.readouterr().err.splitlines() if "RANDOM" not in line]
            assert len(said) == 1 and said[0].startswith("darwin-neg: error: ")
    assert main(["info", "--json", str(model)]) in (0, 2)
