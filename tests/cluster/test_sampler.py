"""Protocols over a cluster whose nodes are scripted: early stop and deaths change no answer."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from conftest import ROOT
from darwin_neg_cpp import ContextFullError, DarwinNegError, NegHeadError
from darwin_neg_cpp.cluster import nodes
from darwin_neg_cpp.cluster.evaluation import ClusterModel, Facts, Look, Measuring, Sampling
from darwin_neg_cpp.cluster.nodes import Cluster
from darwin_neg_cpp.cluster.worker import Loaded, Loading
from darwin_neg_cpp.eval import data
from darwin_neg_cpp.protocols import Answer, ModeConfig
from darwin_neg_cpp.protocols.modes import plan
from darwin_neg_cpp.protocols.runner import Task, run
from darwin_neg_cpp.protocols.sampler import Job
from fake_ray import FakeRay
from scripted_sampler import ScriptedSampler, noisy

QUESTIONS = [item.question for item in data.load(ROOT / "examples" / "questions.csv").items[::6]]
FACTS = Facts("m.gguf", {"top_k": 20}, {"model": "m.gguf"}, 4096, 4, 20, {"threads": 1})


def loaded(**changes: Any) -> Loaded:
    return Loaded({"model": {}}, slots=4, facts=replace(FACTS, **changes))


def answer_work(work: Any) -> Any:
    if isinstance(work, Measuring):
        return [len(job.prompt) + 3 for job in work.jobs]
    assert isinstance(work, Sampling) and len(work.job.temperatures) == 1 and work.job.only is not None
    whole = replace(work.job, temperatures=work.job.temperatures * (work.job.only + 1), only=None)
    return noisy(whole, work.job.only)


def open_cluster(seed: int, *, deaths: float = 0.0, **changes: Any) -> tuple[Cluster, FakeRay]:
    rng = random.Random(seed)
    names = iter(range(1000))

    def happen(ray: FakeRay) -> None:
        if rng.random() < deaths:
            ray.die(rng.choice(list(ray.loads)))
            ray.loads[f"new {next(names)}"] = loaded(**changes)
        for reference in rng.sample(ray.open, k=min(len(ray.open), rng.randrange(3))):
            ray.finish(reference)

    ray = FakeRay({"a": loaded(**changes), "b": loaded(**changes)}, happen, answer_work)
    return Cluster(ray, Loading("m.gguf", None, {}, Look())), ray


def answers(sampler: Any, mode: Any, *, early_stop: bool) -> dict[object, Answer]:
    tasks = (Task(question, plan(mode, ModeConfig()), question.id) for question in QUESTIONS)
    return dict(run(sampler, tasks, ModeConfig(), early_stop=early_stop, in_flight=3))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 1e-6)


@pytest.mark.parametrize("mode", [0, 1, 2, 3, "auto"])
def test_every_candidate_is_that_of_one_machine_though_nodes_die(mode: Any) -> None:
    expected = answers(ScriptedSampler(), mode, early_stop=False)
    cluster, _ = open_cluster(5, deaths=0.02)
    found = answers(ClusterModel(cluster).sampler(), mode, early_stop=False)
    assert found.keys() == expected.keys()
    for key, one in found.items():
        assert (one.choice, one.votes, one.candidates) == (
            expected[key].choice,
            expected[key].votes,
            expected[key].candidates,
        )


def test_early_stop_cancels_on_the_nodes_and_gives_the_same_answers() -> None:
    expected = answers(ScriptedSampler(), 3, early_stop=False)
    cluster, ray = open_cluster(6, deaths=0.01)
    found = answers(ClusterModel(cluster).sampler(), 3, early_stop=True)
    assert {key: one.choice for key, one in found.items()} == {key: one.choice for key, one in expected.items()}
    stopped = [one for one in found.values() if one.stopped == "certain"]
    assert len(stopped) > 3 and sum(one.cost.planned - one.cost.finished for one in stopped) > len(stopped)
    assert not [one for one in ray.open if one.work is not None]


def test_more_questions_are_worked_on_as_nodes_join() -> None:
    cluster, ray = open_cluster(7)
    model = ClusterModel(cluster)
    cluster.gather(2)
    assert model.info == {"n_ctx": 4096, "n_parallel": 8}
    ray.loads["c"] = loaded()
    cluster.gather(3)
    assert model.info["n_parallel"] == 12 and model.describe_machine() == {"threads": 1, "cluster": "3 nodes"}


def test_what_does_not_fit_is_refused_at_the_start_and_a_node_counts_only_what_may_not_fit() -> None:
    cluster, ray = open_cluster(8, n_ctx=100)
    model = ClusterModel(cluster)
    job = Job("x" * 70, (0.0, 0.5), 0, True, ModeConfig())
    assert model.count_tokens(job) == 90 and model.count_tokens(replace(job, prompt="x" * 90)) == 93
    sampler = model.sampler()
    with pytest.raises(ContextFullError, match="prompt has 103 tokens, the context has 100; raise n_ctx"):
        sampler.start([job, replace(job, prompt="x" * 100)])
    assert sampler.wait() == [] and not ray.open, "none of them runs"
    cluster, _ = open_cluster(8, neg=None)
    with pytest.raises(NegHeadError, match=r"m\.gguf: has no NEG head"):
        ClusterModel(cluster).sampler().start([job])


def test_an_error_of_a_sample_is_raised_after_what_has_ended_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = open_cluster(9)
    cluster.gather(2)
    ray.happen = lambda _ray: [ray.finish(one) for one in list(ray.open)] and None
    ray.answer = lambda work: DarwinNegError("no") if work.job.only == 1 else noisy(work.job, 0)
    sampler = ClusterModel(cluster).sampler()
    (handle,) = sampler.start([Job("Question\nA) x\nB) y", (0.0, 0.5, 0.5), 0, True, ModeConfig())])
    ended = []
    with pytest.raises(DarwinNegError, match=r"^no$"):
        while True:
            ended += sampler.wait()
    assert {(one, index) for one, index, _ in ended} == {(handle, 0), (handle, 2)}
