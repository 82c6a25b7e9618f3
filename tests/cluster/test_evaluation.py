"""`eval --ray` on a real cluster of this machine: the ledger is that of one machine, whatever the nodes do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from darwin_neg_cpp.cluster.connect import open_cluster
from darwin_neg_cpp.cluster.evaluation import ClusterModel, Look
from darwin_neg_cpp.cluster.worker import Loading
from darwin_neg_cpp.protocols import ModeConfig
from darwin_neg_cpp.protocols.sampler import Job
from handmade import good_side_car
from tiny_gguf import write_tiny_llama

QUESTIONS = ROOT / "examples" / "questions.csv"
# one sequence at a time, and every candidate to its end: what is in a batch, and who is first, cannot change a bit then
STEADY = ["--n-parallel", "1", "--threads", "1", "--full"]
SMALL = ["--prompt", "direct", "-n", "20", "--samples", "1", "--second-opinions", "2", "--orderings", "2"]
LIMIT = 12
PROTOCOLS = 6  # four modes and the controls of two


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a tiny random model with a head."""
    folder = tmp_path_factory.mktemp("model")
    path = write_tiny_llama(folder / "tiny.gguf")
    return ["-m", str(path), "--side-car", str(good_side_car(folder / "tiny.neg.gguf", path))]


def command(model: list[str], out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "darwin_neg_cpp", "eval", "gpqa", *model, "--data", str(QUESTIONS), "-o", str(out)]
    return [*words, "--limit", str(LIMIT), *STEADY, *SMALL, *more]


@pytest.fixture(scope="module")
def expected(model: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of one machine."""
    out = tmp_path_factory.mktemp("one") / "out"
    subprocess.run(command(model, out), check=True, capture_output=True)
    assert len(read(out)[0]) == LIMIT * PROTOCOLS
    return out


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ledger's answers in the order of the questions without times, and its calls."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").splitlines()]
    answers = [{k: v for k, v in one.items() if k not in ("seconds", "at")} for one in lines if "protocol" in one]
    return sorted(answers, key=lambda one: (one["n"], one["protocol"])), [one["call"] for one in lines if "call" in one]


def wait_for(folder: Path, answers: int, process: subprocess.Popen[str]) -> int:
    """Returns the number of answers that there are."""
    ledger = folder / "ledger.jsonl"
    while (found := ledger.read_bytes().count(b'\n{"n":') if ledger.exists() else 0) < answers:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    return found


def check_calls(calls: list[dict[str, Any]]) -> None:
    keys = [(call["number"], call["protocol"], call["seed"], call["sample"]) for call in calls]
    assert len(set(keys)) == len(keys) > 0, "no call twice"


@pytest.mark.slow
def test_nodes_that_die_and_join_change_no_candidate(
    cluster: Any, add_node: Callable[[], Any], model: list[str], expected: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, _ = add_node(), add_node()
    ray = ["--ray", cluster.address]
    with subprocess.Popen(command(model, out, *ray), stderr=subprocess.PIPE, text=True) as process:
        wait_for(out, 5, process)
        cluster.remove_node(first, allow_graceful=False)
        killed_at = wait_for(out, 5, process)
        add_node()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert 5 <= killed_at < LIMIT * PROTOCOLS, "in the middle"
    answers, calls = read(out)
    assert answers == read(expected)[0]
    check_calls(calls)
    reports = [json.loads((folder / "report.json").read_text("utf-8")) for folder in (out, expected)]
    for report in reports:
        del report["timing"], report["commands"]
    assert reports[0] == reports[1]
    # what one machine began, a cluster resumes with the same settings
    begun = tmp_path / "begun"
    begun.mkdir()
    lines = (expected / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (begun / "ledger.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    with subprocess.Popen(command(model, begun, *ray), stderr=subprocess.PIPE, text=True) as process:
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and said == "", said
    assert read(begun)[0] == answers
    check_calls(read(begun)[1])
    # a question that does not fit is named before anything runs, which a node has to count
    words = command(model, tmp_path / "no", *ray, "-c", "200")
    result = subprocess.run(words, check=False, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "needs about" in result.stderr and "raise --n-ctx" in result.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_node_whose_file_differs_is_left_out_with_one_line(
    cluster: Any, add_node: Callable[[], Any], model: list[str], tmp_path: Path
) -> None:
    """The path is the same, but something else lies there from when the second node joins."""
    mine = tmp_path / "tiny.gguf"
    mine.write_bytes(Path(model[1]).read_bytes())
    said: list[str] = []
    add_node()
    loading = Loading(str(mine), None, {"n_ctx": 512, "n_parallel": 2, "n_threads": 1}, Look())
    with open_cluster(cluster.address, loading, warn=said.append) as opened:
        source = ClusterModel(opened)
        assert source.info == {"n_ctx": 512, "n_parallel": 2} and source.neg is None
        os.replace(write_tiny_llama(tmp_path / "other.gguf", seed=1), mine)
        add_node()
        job = Job("x" * 600, (0.0,), 0, False, ModeConfig())
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            assert source.count_tokens(job) == 601  # on the first node, as it does not fit; with the start token
        assert source.info["n_parallel"] == 2
    (line,) = said
    assert re.fullmatch(r"node \S+: has another model or version \(model\.sha256 was \w+\.\.\., is \w+\.\.\.\)", line)
