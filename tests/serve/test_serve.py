"""`darwin-neg serve` and `serve()`: what is refused before the server starts, how it ends, and what is loaded."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import darwin_neg_cpp
import http_server
from darwin_neg_cpp import ModelFileError, RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.server import process
from darwin_neg_cpp.server.serve import page_url
from waiting import wait_until

Start = Callable[..., http_server.Server]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What llama-server would have been started with."""
    calls: list[list[str]] = []
    monkeypatch.setattr(process, "run_llama_server", lambda arguments: calls.append(list(arguments)) or 0)
    return calls


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_options_reach_the_server(
    asked: list[list[str]], server_models: http_server.Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a\n")
    words = ["serve", "-m", str(server_models.base), "--side-car", str(server_models.side_car), "--neg", "off"]
    words += ["--neg-threshold", "0.5", "--neg-top-k", "7", "--temp-scale", "--host", "localhost", "--port", "0"]
    words += ["--api-key-file", str(keys), "-c", "512", "--n-parallel", "2", "-t", "1", "-ngl", "0", "--mtp", "2"]
    monkeypatch.setattr(process, "check_rpc_servers_answer", lambda servers: None)
    words += ["--rpc", "a:1,b:2", "--max-queue", "5", "--lora", str(keys), "--", "--no-ui", "-fa", "off"]
    assert main(words) == 0
    (given,) = asked
    for flag, value in (
        ("-m", str(server_models.base)), ("--neg-file", str(server_models.side_car)), ("--neg", "off"),
        ("--neg-threshold", "0.5"), ("--neg-top-k", "7"), ("--host", "localhost"), ("-c", "512"),
        ("--api-key-file", str(keys)), ("-np", "2"), ("-t", "1"), ("-ngl", "0"), ("--spec-type", "draft-mtp"),
        ("--spec-draft-n-max", "2"), ("--rpc", "a:1,b:2"), ("--max-queue", "5"), ("--lora", str(keys)),
        ("--cors-origins", "localhost"), ("--ctx-checkpoints", "8"), ("--alias", "base"), ("--cache-ram", "2048"),
    ):  # fmt: skip
        assert value_of(given, flag) == value, flag
    assert "--temp-scale" in given and int(value_of(given, "--port")) > 0, "a free one for 0"
    assert given[-3:] == ["--no-ui", "-fa", "off"]
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
        (["-m", "MODEL", "--", "--tools", "all"], "--tools lets clients start programs on this machine; leave it out"),
        (["-m", "MODEL", "--", "--mcp_servers_json", "{}"], "--mcp_servers_json lets clients start programs"),
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


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [("127.0.0.1", 80, "http://127.0.0.1:80"), ("0.0.0.0", 80, "http://127.0.0.1:80"), ("::", 80, "http://[::1]:80"),
     ("::1", 80, "http://[::1]:80"), ("localhost", 80, "http://localhost:80")],
)  # fmt: skip
def test_the_page_is_opened_where_it_is(host: str, port: int, url: str) -> None:
    assert page_url(host, port) == url


def test_open_waits_for_the_server_on_the_port_it_has(
    server_models: http_server.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a server that is ready after a second, in the place of the real one."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)

    def run(arguments: list[str]) -> int:
        time.sleep(1)
        address = ("127.0.0.1", int(value_of(arguments, "--port")))
        with http.server.ThreadingHTTPServer(address, Healthy) as there:
            threading.Thread(target=there.serve_forever, daemon=True).start()
            wait_until(lambda: bool(opened))
            there.shutdown()
        assert opened == [f"http://127.0.0.1:{address[1]}/"]
        return 0

    monkeypatch.setattr(process, "run_llama_server", run)
    assert main(["serve", str(server_models.base), "--port", "0", "--open"]) == 0


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("words", "warned"),
    [(["--host", "0.0.0.0"], True), (["--host", "::"], True), (["--host", "localhost"], False), ([], False),
     (["--host", "0.0.0.0", "--api-key", "k"], False), (["--host", "0.0.0.0", "--", "--api-key", "k"], False)],
)  # fmt: skip
def test_a_server_that_others_can_use_without_a_key_says_so(
    asked: list[list[str]], server_models: http_server.Models, words: list[str], warned: bool, caplog: Any
) -> None:
    assert main(["serve", "-m", str(server_models.base), "--port", "0", *words]) == 0
    assert any("no API key is asked for" in record.getMessage() for record in caplog.records) == warned


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


def test_raw_without_a_model_is_llama_servers_router(tmp_path: Path) -> None:
    """It starts a server for each model: this package again, though the program that runs is Python."""
    folder = tmp_path / "models"
    folder.mkdir()
    model = http_server.write_models(tmp_path).neg
    model.rename(folder / "one.gguf")
    with http_server.Server("--models-dir", folder, "-c", 256, "-t", 1, "--no-warmup") as server:
        request = {"model": "one", "prompt": "a", "max_tokens": 4, "return_neg": True, "ignore_eos": True}
        assert len(server.ok("/v1/completions", request)["choices"][0]["neg"]["entropy"]) == 4
        assert server.close() == 0


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
