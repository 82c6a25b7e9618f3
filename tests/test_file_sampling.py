"""Sampling parameters that a model file sets: they are the defaults of requests, and of nothing else."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest

import fake_core
from darwin_neg_cpp import DarwinNEG, Question, SamplingParams, load_darwin_neg
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.engine.requests import request_params
from darwin_neg_cpp.neg.info import info
from darwin_neg_cpp.sampling import BUILT_IN, FILE_KEYS, USUAL_SAMPLERS, fill_in, read_file_defaults
from darwin_neg_cpp.training.own_texts import Opening, generate
from tiny_gguf import write_tiny_llama

F32, U32, STRING = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.INT32, gguf.GGUFValueType.STRING

# as llama.cpp hands them out: numbers as text of six digits
KEYS = {
    "general.sampling.temp": "0.600000",
    "general.sampling.top_k": "20",
    "general.sampling.top_p": "0.950000",
    "general.sampling.min_p": "0.000000",
    "general.sampling.xtc_probability": "0.100000",
    "general.sampling.xtc_threshold": "0.200000",
    "general.sampling.penalty_repeat": "1.050000",
    "general.sampling.penalty_last_n": "-1",
    "general.sampling.mirostat": "2",
    "general.sampling.mirostat_tau": "4.000000",
    "general.sampling.mirostat_eta": "0.200000",
    "general.sampling.sequence": "top-k;temp;NUCLEUS; min_p;typ",
}
VALUES: dict[str, Any] = {
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.0,
    "xtc_probability": 0.1,
    "xtc_threshold": 0.2,
    "repeat_penalty": 1.05,
    "repeat_last_n": -1,
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "samplers": ["top_k", "temperature", "top_p", "min_p", "typ_p"],
}


@pytest.fixture
def set_by_file(fake: type[fake_core.Engine], monkeypatch: pytest.MonkeyPatch, file: Path) -> Iterator[DarwinNEG]:
    """A model of the scripted engine whose file sets every parameter that a file can set."""
    monkeypatch.setattr(fake, "metadata", lambda _: {"general.name": "scripted", **KEYS})
    with DarwinNEG(file) as llm:
        yield llm


def submitted() -> dict[str, Any]:
    values = fake_core.calls("submit")[-1]
    return {name: values[name] for name in VALUES}


WITH_FILE = {**VALUES, "temperature": [0.6]}
MESSAGES = [{"role": "user", "content": "a"}]


async def _astream(llm: DarwinNEG, **options: Any) -> None:
    async for _ in llm.astream("a", **options):
        pass


CALLS: dict[str, Callable[..., object]] = {
    "generate": lambda llm, **options: llm.generate("a", **options),
    "stream": lambda llm, **options: list(llm.stream("a", **options)),
    "agenerate": lambda llm, **options: asyncio.run(llm.agenerate("a", **options)),
    "astream": lambda llm, **options: asyncio.run(_astream(llm, **options)),
    "chat": lambda llm, **options: llm.chat(MESSAGES, **options),
    "stream_chat": lambda llm, **options: list(llm.stream_chat(MESSAGES, **options)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_request_goes_before_the_file_and_the_file_before_the_built_in_values(
    set_by_file: DarwinNEG, call: Callable[..., object]
) -> None:
    call(set_by_file)
    assert submitted() == WITH_FILE
    call(set_by_file, temperature=0.8, top_k=40)  # also where the request's value is the built-in one
    assert submitted() == {**WITH_FILE, "temperature": [0.8], "top_k": 40}
    call(set_by_file, params=SamplingParams(min_p=0.05, samplers=["top_k"]), top_k=0)
    assert submitted() == {**WITH_FILE, "min_p": 0.05, "samplers": ["top_k"], "top_k": 0}
    call(set_by_file, params=SamplingParams(), max_tokens=3)
    assert submitted() == WITH_FILE and fake_core.calls("submit")[-1]["max_tokens"] == 3


def test_the_switch_brings_back_the_built_in_values(set_by_file: DarwinNEG, file: Path) -> None:
    usual = {name: request_params(SamplingParams(), "request").as_dict()[name] for name in VALUES}
    with DarwinNEG(file, file_sampling=False) as llm:
        assert llm.sampling_defaults == {}
        llm.generate("a")
        assert submitted() == usual != WITH_FILE
    with load_darwin_neg(file) as llm:
        assert llm.sampling_defaults == VALUES
    assert main(["generate", "-m", str(file), "a", "-q"]) == 0
    assert submitted() == WITH_FILE
    assert main(["generate", "-m", str(file), "a", "-q", "--no-file-sampling", "--top-k", "3"]) == 0
    assert submitted() == {**usual, "top_k": 3}


def test_a_protocol_and_training_texts_are_the_same_for_every_model(set_by_file: DarwinNEG) -> None:
    set_by_file.answer(Question("boom?", ("a", "b")), mode=3)
    others = {"xtc_probability": 0.0, "repeat_penalty": 1.0, "mirostat": 0, "samplers": list(USUAL_SAMPLERS)}
    for values in fake_core.calls("submit"):
        assert {name: values[name] for name in others} == others
    generate(set_by_file.session, [Opening("x", "Once", answer=False)], seed=1, max_tokens=2, temperature=0.9)
    built_in = {**BUILT_IN, "temperature": [0.9], "samplers": list(USUAL_SAMPLERS)}
    assert submitted() == {name: built_in[name] for name in VALUES}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("top_p", "7.000000", "top_p must be between 0 and 1, got 7"),
        ("top_p", "nan", "top_p must be a finite number"),
        ("temp", "inf", "temperature must be a finite number"),
        ("temp", "warm", "temperature must be a number, got 'warm'"),
        ("top_k", "20.500000", "top_k must be a whole number, got 20.5"),
        ("top_k", "true", "top_k must be a whole number"),
        ("mirostat", "3", "mirostat must be between 0 and 2"),
        ("penalty_repeat", "0.000000", "repeat_penalty must be"),
        ("penalty_last_n", "-7", "repeat_last_n must be"),
        ("sequence", "top_k;top_q", "samplers must be .*, got 'top_q'"),
        ("sequence", " ; ", "samplers must be a list of samplers' names"),
        ("sequence", "top_k\x1b[2J", "samplers must be"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_once_and_left_out(
    fake: type[fake_core.Engine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    file: Path,
    key: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setattr(fake, "metadata", lambda _: {**KEYS, FILE_KEYS + key: value})
    with caplog.at_level(logging.WARNING, "darwin_neg_cpp"), DarwinNEG(file) as llm:
        llm.generate("a")  # the user gave nothing, so nothing is refused
    (line,) = [record.getMessage() for record in caplog.records if FILE_KEYS in record.getMessage()]
    assert re.search(f"^{re.escape(str(file))}: {FILE_KEYS}{key} is not used: .*{said}", line) and "\x1b" not in line
    assert len(llm.sampling_defaults) == len(VALUES) - 1


@pytest.mark.parametrize(
    ("key", "value", "field", "used"),
    [("temp", "-1.000000", "temperature", 0), ("top_k", "-1", "top_k", 0), ("top_k", "20.000000", "top_k", 20)],
)
def test_what_llama_cpp_takes_for_off_is_off(key: str, value: str, field: str, used: int) -> None:
    assert read_file_defaults({FILE_KEYS + key: value}) == ({field: used}, [])


def test_the_keys_and_their_meaning_are_those_of_llama_cpp(llama_tree: Path) -> None:
    source = (llama_tree / "common" / "common.cpp").read_text("utf-8")
    theirs = dict(re.findall(r"META_KEY_SAMPLING_(\w+)\), +sparams\.(\w+),", source))
    assert len(theirs) == 11
    named = {"temp": "temperature", "penalty_repeat": "repeat_penalty", "penalty_last_n": "repeat_last_n"}
    expected = {named.get(field, field): FILE_KEYS + key.lower() for key, field in theirs.items()}
    ours = {name: field.metadata["key"] for name, field in SamplingParams.__dataclass_fields__.items()
            if "key" in field.metadata}  # fmt: skip
    assert ours == {**expected, "samplers": FILE_KEYS + "sequence"}
    header = (llama_tree / "common" / "common.h").read_text("utf-8")
    order = header.split("std::vector<enum common_sampler_type> samplers = {")[1].split("}")[0]
    assert re.findall(r"TYPE_(\w+)", order) == [
        {"typ_p": "TYPICAL_P"}.get(name, name.upper()) for name in USUAL_SAMPLERS
    ]


def test_the_usual_order_said_or_not_gives_the_same_request() -> None:
    unset, filled = SamplingParams(), fill_in(SamplingParams(), BUILT_IN)
    assert None in (unset.top_k, unset.temperature) and filled.top_k == 40 and filled.samplers == USUAL_SAMPLERS
    assert fill_in(filled, VALUES) == filled


def test_the_compiled_engine_uses_them(tmp_path: Path) -> None:
    keys = {"general.sampling.temp": (F32, 0.0), "general.sampling.sequence": (STRING, "temperature")}
    path = write_tiny_llama(tmp_path / "m.gguf", keys=keys)
    options: dict[str, Any] = {"n_ctx": 128, "n_parallel": 2, "n_threads": 1}
    with DarwinNEG(path, **options) as llm, DarwinNEG(path, **options, file_sampling=False) as plain:
        greedy = plain.generate("abc", temperature=0.0, max_tokens=12).token_ids.tolist()
        sampled = plain.generate("abc", seed=3, max_tokens=12).token_ids.tolist()
        assert greedy != sampled
        assert llm.generate("abc", seed=3, max_tokens=12).token_ids.tolist() == greedy
        said = llm.generate("abc", seed=3, max_tokens=12, temperature=0.8, samplers=USUAL_SAMPLERS)
        assert said.token_ids.tolist() == sampled


def test_info_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {
        "general.sampling.temp": (F32, 0.6),
        "general.sampling.top_k": (U32, 20),
        "general.sampling.sequence": (STRING, "top_k;temp"),
        "general.sampling.top_p": (F32, float("inf")),
    }
    path = write_tiny_llama(tmp_path / "m.gguf", keys=keys)
    assert info(path).sampling == {"temp": 0.6, "top_k": 20, "sequence": "top_k;temp", "top_p": "inf"}
    assert main(["info", str(path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sampling")]
    assert "temperature 0.6, top_k 20, samplers top_k;temperature" in row
    assert "general.sampling.top_p is not used: top_p must be a finite number" in row
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling"]["temp"] == 0.6
    assert main(["info", str(write_tiny_llama(tmp_path / "plain.gguf"))]) == 0
    assert "sampling" not in capsys.readouterr().out
