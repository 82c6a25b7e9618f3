"""Answers on disk: nothing lost, nothing done twice, whatever happens in between. The engine is scripted."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fake_core
from darwin_neg_cpp import DarwinNEG, DarwinNegError, RequestError, SamplingParams
from darwin_neg_cpp.batch import batch as batch_module
from darwin_neg_cpp.batch import source
from darwin_neg_cpp.batch.batch import Summary, batch
from darwin_neg_cpp.errors import OutputError

LINES = [{"id": f"q{k}", "prompt": f"prompt NUMBER {k}"} for k in range(30)]
MADE = {"sha256": "0", "quantization": "F32"}


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted engine's file has nothing to describe."""
    monkeypatch.setattr(source, "describe_model", lambda *_, **__: (dict(MADE), {}))
    monkeypatch.setattr(source, "describe_build", dict)


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes().decode()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def texts(path: Path) -> dict[Any, str]:
    found = [(line["custom_id"], line["response"]["body"]["choices"][0]["text"]) for line in read(path)]
    assert max(Counter(key for key, _ in found).values()) == 1
    return dict(found)


def test_every_line_is_answered_in_openais_form(llm: DarwinNEG, tmp_path: Path) -> None:
    lines = [
        {"id": "plain", "prompt": "a B"},
        {"prompt": "a B", "n": 3, "return_neg": True, "seed": 5},
        {"id": "chat", "messages": [{"role": "user", "content": "thinker"}]},
    ]
    out = tmp_path / "a.jsonl"
    assert batch(llm, write(tmp_path / "p.jsonl", lines), out) == Summary(out, 3, 0, 0)
    answers = {line["custom_id"]: line for line in read(out)}
    assert set(answers) == {"plain", 2, "chat"}
    assert all(line["error"] is None and line["response"]["status_code"] == 200 for line in answers.values())
    plain, several, chat = (answers[key]["response"]["body"] for key in ("plain", 2, "chat"))
    assert plain["object"] == "text_completion" and plain["choices"][0]["text"] == "a B "
    assert plain["choices"][0]["neg"] == {"activation_rate": 0.5, "mean_entropy": 1.0}
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2] and several["seed"] == 5
    assert all(choice["neg"]["entropy"] == [0.0, 2.0] for choice in several["choices"])
    assert several["usage"]["completion_tokens"] == 6 and several["usage"]["total_tokens"] == 3 + 6
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    assert not fake_core.Engine.last.requests


def test_a_line_that_fails_becomes_its_entry_and_the_rest_goes_on(llm: DarwinNEG, tmp_path: Path) -> None:
    lines = [{"prompt": "fine"}, {"prompt": "boom"}, {"id": "e", "prompt": ""}, {"prompt": "broken"}, {"prompt": "ok"}]
    done = batch(llm, write(tmp_path / "p.jsonl", lines), tmp_path / "a.jsonl")
    assert (done.total, done.failed) == (5, 3)
    errors = {line["custom_id"]: line["error"] for line in read(tmp_path / "a.jsonl")}
    assert errors[1] is None and errors[5] is None
    assert errors[2] == {"code": "invalid_request", "message": "the sampler gave up"}
    assert errors["e"] == {"code": "invalid_request", "message": "prompt has no tokens"}
    assert errors[4]["code"] == "server_error" and "llama_decode failed" in errors[4]["message"]
    again = batch(llm, tmp_path / "p.jsonl", tmp_path / "a.jsonl")
    assert (again.before, again.failed) == (5, 3), "errors are answers"


def test_a_machine_that_fails_again_and_again_ends_the_batch(llm: DarwinNEG, tmp_path: Path) -> None:
    with pytest.raises(DarwinNegError, match="20 requests failed one after the other: llama_decode failed"):
        batch(llm, write(tmp_path / "p.jsonl", [{"prompt": "broken"}] * 99), tmp_path / "a.jsonl")
    assert len(read(tmp_path / "a.jsonl")) == batch_module.MAX_FAULTS


def test_a_file_cut_at_any_byte_is_resumed_to_the_same_answers(llm: DarwinNEG, tmp_path: Path) -> None:
    """What a crash leaves: any beginning of the file."""
    prompts, whole = write(tmp_path / "p.jsonl", LINES), tmp_path / "whole.jsonl"
    batch(llm, prompts, whole)
    content, expected = whole.read_bytes(), texts(whole)
    assert len(expected) == len(LINES)
    settings = Path(f"{whole}.settings.json").read_bytes()
    rng = random.Random(3)
    ends = [at + 1 for at, byte in enumerate(content) if byte == 10]
    for cut in [0, 1, 100, ends[0], ends[0] - 1, ends[-1], *(rng.randrange(len(content)) for _ in range(8))]:
        out = tmp_path / f"cut-{cut}.jsonl"
        out.write_bytes(content[:cut])
        Path(f"{out}.settings.json").write_bytes(settings)
        before = len(fake_core.calls("submit"))
        done = batch(llm, prompts, out)
        kept = content[:cut].count(b"\n")
        assert done.before == kept and len(fake_core.calls("submit")) - before == len(LINES) - kept
        assert texts(out) == expected and out.read_bytes().startswith(content[: ends[kept - 1] if kept else 0])


def test_prompts_may_be_added_and_reordered(llm: DarwinNEG, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    batch(llm, write(tmp_path / "p.jsonl", LINES[:5]), out)
    assert batch(llm, write(tmp_path / "p.jsonl", LINES[::-1]), out).before == 5
    assert len(texts(out)) == len(LINES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:1], {**lines[1], "prompt": "other"}], r"line \d: answers 'q1' with another prompt or"),
        (lambda lines: lines[:1], r"line \d: answers 'q1', which is not among the prompts"),
        ({"params": SamplingParams(top_k=3)}, r"different settings \(sampling.top_k was None, is 3\)"),
        ({"engine": {"type_k": "q8_0"}}, r"different settings \(engine.type_k was None, is q8_0\)"),
        ("model", r"different settings \(model.quantization was F32, is Q4_0\)"),
        (b"notes\n", r"line 1: is not an answer"),
        (b"repeat", r"line 3: answers 'q\d' like line 1"),
        (None, r"exists already, and .*settings.json, which says how it was made, does not"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(
    llm: DarwinNEG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, said: str
) -> None:
    prompts, out = write(tmp_path / "p.jsonl", LINES[:2]), tmp_path / "a.jsonl"
    batch(llm, prompts, out)
    options: dict[str, Any] = {}
    if isinstance(change, Callable):  # type: ignore[arg-type]
        write(prompts, change(LINES[:2]))
    elif isinstance(change, dict):
        options = change
    elif change == "model":
        monkeypatch.setattr(source, "describe_model", lambda *_, **__: ({**MADE, "quantization": "Q4_0"}, {}))
    elif change is None:
        Path(f"{out}.settings.json").unlink()
    else:
        old = out.read_bytes()
        out.write_bytes(old + old.partition(b"\n")[0] + b"\n" if change == b"repeat" else change + old)
    before = out.read_bytes()
    with pytest.raises(RequestError, match=said) as caught:
        batch(llm, prompts, out, **options)
    assert str(out) in str(caught.value) and out.read_bytes() == before
    batch(llm, prompts, out, **options, force=True)
    assert (tmp_path / "a.1.jsonl").read_bytes() == before, "what was there is kept"
    assert (tmp_path / "a.1.jsonl.settings.json").exists() == (change is not None)


def test_a_users_own_file_without_an_end_of_line_is_not_cut(llm: DarwinNEG, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    out.write_bytes(b"my notes")
    with pytest.raises(RequestError, match="exists already"):
        batch(llm, write(tmp_path / "p.jsonl", LINES), out)
    assert out.read_bytes() == b"my notes"


def test_outputs_that_cannot_be_are_one_line(llm: DarwinNEG, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", LINES)
    for out, said in ((prompts, "same file"), (tmp_path, "is a folder"), (tmp_path / "no" / "a", "no such folder")):
        with pytest.raises(OutputError, match=said):
            batch(llm, prompts, out)
    assert len(prompts.read_text().splitlines()) == len(LINES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no flock")
def test_two_processes_cannot_write_one_file(llm: DarwinNEG, tmp_path: Path) -> None:
    import fcntl

    prompts, out = write(tmp_path / "p.jsonl", LINES[:1]), tmp_path / "a.jsonl"
    with out.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another batch is writing to it"):
            batch(llm, prompts, out, force=True)
    batch(llm, prompts, out)


def test_closing_the_answers_ends_what_runs(llm: DarwinNEG, tmp_path: Path) -> None:
    """As Ctrl-C does."""
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "a"}, *({"prompt": "endless"} for _ in range(20))])

    def stop(done: int, total: int, note: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch(llm, prompts, tmp_path / "a.jsonl", progress=stop)
    assert texts(tmp_path / "a.jsonl") == {1: "a "}
    assert not fake_core.Engine.last.requests and len(fake_core.calls("submit")) <= 12, "as many as there are places"


def test_it_runs_inside_an_event_loop_too(llm: DarwinNEG, tmp_path: Path) -> None:
    """As in a notebook."""
    import asyncio

    async def main() -> Summary:
        return batch(llm, write(tmp_path / "p.jsonl", LINES), tmp_path / "a.jsonl")

    assert asyncio.run(main()).total == len(LINES)
