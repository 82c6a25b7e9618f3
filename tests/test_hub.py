"""The client of the hub: one request for names and commit, time-outs, and nothing left changed in huggingface_hub."""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path

import pytest

from conftest import ROOT
from darwin_neg_cpp import hub
from darwin_neg_cpp.errors import DarwinNegError
from hub_child import SECONDS, python
from oracles.hub_server import COMMIT, Hub

REPO = "some-lab/model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "weights.bin").write_bytes(bytes(range(256)) * 16)
    return path


@pytest.fixture
def silent_server():
    """Takes connections, and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_names_and_commit_come_from_one_request(folder, tmp_path):
    code = f"""
from darwin_neg_cpp import hub
repository = hub.look_up({REPO!r})
print(repository.commit, *sorted(repository.names), repository.folder, repository.notes)
"""
    with Hub(REPO, folder) as server:
        result = python(code, server.url, tmp_path / "hf")
        assert result.stdout.split() == [COMMIT, "config.json", "weights.bin", "None", "()"], result.stderr
        assert [path for _, path, _, _ in server.requests if REPO in path] == [f"/api/models/{REPO}/revision/main"]


def test_an_earlier_download_answers_without_network(folder, tmp_path):
    code = f"""
from darwin_neg_cpp import hub
repository = hub.look_up({REPO!r})
print(repository.commit, *sorted(repository.names), len(repository.notes))
print(hub.download(repository, "config.json").read_text())
"""
    with Hub(REPO, folder) as server:
        first = python(code, server.url, tmp_path / "hf")
    assert first.stdout.split() == [COMMIT, "config.json", "weights.bin", "0", "{}"], first.stderr
    for env, notes in (({}, "1"), ({"HF_HUB_OFFLINE": "1"}, "0")):
        again = python(code, server.url, tmp_path / "hf", **env)
        assert again.stdout.split() == [COMMIT, "config.json", notes, "{}"], again.stderr


def test_a_range_is_what_the_file_holds_there(folder, tmp_path):
    code = f"""
from darwin_neg_cpp import hub
repository = hub.look_up({REPO!r})
for begin, end in ((0, 10), (300, 301), (4000, 9999)):
    data, size = hub.read_range(repository, "weights.bin", begin, end)
    print(data.hex(), size)
"""
    with Hub(REPO, folder) as server:
        result = python(code, server.url, tmp_path / "hf")
    data = (folder / "weights.bin").read_bytes()
    expected = [f"{data[begin:end].hex()} {len(data)}" for begin, end in ((0, 10), (300, 301), (4000, 9999))]
    assert result.stdout.splitlines() == expected, result.stderr


def test_a_silent_hub_is_an_error_within_the_time_out(silent_server, tmp_path):
    convert = str(ROOT / "convert" / "convert_to_gguf.py")
    for code in (
        f"from darwin_neg_cpp import hub; hub.look_up({REPO!r})",
        f"from darwin_neg_cpp.pretrained import fetch; fetch({REPO!r})",
        f"import runpy, sys; sys.argv = ['c', {REPO!r}, '--dry-run']; runpy.run_path({convert!r}, run_name='__main__')",
    ):
        begin = time.monotonic()
        result = python(code, silent_server, tmp_path / "hf")
        took = time.monotonic() - begin
        line = result.stderr.splitlines()[-1]
        assert result.returncode == 1 and f"{REPO}: cannot be downloaded" in line and "check the name" in line
        assert took < SECONDS + 15, "it waited for longer than a start and the time-out take"


def test_a_file_that_is_never_sent_is_an_error_within_the_time_out(folder, tmp_path):
    code = f"""
from darwin_neg_cpp import hub
hub.read_range(hub.look_up({REPO!r}), "weights.bin", 0, 10)
"""
    with Hub(REPO, folder, silent={"weights.bin"}) as server:
        begin = time.monotonic()
        result = python(code, server.url, tmp_path / "hf")
        took = time.monotonic() - begin
    assert result.returncode == 1 and "cannot be downloaded" in result.stderr.splitlines()[-1]
    assert took < SECONDS + 15


def test_a_download_leaves_progress_bars_and_loggers_as_they_were(folder, tmp_path):
    code = f"""
import logging
import huggingface_hub.utils.logging  # sets up the logger
from huggingface_hub.utils import are_progress_bars_disabled
from darwin_neg_cpp import hub
logger = logging.getLogger("huggingface_hub")
before = are_progress_bars_disabled(), logger.level, [handler.filters for handler in logger.handlers]
hub.snapshot(hub.look_up({REPO!r}), ["*"])
assert (are_progress_bars_disabled(), logger.level, [handler.filters for handler in logger.handlers]) == before
print("as before")
"""
    with Hub(REPO, folder) as server:
        result = python(code, server.url, tmp_path / "hf")
    assert result.stdout == "as before\n", result.stderr
    assert result.stderr == "", "a bar was drawn although standard error is not a terminal"


def test_overlapping_calls_keep_warnings_back_and_restore_everything(monkeypatch):
    import huggingface_hub.utils.logging  # noqa: F401 (sets up the logger)

    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("huggingface_hub")
    below = logging.getLogger("huggingface_hub.utils._http")
    handler = Handler()
    monkeypatch.setattr(logger, "handlers", [handler])
    level = logger.level
    started, leave = threading.Event(), threading.Event()

    def first() -> None:
        with hub.errors_about("a/b"):
            started.set()
            assert leave.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(30)
    with pytest.raises(DarwinNegError, match="a/c: cannot be downloaded: no answer"), hub.errors_about("a/c"):
        leave.set()
        thread.join()  # the call that began first ends first
        below.warning("attempt 1 failed")
        below.error("a real error")
        raise ConnectionError("no answer")
    below.warning("of somebody else")
    assert lines == ["a real error", "of somebody else"]
    assert logger.level == level and handler.filters == []
