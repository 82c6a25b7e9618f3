"""A batch on the nodes of a Ray cluster: one engine on each, which may come and go while it runs.

Ray is imported here alone, and when a cluster is opened.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import demo_model
from ..errors import DarwinNegError, RequestError
from ..eval.settings import find_difference
from ..files.input_file import shown
from ..files.progress import Progress, no_progress
from ..llm import DarwinNEG, ModelOptions
from .reply import Reply, answer
from .requests import Request
from .source import READY, describe, places_of

LOOK_SECONDS = 1.0  # how often nodes are looked for
REACH_SECONDS = 5.0  # for a cluster to answer at the start
MAX_STARTS = 3  # of an engine on one node
MAX_LOSSES = 3  # engines that may end while they work on a request, before it is taken for the reason


@dataclass(frozen=True)
class Loading:
    """What each node loads. model: path of the file there, None for the demo model. side_car: path of the head."""

    model: str | None
    side_car: str | None
    options: ModelOptions


@dataclass(frozen=True)
class Loaded:
    """What a node says of its engine. places: sequences that it generates side by side."""

    described: dict[str, Any]
    has_head: bool
    places: int


class Worker:
    """The engine of one node. Ray makes it an actor there."""

    async def load(self, loading: Loading) -> Loaded:
        model, side_car = loading.model, loading.side_car
        described_car = side_car
        if model is None:
            model, side_car = map(str, demo_model.model_and_head())
            described_car = str(demo_model.HEAD)
        self._llm = DarwinNEG(model, side_car, **loading.options)
        return Loaded(describe(self._llm, described_car), self._llm.neg is not None, places_of(self._llm))

    async def answer(self, request: Request) -> Reply:
        return await answer(self._llm, request)


@dataclass
class _Node:
    """A node with an engine. loaded: None until that is ready. running: number of samples that have not ended."""

    id: str
    name: str
    actor: Any
    loaded: Loaded | None = None
    running: int = 0


@dataclass
class _Call:
    """A call that runs on a node. request: None while the engine is loaded."""

    node: _Node
    request: Request | None = None


@dataclass
class Cluster:
    """The nodes of a Ray cluster that have CPUs, each with one engine; see `open_cluster`.

    patience: seconds without a node after which the batch ends. warn: is told of nodes that are lost or left out.
    """

    ray: Any
    loading: Loading
    patience: float = 120.0
    warn: Callable[[str], None] = lambda _text: None
    _nodes: dict[str, _Node] = field(default_factory=dict, init=False)
    _calls: dict[Any, _Call] = field(default_factory=dict, init=False)
    _starts: dict[str, int] = field(default_factory=dict, init=False)  # by node
    _losses: dict[int, int] = field(default_factory=dict, init=False)  # by line
    _first: Loaded | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)
    _last_error: DarwinNegError | None = field(default=None, init=False)

    @property
    def note(self) -> str:
        ready = sum(node.loaded is not None for node in self._nodes.values())
        return f"{ready} node{'' if ready == 1 else 's'}"

    def has_head(self) -> bool:
        return self._wait_for_first().has_head

    def describe(self, *, progress: Progress = no_progress) -> Mapping[str, Any]:
        return self._wait_for_first().described

    def replies(self, requests: Sequence[Request]) -> Generator[tuple[Request, Reply], None, None]:
        """Each request goes to the node with the most free places; those of a node that dies go to others."""
        waiting = deque(requests)
        while waiting or any(call.request is not None for call in self._calls.values()):
            self._hand_out(waiting)
            yield from self._collect(waiting)

    def close(self) -> None:
        """Ends the engines."""
        for node in self._nodes.values():
            with contextlib.suppress(Exception):  # the cluster may be gone
                self.ray.kill(node.actor)
        self._nodes.clear()
        self._calls.clear()

    def _wait_for_first(self) -> Loaded:
        while self._first is None:
            for _ in self._collect(deque()):
                pass
        return self._first

    def _hand_out(self, waiting: deque[Request]) -> None:
        while waiting:
            free = {
                node.loaded.places + READY - node.running: node
                for node in self._nodes.values()
                if node.loaded is not None
            }
            if not free or max(free) <= 0:
                return
            node = free[max(free)]
            request = waiting.popleft()
            node.running += request.params.n
            self._calls[node.actor.answer.remote(request)] = _Call(node, request)

    def _collect(self, waiting: deque[Request]) -> Iterator[tuple[Request, Reply]]:
        """Yields what has ended, after waiting a second for it at most. What was lost goes back to the front."""
        self._look_for_nodes()
        if not self._calls:
            self._wait_for_nodes()
            return
        ready, _ = self.ray.wait(list(self._calls), num_returns=1, timeout=LOOK_SECONDS)
        if ready:
            ready, _ = self.ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
        for ref in ready:
            call = self._calls.pop(ref, None)
            if call is None:
                continue  # of a node whose death an earlier one has told
            try:
                value = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                lost = [] if call.request is None else [call.request]
                yield from self._drop(call.node, waiting, _reason(error), lost)
                continue
            if call.request is None:
                self._use(call.node, value, waiting)
            else:
                call.node.running -= call.request.params.n
                yield call.request, value

    def _use(self, node: _Node, loaded: Loaded, waiting: deque[Request]) -> None:
        """Takes an engine that is ready, if it is the same as the others."""
        self._first = self._first or loaded
        if difference := find_difference(self._first.described, loaded.described):
            self._starts[node.id] = MAX_STARTS
            for _ in self._drop(node, waiting, RequestError(f"has another model or version ({difference})"), []):
                pass
            return
        node.loaded = loaded

    def _drop(
        self, node: _Node, waiting: deque[Request], error: DarwinNegError, lost: list[Request]
    ) -> list[tuple[Request, Reply]]:
        """Gives up an engine, and returns replies for requests that have ended too many of them."""
        if self._nodes.pop(node.id, None) is None:
            return []
        for ref, call in list(self._calls.items()):
            if call.node is node:
                del self._calls[ref]
                lost += [] if call.request is None else [call.request]
        with contextlib.suppress(Exception):  # it is gone already
            self.ray.kill(node.actor)
        self._last_error = error
        self.warn(f"node {node.name}: {error}; {len(lost)} requests go to others" if lost else f"{node.name}: {error}")
        replies = []
        for request in sorted(lost, key=lambda request: request.number, reverse=True):
            losses = self._losses[request.number] = self._losses.get(request.number, 0) + 1
            if losses < MAX_LOSSES:
                waiting.appendleft(request)
            else:
                why = f"{losses} engines ended while they worked on it: {error}"
                replies.append((request, Reply(None, "server_error", why, fault=True)))
        return replies

    def _look_for_nodes(self) -> None:
        """Starts engines on nodes that have none."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for found in self.ray.nodes():
            node_id = found["NodeID"]
            if node_id in self._nodes or not _takes_work(found):
                continue
            if self._starts.get(node_id, 0) < MAX_STARTS:
                self._starts[node_id] = self._starts.get(node_id, 0) + 1
                self._start(node_id, found)

    def _start(self, node_id: str, found: Mapping[str, Any]) -> None:
        cpus, threads = found["Resources"]["CPU"], self.loading.options.get("n_threads", 0)
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        actor = (
            self.ray.remote(Worker)
            .options(
                # the engine computes on all of a node's CPUs and GPUs, or on as many CPUs as it has threads
                num_cpus=min(cpus, threads) if threads else cpus,
                num_gpus=found["Resources"].get("GPU", 0),
                scheduling_strategy=strategy,
                max_restarts=0,
            )
            .remote()
        )
        node = _Node(node_id, shown(str(found.get("NodeManagerAddress", node_id))), actor)
        self._nodes[node_id] = node
        self._calls[actor.load.remote(self.loading)] = _Call(node)

    def _wait_for_nodes(self) -> None:
        """Waits for a node to join. Errors: the reason why there is none, when patience is over."""
        if self._nodes:
            return
        starts = [self._starts.get(found["NodeID"], 0) for found in self.ray.nodes() if _takes_work(found)]
        if self._last_error is not None and starts and min(starts) >= MAX_STARTS:
            raise self._last_error
        until = time.monotonic() + self.patience
        while not self._nodes:
            if time.monotonic() > until:
                raise DarwinNegError(
                    f"the cluster has had no node for {self.patience:g} seconds; start one, and run the same again to "
                    "resume"
                )
            time.sleep(LOOK_SECONDS)
            self._look_for_nodes()


@contextlib.contextmanager
def open_cluster(
    address: str,
    loading: Loading,
    *,
    patience: float = 120.0,
    warn: Callable[[str], None] = lambda _text: None,
) -> Iterator[Cluster]:
    """Connects with a Ray cluster: HOST:PORT, or "auto" for one of this machine.

    The package and the model must be on every node, the model under the same path.
    Errors: RequestError when Ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError:
        raise RequestError("Ray is not installed; run `pip install 'darwin-neg-cpp[ray]'`") from None
    _reach(address)
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="darwin-neg")
        except Exception as error:  # whatever Ray raises: it has no class for this
            raise RequestError(
                f"ray={shown(address)} cannot be used ({_first_line(error)}); check the address"
            ) from None
    absolute = Loading(
        None if loading.model is None else os.path.abspath(loading.model),
        None if loading.side_car is None else os.path.abspath(loading.side_car),
        loading.options,
    )
    cluster = Cluster(ray, absolute, patience, warn)
    try:
        yield cluster
    finally:
        cluster.close()
        if ours:
            ray.shutdown()


def _takes_work(node: Mapping[str, Any]) -> bool:
    """A node without CPUs is one that its owner wants to keep free of work."""
    return bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0


def _reach(address: str) -> None:
    """Ray tries for a minute to reach what nobody listens at."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address == "auto":
            return
        raise RequestError(f'ray must be HOST:PORT or "auto", got {shown(address)}')
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RequestError(f"ray={shown(address)} cannot be reached ({error}); check the address") from None


def _reason(error: Any) -> DarwinNegError:
    """Why a call failed: what the node raised, or how it died. An error of this package stays as it is."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, DarwinNegError) else DarwinNegError(_first_line(cause or error))


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0]) if lines else type(error).__name__
