"""`batch --ray` on a real cluster of this machine, whose nodes come and go while it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import darwin_neg_cpp
from conftest import TESTS
from tiny_gguf import write_tiny_llama

LINES = [
    {"id": k, "prompt": f"{'abcdefgh'[k % 8]} number {k}", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    for k in range(200)
]
# F32 throughout, so that an answer does not depend on what else a step holds
EXACT = ["-t", "1", "-c", "512", "--n-parallel", "2", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-prefix-cache"]
CLI = [sys.executable, "-m", "darwin_neg_cpp", "batch"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that takes no work; tests add the nodes."""
    from ray.cluster_utils import Cluster

    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    paths = [str(Path(darwin_neg_cpp.__file__).parents[1]), *filter(None, [before["PYTHONPATH"]])]
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), RAY_USAGE_STATS_ENABLED="0")
    memory = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    yield made
    made.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


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


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=80 << 20)


@pytest.mark.slow
def test_nodes_that_die_and_join_in_the_middle_change_no_answer(
    cluster: Any, prompts: Path, model: Path, expected: dict[int, str], tmp_path: Path
) -> None:
    out = tmp_path / "ray.jsonl"
    first, second = add_node(cluster), add_node(cluster)
    with start(cluster, prompts, out, model) as process:
        wait_for(out, 40, process)
        cluster.remove_node(first, allow_graceful=False)
        killed_at = out.read_bytes().count(b"\n")
        wait_for(out, killed_at + 20, process)
        third = add_node(cluster)
        said = process.communicate(timeout=120)[1]
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
        said = process.communicate(timeout=120)[1]
    assert said.endswith(f"200 answers in {begun}, 190 of them from before\n"), said
    assert texts(begun) == expected
    # a model that no node has is one line
    with start(cluster, prompts, tmp_path / "no.jsonl", tmp_path / "missing.gguf") as process:
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith("darwin-neg: error: ") and "missing.gguf: no such file" in said
    for node in (second, third):
        cluster.remove_node(node, allow_graceful=False)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "--ray 127.0.0.1:1 cannot be reached"),
        ("here", '--ray must be HOST:PORT or "auto", got here'),
        ("127.0.0.1:x", "--ray 127.0.0.1:x cannot be reached"),
    ],
)
def test_an_address_where_no_cluster_is_is_one_line_at_once(
    prompts: Path, model: Path, tmp_path: Path, address: str, said: str
) -> None:
    words = [*CLI, str(prompts), "-o", str(tmp_path / "a.jsonl"), "-m", str(model), "--ray", address]
    result = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"darwin-neg: error: {said}")


def test_ray_is_imported_with_its_option_alone(prompts: Path, model: Path, tmp_path: Path) -> None:
    """Here it cannot be imported at all."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('not here')\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(darwin_neg_cpp.__file__).parents[1]), str(TESTS)])
    few = tmp_path / "few.jsonl"
    few.write_text("".join(prompts.read_text("utf-8").splitlines(keepends=True)[:2]), "utf-8")
    words = [*CLI, str(few), "-o", str(tmp_path / "a.jsonl"), "-m", str(model), *EXACT]
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    refused = subprocess.run([*words, "--ray", "auto"], env=environment, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "darwin-neg: error: Ray is not installed; run `pip install 'darwin-neg-cpp[ray]'`\n"
