"""`batch --ray` on a real cluster of this machine, whose nodes come and go while it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_gguf import write_tiny_llama

LINES = [
    {"id": k, "prompt": f"{'abcdefgh'[k % 8]} number {k}", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    for k in range(200)
]
# F32 throughout, so that an answer does not depend on what else a step holds
EXACT = ["-t", "1", "-c", "512", "--n-parallel", "2", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-prefix-cache"]
CLI = [sys.executable, "-m", "darwin_neg_cpp", "batch"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES), "utf-8")
    return path


@pytest.fixture(scope="module")
def expected(model: Path, prompts: Path) -> dict[int, str]:
    """The answers of one machine."""
    out = prompts.with_name("one.jsonl")
    subprocess.run([*CLI, str(prompts), "-o", str(out), "-m", str(model), *EXACT], check=True, capture_output=True)
    found = texts(out)
    assert set(found) == set(range(200)) and len(set(found.values())) > 100
    return found


def texts(path: Path) -> dict[int, str]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert max(Counter(line["custom_id"] for line in lines).values()) == 1, "nothing twice"
    assert [line["error"] for line in lines] == [None] * len(lines)
    return {line["custom_id"]: line["response"]["body"]["choices"][0]["text"] for line in lines}


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    while (path.read_bytes().count(b"\n") if path.exists() else 0) < lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def start(cluster: Any, prompts: Path, out: Path, model: Path) -> subprocess.Popen[str]:
    words = [*CLI, str(prompts), "-o", str(out), "-m", str(model), *EXACT, "--ray", cluster.address]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_nodes_that_die_and_join_in_the_middle_change_no_answer(
    cluster: Any,
    add_node: Callable[[], Any],
    prompts: Path,
    model: Path,
    expected: dict[int, str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "ray.jsonl"
    first, _ = add_node(), add_node()
    with start(cluster, prompts, out, model) as process:
        wait_for(out, 40, process)
        killed_at = out.read_bytes().count(b"\n")
        cluster.remove_node(first, allow_graceful=False)
        add_node()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert 40 <= killed_at < 200
    assert texts(out) == expected
    assert said.endswith(f"200 answers in {out}\n")
    # what one machine began, a cluster resumes, and has the same settings
    lines = prompts.with_name("one.jsonl").read_bytes().splitlines(keepends=True)
    begun = tmp_path / "begun.jsonl"
    begun.write_bytes(b"".join(lines[:190]))
    settings = prompts.with_name("one.jsonl.settings.json").read_bytes()
    begun.with_name("begun.jsonl.settings.json").write_bytes(settings)
    with start(cluster, prompts, begun, model) as process:
        said = process.communicate(timeout=300)[1]
    assert said.endswith(f"200 answers in {begun}, 190 of them from before\n"), said
    assert texts(begun) == expected
    # a model that no node has is one line
    with start(cluster, prompts, tmp_path / "no.jsonl", tmp_path / "missing.gguf") as process:
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert said.startswith("darwin-neg: error: node ") and "missing.gguf: no such file" in said
    assert said.count("\n") == 1
