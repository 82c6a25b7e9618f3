"""`train-head --ray` on a real cluster of this machine: the head is that of one machine, bit for bit."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.cluster.capture import ClusterScorer, look
from darwin_neg_cpp.cluster.connect import open_cluster
from darwin_neg_cpp.cluster.worker import Loading
from darwin_neg_cpp.engine import scoring
from darwin_neg_cpp.training.capture import Rows, capture
from tiny_gguf import write_tiny_llama
from training_runs import CLI, OUTPUTS, write_texts

TRAINING = ["--epochs", "2", "--reduced", "8", "--max-tokens", "100000", "-t", "1", "--seed", "3"]
GROUPS = 9  # of the training part


def command(model: Path, texts: Sequence[Path], out: Path, *more: str) -> list[str]:
    words = ["train-head", "-m", str(model), "--text", *map(str, texts), "-o", str(out / "head.gguf")]
    return [*words, *TRAINING, *more]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


def captured(index: Path, otherwise: int) -> int:
    """Groups that are in the files."""
    try:
        return len(json.loads(index.read_text("utf-8"))["done"])
    except OSError:
        return otherwise


@pytest.mark.slow
def test_nodes_that_die_and_join_give_the_head_of_one_machine(
    cluster: Any, add_node: Callable[[], Any], model: Path, tmp_path: Path
) -> None:
    texts = write_texts(tmp_path, 40, words=550)
    (one := tmp_path / "one").mkdir()
    (many := tmp_path / "many").mkdir()
    assert main(command(model, texts, one)) == 0
    first, _ = add_node(), add_node()
    index = many / "head.work" / "train.json"
    words = [*CLI, *command(model, texts, many, "--ray", cluster.address)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not captured(index, otherwise=0):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        cluster.remove_node(first, allow_graceful=False)
        killed_at = captured(index, otherwise=GROUPS)
        add_node()
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert 1 <= killed_at < GROUPS, "in the middle"
    for name in OUTPUTS:
        mine, theirs = (folder / name for folder in (many, one))
        if name.endswith(("json", "md")):  # they hold the command
            found, wanted = (
                path.read_text("utf-8").replace(f" --ray {cluster.address}", "") for path in (mine, theirs)
            )
            assert found == wanted, name
        else:
            assert mine.read_bytes() == theirs.read_bytes(), name
    # nodes that have another model than this process are one line
    other = write_tiny_llama(tmp_path / "other.gguf", seed=1)
    loading = Loading(str(other), None, {"n_ctx": 512, "n_parallel": 2, "n_threads": 1}, look)
    with (
        DarwinNEG(model, n_ctx=512, n_parallel=2, n_threads=1) as llm,
        open_cluster(cluster.address, loading) as opened,
        pytest.raises(RequestError, match=r"^node \S+: has another model or version \(model\.sha256 was"),
    ):
        ClusterScorer(opened, llm)


class Shuffled:
    """Scores groups in an order of its own, and stops after some of them."""

    def __init__(self, llm: DarwinNEG, seed: int, stop_after: int | None = None) -> None:
        self._llm, self._rng, self._stop_after = llm, np.random.default_rng(seed), stop_after
        self.scored: list[int] = []

    def score(self, groups: Sequence[Sequence[Sequence[int]]]) -> Generator[tuple[int, Rows], None, None]:
        for number in self._rng.permutation(len(groups))[: self._stop_after]:
            scores = list(self._llm.session.score(groups[number], hidden=True, top=0))
            self.scored.append(sum(map(len, groups[number])))
            yield int(number), [(one.hidden, one.entropy) for one in scores]
        if self._stop_after is not None:
            raise KeyboardInterrupt


@pytest.mark.parametrize("damage", [None, "hidden", "entropy"])
def test_groups_that_end_in_any_order_are_captured_in_theirs_and_kept_over_a_stop(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 100)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 256, size=rng.integers(10, 90)).tolist() for _ in range(40)]
    (one := tmp_path / "one").mkdir()
    (many := tmp_path / "many").mkdir()
    with DarwinNEG(model, n_ctx=512, n_parallel=2, n_threads=1, prefix_cache=0) as llm:
        whole = capture(llm.session, sequences, one, "train", lambda *_: None, model="m")
        scored: list[int] = []
        for seed in range(3):
            stopping = Shuffled(llm, seed, stop_after=5)
            with pytest.raises(KeyboardInterrupt):
                capture(llm.session, sequences, many, "train", lambda *_: None, model="m", scorer=stopping)
            scored += stopping.scored
            if damage is not None and seed == 1:
                path = many / f"train.{damage}"
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size // 2)
        seen: list[tuple[int, int]] = []
        last = Shuffled(llm, 9)
        resumed = capture(llm.session, sequences, many, "train", lambda *at: seen.append(at), model="m", scorer=last)
    total = sum(map(len, sequences))
    assert resumed.hidden.tobytes() == whole.hidden.tobytes()
    assert resumed.entropy.tobytes() == whole.entropy.tobytes()
    assert (resumed.starts == whole.starts).all()
    assert seen[-1] == (total, total)
    if damage is None:
        assert sum(scored) + sum(last.scored) == total, "nothing twice"
