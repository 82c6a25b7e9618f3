"""`darwin-neg batch` as a process: with a model, from a pipe, killed and interrupted."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from command_line import refusal

LINES = [
    {"id": f"q{k}", "prompt": f"{'abcdefgh'[k % 8]} number {k}", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    for k in range(120)
]


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def command(model: Path, prompts: Path | str, out: Path) -> list[str]:
    words = ["batch", str(prompts), "-o", str(out), "-m", str(model), "-t", "1", "-c", "512", "--n-parallel", "4"]
    # what is rounded to F16, as in flash attention, depends on the step's other prompts, and may choose another token
    words += ["-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-prefix-cache"]
    return [sys.executable, "-m", "darwin_neg_cpp", *words]


def texts(path: Path) -> dict[Any, str]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert max(Counter(line["custom_id"] for line in lines).values()) == 1, "nothing twice"
    assert [line["error"] for line in lines] == [None] * len(lines)
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in lines}


def whole_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(words: list[str]) -> subprocess.Popen[str]:
    # pytest's own handler of SIGINT is not inherited, and a shell's background job ignores it
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_a_batch_killed_in_the_middle_gives_the_answers_of_an_undisturbed_one(tiny_llama: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", LINES)
    subprocess.run(command(tiny_llama, prompts, tmp_path / "whole.jsonl"), check=True)
    expected = texts(tmp_path / "whole.jsonl")
    assert set(expected) == {line["id"] for line in LINES} and len(set(expected.values())) > 1
    out, rng, kills = tmp_path / "killed.jsonl", random.Random(4), 0
    while kills < 4:
        goal = whole_lines(out) + rng.randrange(1, 25)
        with start(command(tiny_llama, prompts, out)) as process:
            while whole_lines(out) < goal and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        kills += 1
        assert set(texts_of_whole_lines(out)) <= set(expected)
        if kills % 2:  # a moment that a kill hardly ever meets: within a line
            out.write_bytes(out.read_bytes()[:-7])
    subprocess.run(command(tiny_llama, prompts, out), check=True)
    assert texts(out) == expected


def texts_of_whole_lines(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_bytes().split(b"\n")[:-1]]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tiny_llama: Path, tmp_path: Path) -> None:
    prompts = write(tmp_path / "p.jsonl", [{**line, "max_tokens": 60} for line in LINES])
    out = tmp_path / "a.jsonl"
    with start(command(tiny_llama, prompts, out)) as process:
        while whole_lines(out) < 3:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said == f"interrupted; the answers so far are in {out}; the same command resumes\n"
    before = whole_lines(out)
    assert 3 <= before < len(LINES) and out.read_bytes().endswith(b"\n")
    again = subprocess.run(command(tiny_llama, prompts, out), capture_output=True, text=True, check=True)
    assert again.stderr == f"{len(LINES)} answers in {out}, {before} of them from before\n"
    assert len(texts(out)) == len(LINES)


def test_prompts_come_through_a_pipe_and_a_line_that_does_not_fit_is_an_entry(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    lines = [{"id": "fits", "prompt": "a", "max_tokens": 2}, {"id": "long", "prompt": "x" * 600}]
    given = "".join(json.dumps(line) + "\n" for line in lines)
    result = subprocess.run(command(tiny_llama, "-", out), input=given, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, f"2 answers in {out}, 1 of them errors\n")
    entries = {json.loads(line)["custom_id"]: json.loads(line) for line in out.read_text("utf-8").splitlines()}
    assert entries["fits"]["error"] is None and entries["long"]["response"] is None
    assert entries["long"]["error"]["code"] == "context_length_exceeded"
    assert re.search(r"has 6\d\d tokens", entries["long"]["error"]["message"])


def test_bad_lines_are_refused_before_the_model_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write(tmp_path / "p.jsonl", [{"prompt": "x"}, {"prompt": "x", "top_k": -1}])
    words = ["batch", str(prompts), "-o", str(tmp_path / "a.jsonl"), "-m", str(tmp_path / "missing.gguf")]
    said = refusal(capsys, *words)
    assert said == f'darwin-neg: error: {prompts}: line 2: "top_k" must be between 0 and 2147483647, got -1\n'
    assert "no such file" in refusal(capsys, *words[:1], str(tmp_path / "none.jsonl"), *words[2:]).lower()
    assert "--top-k must be" in refusal(capsys, *words, "--top-k", "-2")
    assert os.listdir(tmp_path) == ["p.jsonl"]
