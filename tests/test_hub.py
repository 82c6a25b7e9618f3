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
from darwin_neg_cpp.errors import DarwinNegError, RequestError
from darwin_neg_cpp.pretrained import fetch
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


SNAPSHOT = "hub.snapshot(repository, ['*'])"


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ({"silent": {"tree"}}, SNAPSHOT),
        ({"silent": {"HEAD weights.bin"}}, SNAPSHOT),
        ({"silent": {"HEAD weights.bin"}}, "hub.download(repository, 'weights.bin')"),
        ({"stalled": {"weights.bin"}}, SNAPSHOT),
    ],
    ids=["list", "size in a snapshot", "size", "middle of a file"],
)
def test_a_hub_that_falls_silent_later_is_an_error_too(folder, tmp_path, what, call):
    code = f"""
from darwin_neg_cpp import hub
repository = hub.look_up({REPO!r})
{call}
"""
    with Hub(REPO, folder, **what) as server:
        result = python(code, server.url, tmp_path / "hf", HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HUB_ETAG_TIMEOUT="1")
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and f"DarwinNegError: {REPO}: cannot be downloaded" in last, result.stderr


def test_a_silent_storage_of_large_files_is_an_error_too(folder, tmp_path, silent_server):
    (folder / "weights.xet").write_bytes(bytes(1000))
    code = f"""
import os
from darwin_neg_cpp import hub
from darwin_neg_cpp.errors import DarwinNegError
before = dict(os.environ)
repository = hub.look_up({REPO!r})
try:
    hub.download(repository, "weights.xet")
except DarwinNegError as error:
    print(error)
assert dict(os.environ) == before
"""
    limits = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_XET": "0"}
    limits["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"] = "1"  # its own variables count before ours
    with Hub(REPO, folder, storage=silent_server) as server:
        result = python(code, server.url, tmp_path / "hf", **limits)
    assert result.stdout.startswith(f"{REPO}: cannot be downloaded"), result.stdout + result.stderr


def test_a_host_that_does_not_answer_is_not_asked_for_ever(monkeypatch):
    """Many files are downloaded after each other: a silent host must not cost a time-out for each."""
    import huggingface_hub.constants
    from huggingface_hub.utils import get_session

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        took = []
        with pytest.raises(DarwinNegError, match=r"127\.0\.0\.1:\d+ does not answer"), hub.errors_about("a/b"):
            for name in range(9):
                begin = time.monotonic()
                try:
                    get_session().get(f"{url}/{name}", timeout=60)
                except Exception as error:
                    if "does not answer" in str(error):
                        raise
                took.append(time.monotonic() - begin)
    assert 1 <= len(took) <= 3 and max(took) < 5


def test_time_outs_end_with_the_call(folder, tmp_path):
    code = f"""
import threading
from huggingface_hub.utils import _http, close_session, get_session
from darwin_neg_cpp import hub
from darwin_neg_cpp.hub.sessions import TIME_OUTS

def state():
    return _http._GLOBAL_CLIENT_FACTORY, vars(get_session()).get("send")

before = state()
assert before[1] is None
with hub.errors_about("a/b"):
    assert state()[1] is not None
    close_session()  # as huggingface_hub does after an error
    assert state()[1] is not None
    with hub.errors_about("a/c"):
        pass
    assert state()[1] is not None
repository = hub.look_up({REPO!r})
hub.snapshot(repository, ["*"])
assert state() == before
print("as before")
"""
    with Hub(REPO, folder) as server:
        result = python(code, server.url, tmp_path / "hf")
    assert result.stdout == "as before\n", result.stderr


def test_what_is_there_is_not_asked_for_again(folder, tmp_path):
    code = f"""
from darwin_neg_cpp import hub
print(hub.snapshot(hub.look_up({REPO!r}), ["*.bin", "*.json"]))
"""
    with Hub(REPO, folder) as server:
        first = python(code, server.url, tmp_path / "hf")
        before = len(server.requests)
        again = python(code, server.url, tmp_path / "hf")
        assert again.returncode == 0 and again.stdout == first.stdout, again.stderr
        assert [path for _, path, _, _ in server.requests[before:]] == [f"/api/models/{REPO}/revision/main"]
        # a file that has gone is fetched
        (Path(first.stdout.strip()) / "weights.bin").unlink()
        assert python(code, server.url, tmp_path / "hf").stdout == first.stdout
        assert (Path(first.stdout.strip()) / "weights.bin").exists()


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["no network", "offline"])
def test_without_network_the_error_comes_at_once(tmp_path, environment):
    """The time of Python's own start, which is long on a busy machine, is not counted."""
    code = """
import time
import huggingface_hub, huggingface_hub.utils, huggingface_hub.hf_api
from darwin_neg_cpp import hub
from darwin_neg_cpp.eval import gpqa_hub
from darwin_neg_cpp.pretrained import fetch
from darwin_neg_cpp.convert import source
from darwin_neg_cpp.errors import DarwinNegError, RequestError
for call in (lambda: fetch("a/b"), lambda: fetch("a/b", file="x.gguf"), lambda: source.find("a/b"), gpqa_hub.fetch):
    begin = time.monotonic()
    try:
        call()
    except DarwinNegError as error:
        assert time.monotonic() - begin < 3, "too slow"
        print(error)
"""
    result = python(code, "http://127.0.0.1:9", tmp_path / "hf", **environment)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 4, result.stderr
    said = "unset HF_HUB_OFFLINE to download it" if environment else "check the name, the network"
    assert all("cannot be downloaded" in line and said in line for line in lines), lines


@pytest.mark.parametrize(
    ("text", "given", "found"),
    [
        ("a/b", {}, ("a/b", None, None, None)),
        ("a/b:Q4_K_M", {}, ("a/b", "Q4_K_M", None, None)),
        ("a/b:q4_k_m", {"quant": "Q4_K_M"}, ("a/b", "Q4_K_M", None, None)),
        ("a/b:latest", {}, ("a/b", None, None, None)),
        ("hf.co/a/b:IQ2_XS", {}, ("a/b", "IQ2_XS", None, None)),
        ("https://huggingface.co/a/b", {"quant": "*q4*"}, ("a/b", "*q4*", None, None)),
        ("https://huggingface.co/a/b/tree/main", {}, ("a/b", None, None, None)),
        ("https://huggingface.co/a/b/tree/v1.0/sub", {}, ("a/b", None, None, "v1.0")),
        ("https://huggingface.co/a/b/blob/main/x/m%20Q4.gguf", {}, ("a/b", None, "x/m Q4.gguf", None)),
        ("https://huggingface.co/a/b/resolve/0f/m.gguf?download=true", {}, ("a/b", None, "m.gguf", "0f")),
        ("huggingface.co/a/b/", {}, ("a/b", None, None, None)),
        ("HTTPS://HuggingFace.co/a/b", {}, ("a/b", None, None, None)),
        ("https://huggingface.co/a/b/commit/0f", {}, ("a/b", None, None, "0f")),
        ("hf://a/b", {}, ("a/b", None, None, None)),
        (" a/b/ ", {}, ("a/b", None, None, None)),
    ],
)
def test_a_repository_is_named_as_users_name_it(text, given, found):
    address = hub.read_address(text, **given)
    assert (address.repo, address.quant, address.file, address.revision) == found


@pytest.mark.parametrize(
    "text",
    [*("", " ", "/a/b", "./a/b", "../a/b", "a/b/c", "a/b@main", "a b/c", "a/b:", "C:\\m.gguf", "git@hf.co:a/b"),
     *("https://example.com/a/b", "https://huggingface.co/datasets/a/b", "https://huggingface.co/spaces/a/b")],
)  # fmt: skip
def test_what_names_no_repository_is_not_blamed_on_the_network(text):
    with pytest.raises(RequestError, match="is not the name of a model's repository; write OWNER/NAME") as caught:
        fetch(text)
    assert str(caught.value).startswith(text.strip() or "an empty text")


def test_two_names_for_one_thing_are_refused():
    with pytest.raises(RequestError, match="quant is Q8_0, and a/b:Q4_0 names Q4_0; give one of the two"):
        hub.read_address("a/b:Q4_0", quant="Q8_0")
    with pytest.raises(RequestError, match="revision is v2"):
        hub.read_address("https://huggingface.co/a/b/tree/v1", revision="v2")


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
