"""Prefixes in files: read by the model that wrote them, and refused in one line by any other."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import pytest

from darwin_neg_cpp import ModelFileError, OutputError, RequestError
from darwin_neg_cpp.gguf_file.parts import read_model

from .test_prefix_cache import ARCHITECTURES, answer, assert_same, open_model, words

DOCUMENT = words(0, 300)


@pytest.fixture
def saved(byte_models: dict[str, Path], tmp_path: Path) -> Path:
    out = tmp_path / "document.prefix"
    with open_model(byte_models["qwen35"]) as llm:
        assert llm.save_prefix(out, DOCUMENT) == 300
    return out


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_document_is_evaluated_once(byte_models: dict[str, Path], architecture: str, tmp_path: Path) -> None:
    out = tmp_path / "document.prefix"
    with open_model(byte_models[architecture]) as first:
        assert first.save_prefix(out, DOCUMENT) == 300
    with open_model(byte_models[architecture]) as llm, open_model(byte_models[architecture], prefix_cache=0) as plain:
        assert llm.load_prefix(out) == 300
        for i in range(7):  # more than the context keeps
            text = [*DOCUMENT, *words(i, 20)]
            got = answer(llm, text)
            assert got.cached_tokens >= 300
            assert_same(got, answer(plain, text))
            answer(llm, words(100 + i, 200), 1)
        assert llm.stats()["n_prompt_decoded"] < 7 * 221


def test_a_text_a_conversation_and_the_last_answer(byte_models: dict[str, Path], tmp_path: Path) -> None:
    text = "A document of some length, which ends with a full stop."
    messages = [{"role": "system", "content": text}]
    with open_model(byte_models["qwen35"]) as llm:
        with pytest.raises(RequestError, match="nothing has been evaluated"):
            llm.save_prefix(tmp_path / "nothing")
        assert not (tmp_path / "nothing").exists()
        assert llm.save_prefix(tmp_path / "text", text) == len(llm.tokenize(text)) - 1
        n = llm.save_prefix(tmp_path / "messages", messages=messages)
        assert n == len(llm.chat_tokens(messages, add_generation_prompt=False))
        out = answer(llm, words(5, 50))
        assert llm.save_prefix(tmp_path / "last") == 50 + len(out.token_ids) - 1
        with pytest.raises(RequestError, match="both given"):
            llm.save_prefix(tmp_path / "both", text, messages=messages)
    with open_model(byte_models["qwen35"]) as llm:
        for name in ("text", "messages", "last"):
            llm.load_prefix(tmp_path / name)
        assert llm.generate(text + " And more.", max_tokens=1).cached_tokens > 50
        out = llm.chat([*messages, {"role": "user", "content": "What is it?"}], max_tokens=1)
        assert out.generation.cached_tokens == n


def test_files_are_replaced_only_when_told(byte_models: dict[str, Path], saved: Path) -> None:
    with open_model(byte_models["qwen35"]) as llm:
        with pytest.raises(OutputError, match="exists already"):
            llm.save_prefix(saved, DOCUMENT)
        llm.save_prefix(saved, words(1, 40), force=True)
        assert llm.load_prefix(saved) == 40
        with pytest.raises(OutputError, match="same file"):
            llm.save_prefix(byte_models["qwen35"], DOCUMENT, force=True)
        with pytest.raises(OutputError, match="no such folder"):
            llm.save_prefix(saved.parent / "missing" / "file", DOCUMENT)


def test_another_model_or_other_options(byte_models: dict[str, Path], saved: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.gguf"
    shutil.copy(byte_models["qwen35"], changed)
    header = read_model(changed)
    name = random.Random(1).choice(sorted(header.tensors))
    with changed.open("r+b") as file:
        file.seek(header.place(name)[1] + header.tensors[name].size - 4)
        file.write(struct.pack("<f", 0.25))
    for model, options, said in [
        (byte_models["qwen35moe"], {}, "another model"),
        (changed, {}, "another model"),
        (byte_models["qwen35"], {"type_k": "f16"}, "type_k"),
        (byte_models["qwen35"], {"flash_attn": "on"}, "flash_attn"),
    ]:
        with open_model(model, **options) as llm, pytest.raises(ModelFileError, match=said):
            llm.load_prefix(saved)
    with open_model(byte_models["qwen35"], prefix_cache=0) as llm:
        with pytest.raises(RequestError, match="prefix_cache is 0"):
            llm.load_prefix(saved)
        with pytest.raises(RequestError, match="prefix_cache is 0"):
            llm.save_prefix(tmp_path / "other", DOCUMENT)
    with open_model(byte_models["qwen35"], n_ctx=128) as llm, pytest.raises(RequestError, match="n_ctx"):
        llm.load_prefix(saved)


def test_damaged_files(byte_models: dict[str, Path], saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    (length,) = struct.unpack_from("<I", whole, 8)
    header = json.loads(whole[12 : 12 + length])
    rng = random.Random(4)
    variants = [b"", whole[:8], whole[:11], whole[:100], whole[:-1], whole + b"\0", b"GGUF" + whole[4:], bytes(500)]
    for _ in range(150):
        damaged = bytearray(whole)
        at = rng.randrange(len(whole)) if rng.random() < 0.5 else rng.randrange(12 + length)
        damaged[at] ^= 1 << rng.randrange(8)
        variants.append(bytes(damaged))
    for edit in [
        {"n_tokens": 10**9},
        {"n_tokens": -1},
        {"n_bytes": 0},
        {"n_tokens": True},
        {"version": 2},
        {"sha256": 1},
    ]:
        text = json.dumps(header | edit).encode()
        begin = whole[:8] + struct.pack("<I", len(text)) + text
        variants.append(begin + bytes(-len(begin) % 64) + whole[-(4 * header["n_tokens"] + header["n_bytes"]) :])
    bad = tmp_path / "bad.prefix"
    n_refused = 0
    with open_model(byte_models["qwen35"]) as llm:
        expected = answer(llm, DOCUMENT)
        for data in variants:
            bad.write_bytes(data)
            try:
                assert llm.load_prefix(bad) == 300  # a bit of the padding, or of a key that says nothing
                assert data[12 + length : 12 + length + 64].count(0) < 64 or data[:8] == whole[:8]
            except (ModelFileError, RequestError) as error:
                n_refused += 1
                assert str(error).startswith(str(bad)) and "\n" not in str(error)
        assert n_refused > 0.8 * len(variants)
        assert_same(answer(llm, DOCUMENT), expected)
