"""Calls on nodes that come and go, in the place of Ray: each ends once, whatever happens in between."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from darwin_neg_cpp import DarwinNegError, ModelFileError
from darwin_neg_cpp.cluster import nodes
from darwin_neg_cpp.cluster.nodes import Call, Cluster
from darwin_neg_cpp.cluster.worker import Loaded, Loading
from fake_ray import FakeError, FakeRay

SLOTS = 3


@dataclass(frozen=True)
class Saying:
    """Work with a known result."""

    value: Any

    async def run(self, llm: object) -> Any:
        raise AssertionError("not run here")


def loaded(**described: Any) -> Loaded:
    return Loaded({"version": "1", **described}, SLOTS)


def make(loads: dict[str, Any], happen: Callable[[FakeRay], None], **more: Any) -> tuple[Cluster, FakeRay]:
    ray = FakeRay(loads, happen)
    return Cluster(ray, Loading("m.gguf", None, {}, lambda _llm, _car: loaded()), **more), ray


def finish_all(ray: FakeRay) -> None:
    for reference in list(ray.open):
        ray.finish(reference)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOOK_SECONDS", 1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_every_call_ends_once_whatever_dies_joins_and_is_cancelled(seed: int) -> None:
    rng = random.Random(seed)
    names = iter(range(1000))

    def happen(ray: FakeRay) -> None:
        event = rng.random()
        if event < 0.08 and len(ray.loads) < 5:
            ray.loads[f"node {next(names)}"] = loaded()
        elif event < 0.1 and len(ray.loads) > 1:
            ray.die(rng.choice(list(ray.loads)))
        for reference in rng.sample(ray.open, k=min(len(ray.open), rng.randrange(4))):
            ray.finish(reference)

    cluster, ray = make({"node a": loaded(), "node b": loaded()}, happen)
    calls = cluster.submit([Saying(k) for k in range(150)])
    forgotten = set(rng.sample(calls, 10))
    ended: list[Call] = []
    answered, is_forgotten = 0, False
    while news := cluster.wait():
        for one in news:
            ended.append(one.call)
            assert not (is_forgotten and one.call in forgotten)
            if one.error is not None:
                assert one.call.losses == nodes.MAX_LOSSES
            elif not one.call.is_cancelled:
                assert one.value == one.call.work.value
                answered += 1
        if rng.random() < 0.1:
            cluster.cancel([rng.choice(calls)])
        if answered >= 5:
            cluster.forget(list(forgotten))
            is_forgotten = True
        if rng.random() < 0.1:
            assert cluster.ask(Saying("asked")) == "asked"
    assert Counter(ended).most_common(1)[0][1] == 1
    assert set(calls) - forgotten <= set(ended)
    assert answered > 60 and ray.most <= SLOTS + 1  # and one that was asked


def test_what_was_lost_comes_first_and_three_losses_are_an_error() -> None:
    order: list[int] = []

    def happen(ray: FakeRay) -> None:
        finish_all_loads(ray)
        running = [one for one in ray.open if one.work is not None]
        order.extend(one.number for one in running)
        if running and len(order) <= 9:
            node = running[0].node
            ray.die(node)
            ray.loads[node + "'"] = loaded()
        else:
            finish_all(ray)

    def finish_all_loads(ray: FakeRay) -> None:
        for one in [one for one in ray.open if one.work is None]:
            ray.finish(one)

    said: list[str] = []
    cluster, _ = make({"a": loaded()}, happen, warn=said.append)
    cluster.submit([Saying(k) for k in range(5)])
    ended = []
    while news := cluster.wait():
        ended += news
    assert order == [1, 2, 3] * 3 + [4, 5]
    assert {one.call.number: str(one.error) for one in ended if one.error} == dict.fromkeys(
        (1, 2, 3), "3 engines ended while they worked on it: it died"
    )
    assert [one.value for one in ended if one.error is None] == [3, 4]
    assert said[0] == "node a: it died; 3 calls go to others"


def test_a_model_that_no_node_can_load_is_one_error_that_names_a_node_and_no_warning() -> None:
    said: list[str] = []
    missing = ModelFileError("m.gguf: no such file")
    cluster, ray = make({"a": missing, "b": missing}, finish_all, warn=said.append)
    with pytest.raises(ModelFileError, match=r"^node [ab]: m\.gguf: no such file$"):
        cluster.first()
    assert said == [] and not ray.open


def test_a_node_that_is_gone_does_not_hide_why_the_others_have_no_engine() -> None:
    """A cluster notices the death of a node late, and offers it until then."""
    missing = ModelFileError("m.gguf: no such file")
    for loads in ({"a": missing, "gone": FakeError()}, {"gone": FakeError(), "a": missing}):
        cluster, _ = make(loads, finish_all)
        with pytest.raises(ModelFileError, match=r"^node a: m\.gguf: no such file$"):
            cluster.first()


def test_one_node_without_the_model_is_one_line_and_the_others_work() -> None:
    said: list[str] = []
    cluster, _ = make({"a": ModelFileError("m.gguf: no such file"), "b": loaded()}, finish_all, warn=said.append)
    cluster.submit([Saying(k) for k in range(20)])
    values = []
    while news := cluster.wait():
        values += [one.value for one in news]
    assert sorted(values) == list(range(20))
    assert said == ["node a: m.gguf: no such file"] and cluster.note == "1 node" and cluster.slots == SLOTS


def test_a_node_with_another_model_is_left_out_and_named_with_the_difference() -> None:
    said: list[str] = []
    cluster, _ = make({"a": loaded(model={"sha256": "1"})}, finish_all, warn=said.append)
    cluster.first()
    cluster.ray.loads["b"] = loaded(model={"sha256": "2"})
    calls = cluster.submit([Saying(k) for k in range(20)])
    while cluster.wait():
        pass
    assert said == ["node b: has another model or version (model.sha256 was 1, is 2)"]
    assert all(call.losses == 0 for call in calls)
    # and where all of them differ from what is expected, that is the error
    cluster, _ = make({"b": loaded(model={"sha256": "2"})}, finish_all)
    cluster.expect({"version": "1", "model": {"sha256": "1"}})
    with pytest.raises(DarwinNegError, match=r"^node b: has another model or version \(model\.sha256 was 1, is 2\)$"):
        cluster.first()


def test_an_error_of_the_work_is_its_own_and_costs_no_engine() -> None:
    cluster, _ = make({"a": loaded()}, finish_all)
    cluster.submit([Saying(DarwinNegError("no")), Saying(1)])
    ended = cluster.wait()
    assert {str(one.error) if one.error else one.value for one in ended} == {"no", 1}
    assert cluster.note == "1 node"
    with pytest.raises(DarwinNegError, match=r"^no$"):
        cluster.ask(Saying(DarwinNegError("no")))


def test_a_cluster_that_stays_without_nodes_is_an_error_that_says_how_to_go_on() -> None:
    cluster, _ = make({}, finish_all, patience=0.01)
    with pytest.raises(DarwinNegError, match=r"has had no node for 0\.01 seconds; start one, and run the same again"):
        cluster.first()
