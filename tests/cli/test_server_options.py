"""`--server` of answer, eval and train-head."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from darwin_neg_cpp.cli.main import main
from scripted_server import ScriptedServer

ASK = ["answer", "Which planet?", "--choice", "Mercury", "--choice", "Mars", "--prompt", "direct"]


def fail(capsys: pytest.CaptureFixture[str], args: list[str], code: int = 2) -> str:
    """The one line of an error."""
    assert main(args) == code
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1, err
    return err


def test_answer_asks_servers(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer() as one, ScriptedServer() as other:
        assert main([*ASK, "--server", f"{one.url},{other.url}", "--json", "--full"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert main([*ASK, "--server", one.url, "--server", other.url, "--json", "--full"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert [c["text"] for c in found["candidates"]] == [c["text"] for c in again["candidates"]]
        assert len(found["candidates"]) >= 8 and one.completions and other.completions
        assert main([*ASK, "--server", one.url, "--no-prefix-cache", "--mode", "0"]) in (0, 1)
        assert one.completions[-1].body["cache_prompt"] is False


def test_the_key_comes_from_the_environment_or_an_option_and_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"question": "Which?", "choices": ["a", "b"], "answer": "A"}), "utf-8")
    monkeypatch.chdir(tmp_path)
    with ScriptedServer(key="hush") as server:
        run = ["eval", "--data", str(file), "--modes", "0,2", "--prompt", "direct", "--server", server.url]
        assert "asks for a key (HTTP 401); pass --server-key" in fail(capsys, run)
        assert main([*run, "--server-key", "hush"]) == 0
        assert main([*run, "--server-key=hush"]) == 0
        monkeypatch.setenv("DARWIN_NEG_SERVER_KEY", "hush")
        assert main(run) == 0
        capsys.readouterr()
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "eval-scripted-set").iterdir())
    assert "hush" not in written and f"--server {server.url}" in written
    assert {path.name for path in (tmp_path / "eval-scripted-set").iterdir()} >= {"ledger.jsonl", "report.md"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["-m", "x.gguf"], "--model is about a model in this process, and --server names servers"),
        (["--demo"], "--demo is about a model in this process"),
        (["--side-car", "x"], "--side-car is about"),
        (["-c", "1000"], "--n-ctx is about"),
        (["-t", "3"], "--threads is about"),
        (["--lora", "x"], "--lora is about"),
        (["--mtp", "2"], "--mtp is about"),
        (["--chat-template", "x"], "--chat-template is for a model in this process"),
        (["--server-patience", "0"], "--server-patience must be a number above 0"),
        (["--server-key", "a\nb"], "--server-key must be printable ASCII"),
        (["--server", "http://x:y@h"], "pass the key with --server-key"),
        (["--server", "ftp://h"], "is not the address of a server"),
    ],
)
def test_what_does_not_go_together_is_one_line(more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in fail(capsys, [*ASK, "--server", "http://127.0.0.1:9", *more])


def test_without_any_model_servers_are_named_as_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--server URL" in fail(capsys, ASK)


def test_true_entropies_as_signals_are_refused_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"question": "Which?", "choices": ["a", "b"], "answer": "A"}), "utf-8")
    signal = "true_max_entropy"
    with ScriptedServer() as server:
        ask, where = [*ASK, "--server", server.url], ["--data", str(file), "--server", server.url]
        withhold = ["--abstain-above", "1", "--abstain-signal", signal]
        assert "needs the model in this process: servers tell none" in fail(capsys, [*ask, *withhold])
        assert "servers tell none" in fail(capsys, [*ask, "--mode", "auto", "--auto-signal", signal])
        evaluation = ["eval", *where, "--modes", "1,auto", "--auto-signal", signal]
        assert f"--auto-signal {signal} needs the model in this process" in fail(capsys, evaluation)
        assert not server.completions


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "http://127.0.0.1:9: cannot be reached (connection refused)" in fail(
        capsys, [*ASK, "--server", "http://127.0.0.1:9"], 1
    )


def test_train_head_wants_texts_and_the_same_model(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.txt"
    text.write_text("words " * 3000)
    with ScriptedServer() as server:
        run = ["train-head", "-m", str(tiny_llama), "-o", str(tmp_path / "head.gguf"), "--server", server.url]
        assert "pass --self-generate N" in fail(capsys, [*run, "--text", str(text)])
        assert f"{server.url}: runs another model than {tiny_llama}" in fail(capsys, [*run, "--self-generate", "2"])
        assert not server.completions


@pytest.mark.parametrize("when", ["at the start", "in an answer"])
def test_ctrl_c_ends_it_at_once_whatever_the_server_does(when: str) -> None:
    with ScriptedServer(failures=["silent"] * 50) as server:
        args = [*ASK, "--server", server.url]
        if when == "at the start":
            server.loading = 10**6
        with subprocess.Popen(
            [sys.executable, "-m", "darwin_neg_cpp", *args], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            end = time.monotonic() + 60
            while not (server.completions or (when == "at the start" and server.requests)):
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.01)
            time.sleep(0.2)
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            code = process.wait(20)
            seconds = time.monotonic() - begin
            assert process.stderr is not None
            assert (code, b"Traceback" in process.stderr.read()) == (130, False)
        # most of it is Python putting itself away, on cores that other tests keep busy
        assert seconds < 1.0 + 0.3 * os.getloadavg()[0]
