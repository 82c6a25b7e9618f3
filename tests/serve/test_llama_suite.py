"""llama.cpp's own tests of its server: what passes on a build without the patch passes on `darwin-neg serve`.

They are run as they are, offline, with a tiny model in the place of the one that they name. Its text is random, so that
what looks for words of a story fails for both; what looks at the API, which is most, passes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_gguf
from conftest import PIN, made
from http_server import TEMPLATE
from oracles import stock
from tiny_gguf import write_tiny_llama

# of the repository that the tests name, as a hub's cache holds it
COMMIT = "0" * 40
MODEL = f"models--ggml-org--test-model-stories260K/snapshots/{COMMIT}/stories260K-F32.gguf"
# other models, pictures, other programs that a server starts, or more than ten seconds
LEFT_OUT = (
    "embedding", "rerank", "lora", "speculative", "vision_api", "router", "sleep", "infill", "compat_gcp",
    "mcp_servers",
)  # fmt: skip
LEAST = 120  # that pass on both

# a plug-in of pytest's; the tests would begin with downloads of every model
RECORD = """
import utils

utils.ServerPreset.load_all = staticmethod(lambda: None)

def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        with open({out!r}, "a") as file:
            file.write(report.nodeid + "\\n")
"""


def passed(program: list[str], folder: Path, tree: Path) -> set[str]:
    """The tests that pass on a server. folder: empty, for what is written on the way."""
    tests = folder / "tools" / "server" / "tests"
    shutil.copytree(tree / "tools" / "server" / "tests", tests)
    (folder / "models").symlink_to(tree / "models")
    model = folder / "cache" / MODEL
    model.parent.mkdir(parents=True)
    (model.parents[2] / "refs").mkdir()
    (model.parents[2] / "refs" / "main").write_text(COMMIT)
    write_tiny_llama(model, chat_template=TEMPLATE)
    binary = folder / "llama-server"
    binary.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    binary.chmod(0o755)
    (folder / "record.py").write_text(RECORD.format(out=str(folder / "passed")))
    environment = {
        **os.environ,
        "LLAMA_SERVER_BIN_PATH": str(binary),
        "LLAMA_CACHE": str(folder / "cache"),
        "LLAMA_ARG_OFFLINE": "1",
        "LLAMA_ARG_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(folder), str(tests), *sys.path]),
    }
    command = [sys.executable, "-m", "pytest", "-p", "record", "-q", "-p", "no:cacheprovider", "-m", "not slow", "unit"]
    command += [f"--ignore=unit/test_{name}.py" for name in LEFT_OUT]
    if (
        shutil.which("unshare")
        and subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        # a network of its own: no other, and no clash of the ports that it is fixed to
        command = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command]
    run = subprocess.run(command, cwd=tests, env=environment, capture_output=True, text=True, check=False, timeout=1000)
    assert run.returncode in (0, 1), run.stdout[-3000:] + run.stderr[-3000:]
    return set((folder / "passed").read_text().split("\n")[:-1])


@pytest.mark.slow
def test_what_passes_on_a_stock_server_passes_on_ours(llama_tree: Path, tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        found = passed([stock.server()], folder / "run", llama_tree)
        (folder / "passed").write_text("\n".join(sorted(found)))
        shutil.rmtree(folder / "run")

    recorded = made("server-suite", make, Path(__file__), Path(tiny_gguf.__file__), PIN)
    wanted = set((recorded / "passed").read_text().split("\n"))
    assert len(wanted) >= LEAST
    ours = passed([sys.executable, "-m", "darwin_neg_cpp", "serve", "--raw"], tmp_path / "run", llama_tree)
    assert wanted - ours == set()
