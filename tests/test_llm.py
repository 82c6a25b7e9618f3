"""The public face: what it takes, and what shape its results have. The engine is scripted (fake_core)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import darwin_neg_cpp
import fake_core
from darwin_neg_cpp import DarwinNEG, ModelFileError, Neg, NegHeadError, load_darwin_neg


def test_import_loads_neither_the_engine_nor_numpy() -> None:
    code = "import sys, darwin_neg_cpp; print([m for m in ('numpy', 'darwin_neg_cpp._core') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_exported_name_exists() -> None:
    for name in darwin_neg_cpp.__all__:
        assert getattr(darwin_neg_cpp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = darwin_neg_cpp.nonsense


def test_the_shape_of_the_result_follows_the_prompt_and_n(llm: DarwinNEG) -> None:
    assert llm.generate("a b").text == "a b "
    assert [sample.index for sample in llm.generate("a", n=3)] == [0, 1, 2]
    assert [sample.text for sample in llm.generate(["a", "b"])] == ["a ", "b "]
    assert [[sample.text for sample in two] for two in llm.generate(["a", "b"], n=2)] == [["a ", "a "], ["b ", "b "]]
    assert llm.generate(list(b"a b")).text == "a b "
    assert llm.generate(np.frombuffer(b"a b", np.uint8)).text == "a b "
    assert [sample.text for sample in llm.generate([[97], [98]])] == ["a ", "b "]


def test_results_carry_entropy_gate_and_seed(llm: DarwinNEG) -> None:
    out = llm.generate("a b C D", logprobs=2)
    assert out.neg.entropy.dtype == np.float32 and len(out.neg.entropy) == len(out.token_ids) == len(out.pieces) == 4
    assert out.neg.active.tolist() == [False, False, True, True]
    assert (out.neg.activation_rate, out.neg.mean_entropy, out.seed) == (0.5, 1.0, 7)
    assert out.logprobs.top.shape == (4, 2)


def test_without_a_head_there_is_no_trace_and_gate_options_are_refused(
    llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(fake_core.Engine, "with_neg", False)
    with DarwinNEG(file) as bare:
        assert bare.neg is None and bare.generate("a").neg is None
        with pytest.raises(NegHeadError):
            bare.generate("a", neg=Neg())


def test_a_repository_is_named_as_in_from_pretrained(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr(DarwinNEG, "from_pretrained", lambda name, **_: named.append(name))
    names = ["a/b", "a/b:Q4_K_M", "a/b:*q4*", "hf.co/a/b", "https://huggingface.co/a/b/blob/main/m.gguf", "hf://a/b"]
    for name in names:
        load_darwin_neg(name)
    assert named == names


def test_a_path_that_does_not_exist_is_no_repository(fake: type[fake_core.Engine]) -> None:
    for name in ("missing.gguf", "a/missing.gguf", "./missing", "/no/such/file", "C:\\m"):
        with pytest.raises(ModelFileError, match="no such file"):
            load_darwin_neg(name)
