"""`darwin-neg serve` and `serve()`: what is refused before the server starts, how it ends, and what is loaded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import darwin_neg_cpp
import http_server
from darwin_neg_cpp import ModelFileError, RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.server import serve as room

Start = Callable[..., http_server.Server]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What llama-server would have been started with."""
    calls: list[list[str]] = []
    monkeypatch.setattr(room, "run_llama_server", lambda arguments: calls.append(list(arguments)) or 0)
    return calls


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_options_reach_the_server(asked: list[list[str]], server_models: http_server.Models, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a\n")
    words = ["serve", "-m", str(server_models.base), "--side-car", str(server_models.side_car), "--neg", "off"]
    words += ["--neg-threshold", "0.5", "--neg-top-k", "7", "--no-temp-scale", "--host", "localhost", "--port", "0"]
    words += ["--api-key-file", str(keys), "-c", "512", "--n-parallel", "2", "-t", "1", "-ngl", "0", "--mtp", "2"]
    words += ["--rpc", "a:1,b:2", "--max-queue", "5", "--lora", str(keys), "--", "--no-ui", "-fa", "off"]
    assert main(words) == 0
    (given,) = asked
    for flag, value in (
        ("-m", str(server_models.base)), ("--neg-file", str(server_models.side_car)), ("--neg", "off"),
        ("--neg-threshold", "0.5"), ("--neg-top-k", "7"), ("--host", "localhost"), ("--port", "0"), ("-c", "512"),
        ("--api-key-file", str(keys)), ("-np", "2"), ("-t", "1"), ("-ngl", "0"), ("--spec-type", "draft-mtp"),
        ("--spec-draft-n-max", "2"), ("--rpc", "a:1,b:2"), ("--max-queue", "5"), ("--lora", str(keys)),
        ("--ctx-checkpoints", "8"), ("--alias", "base"), ("--cache-ram", "2048"),
    ):  # fmt: skip
        assert value_of(given, flag) == value, flag
    assert "--no-temp-scale" in given and given[-3:] == ["--no-ui", "-fa", "off"]
    assert (Path(value_of(given, "--path")) / "index.html").is_file()


def test_a_model_may_stand_alone_and_raw_changes_nothing(
    asked: list[list[str]], server_models: http_server.Models
) -> None:
    assert main(["serve", str(server_models.base), "--port", "0", "--", "--no-ui"]) == 0
    assert value_of(asked[0], "-m") == str(server_models.base) and asked[0][-1] == "--no-ui"
    assert main(["serve", "--raw", "--port", "1", "-h", "--", "--raw"]) == 0
    assert asked[1] == ["--port", "1", "-h", "--", "--raw"]


def test_a_repository_is_fetched(asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, tiny_llama: Path) -> None:
    from darwin_neg_cpp import pretrained

    fetched: list[Any] = []

    def fetch(repo: str, **options: Any) -> tuple[str, None]:
        fetched.append((repo, options))
        return str(tiny_llama), None

    monkeypatch.setattr(pretrained, "fetch", fetch)
    assert main(["serve", "OWNER/NAME:Q4_K_M", "--port", "0"]) == 0
    assert fetched == [("OWNER/NAME:Q4_K_M", {"side_car": True})] and value_of(asked[0], "-m") == str(tiny_llama)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no model given; use --model FILE, or --demo to try the demo model"),
        (["-m", "nowhere.gguf"], "nowhere.gguf: is not a file"),
        (["-m", "MODEL", "--port", "70000"], "--port"),
        (["-m", "MODEL", "--n-parallel", "0"], "--n-parallel"),
        (["-m", "MODEL", "--side-car", "nowhere"], "--side-car must be a file, and nowhere is none"),
        (["-m", "MODEL", "--mmproj", "nowhere"], "--mmproj must be a file, and nowhere is none"),
        (["-m", "MODEL", "--host", "no.such.host.invalid"], "--host must be an address of this machine"),
        (["-m", "MODEL", "surplus"], "two models given, surplus and "),
        (["--demo", "-m", "MODEL"], "--demo brings its own model"),
        (["-m", "MODEL", "--no-such-option"], "--no-such-option"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    said: str,
    server_models: http_server.Models,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(server_models.base) if word == "MODEL" else word for word in words]
    try:
        code = main(["serve", *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_a_port_in_use_is_named(server_models: http_server.Models) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(RequestError, match=f"port must be free, and {port} is in use on 127.0.0.1"):
            darwin_neg_cpp.serve(server_models.base, port=port)


def test_a_missing_model_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is not a file"):
        darwin_neg_cpp.serve(tmp_path / "model.gguf")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_it_cleanly(server_models: http_server.Models, sent: signal.Signals, code: int) -> None:
    options = ["-m", server_models.neg, "-c", "256", "-t", "1", "--", "--no-warmup"]
    with http_server.Server(*options, verb=("serve",)) as server:
        assert server.get("/").status == 200 and "<html" in server.get("/").text
        assert server.ok("/v1/completions", {"prompt": "a", "max_tokens": 4})["usage"]["completion_tokens"] > 0
        server.process.send_signal(sent)
        assert server.process.wait(30) == code


def test_one_copy_of_ggml_and_none_of_the_server_until_it_is_asked_for() -> None:
    program = (
        "import darwin_neg_cpp, darwin_neg_cpp._core\n"
        "def mapped(): return sorted({l.split('/')[-1].strip() for l in open('/proc/self/maps') if '.so' in l})\n"
        "before = mapped()\n"
        "assert not [n for n in before if 'server' in n or 'mtmd' in n], before\n"
        "import darwin_neg_cpp._server\n"
        "after = mapped()\n"
        "assert [n for n in after if '_server' in n], after\n"
        "print([n for n in after if 'ggml' in n])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("ggml-base") == run.stdout.count("ggml-cpu") == 1 and "libggml" not in run.stdout
    assert os.name != "posix" or "darwin-neg-ggml" in run.stdout
