"""The nodes of a Ray cluster with an engine on each, which may come and go while work runs on them.

Nothing here knows what the work is about.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DarwinNegError, ModelFileError, NegHeadError, RequestError
from ..eval.settings import find_difference
from ..files.input_file import shown
from .worker import Loaded, Loading, Work, Worker, with_version

LOOK_SECONDS = 1.0  # how often nodes are looked for
MAX_STARTS = 3  # of an engine on one node
MAX_LOSSES = 3  # engines that may end while they work on a call, before the call is taken for the reason
# of what is to be loaded, not of the node's state: another start would fail in the same way
REFUSED = (ModelFileError, NegHeadError, RequestError)


@dataclass(eq=False)
class Call:
    """Work that was submitted. weight: slots that it takes. losses: engines that ended while they worked on it."""

    number: int
    work: Work
    weight: int = 1
    losses: int = 0
    is_cancelled: bool = False


@dataclass(frozen=True)
class Ended:
    """The outcome of a call. value: what its work returned, None when it was cancelled before it had anything. error:
    why there is no value."""

    call: Call
    value: Any = None
    error: DarwinNegError | None = None


@dataclass
class _Node:
    """A node with an engine. loaded: None until that is ready. running: weight of the calls that have not ended."""

    id: str
    name: str
    actor: Any
    loaded: Loaded | None = None
    running: int = 0


@dataclass
class _Run:
    """Something that runs on a node. call: None while the engine is loaded."""

    node: _Node
    call: Call | None = None


@dataclass
class Cluster:
    """The nodes of a Ray cluster that have CPUs, each with one engine; see `open_cluster`.

    patience: seconds without a node after which that is an error. warn: called with a line about a node that is lost or
    left out. Not safe to use from several threads.
    """

    ray: Any
    loading: Loading
    patience: float = 120.0
    warn: Callable[[str], None] = lambda _text: None
    _nodes: dict[str, _Node] = field(default_factory=dict, init=False)
    _waiting: deque[Call] = field(default_factory=deque, init=False)
    _runs: dict[Any, _Run] = field(default_factory=dict, init=False)  # by Ray's reference to the result
    _ended: list[Ended] = field(default_factory=list, init=False)  # not yet taken
    _submitted: int = field(default=0, init=False)
    _starts: dict[str, int] = field(default_factory=dict, init=False)  # by node
    _first: Loaded | None = field(default=None, init=False)
    _expected: Mapping[str, Any] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)
    _notes: list[str] = field(default_factory=list, init=False)  # held back until there is an engine
    _last_error: DarwinNegError | None = field(default=None, init=False)

    @property
    def note(self) -> str:
        """How many nodes have an engine, in words."""
        ready = len(self._ready())
        return f"{ready} node{'' if ready == 1 else 's'}"

    @property
    def slots(self) -> int:
        """Of all engines that are ready, together."""
        return sum(loaded.slots for _, loaded in self._ready())

    def expect(self, described: Mapping[str, Any]) -> None:
        """Leaves out nodes whose engine is described otherwise; without this the first one is what others must be
        like."""
        self._expected = with_version(described, self.loading.options)

    def first(self) -> Loaded:
        """What the first node said whose engine was ready; waits for it. Errors: DarwinNegError when no node can load
        the model."""
        while self._first is None:
            self._step()
        return self._first

    def gather(self, nodes: int) -> None:
        """Waits until so many nodes have an engine. Errors: those of first()."""
        while len(self._ready()) < nodes:
            self._step()

    def submit(self, works: Sequence[Work], weights: Sequence[int] | None = None) -> list[Call]:
        """Each goes to the node with the most free slots; what a node that dies was working on goes to others."""
        calls = []
        for work, weight in zip(works, weights or [1] * len(works), strict=True):
            self._submitted += 1
            calls.append(Call(self._submitted, work, weight))
        self._waiting.extend(calls)
        return calls

    def wait(self) -> list[Ended]:
        """Waits for calls to end, and returns them; empty only if none runs. Errors: DarwinNegError when there is no
        node for longer than the patience."""
        while not self._ended and (self._waiting or any(run.call is not None for run in self._runs.values())):
            self._step()
        ended, self._ended = self._ended, []
        return ended

    def ask(self, work: Work) -> Any:
        """Runs work at once, whatever else is waiting, and returns its result. Errors: that of the work."""
        self._submitted += 1
        call = Call(self._submitted, work, weight=0)
        self._waiting.appendleft(call)
        while True:
            self._step()
            for ended in self._ended:
                if ended.call is call:
                    self._ended.remove(ended)
                    if ended.error is not None:
                        raise ended.error
                    return ended.value

    def cancel(self, calls: Sequence[Call]) -> None:
        """Ends calls that have not ended; they come out of wait() with what they have."""
        for call in self._stop(calls):
            self._ended.append(Ended(call))

    def forget(self, calls: Sequence[Call]) -> None:
        """Ends calls that have not ended, and those that have do not come out of wait()."""
        self._stop(calls)
        forgotten = set(calls)
        self._ended = [ended for ended in self._ended if ended.call not in forgotten]
        for reference, run in list(self._runs.items()):
            if run.call in forgotten:
                del self._runs[reference]
                run.node.running -= run.call.weight

    def close(self) -> None:
        """Ends the engines."""
        for node in self._nodes.values():
            with contextlib.suppress(Exception):  # the cluster may be gone
                self.ray.kill(node.actor)
        self._nodes.clear()
        self._runs.clear()
        self._waiting.clear()

    # --- inside

    def _ready(self) -> list[tuple[_Node, Loaded]]:
        return [(node, node.loaded) for node in self._nodes.values() if node.loaded is not None]

    def _stop(self, calls: Sequence[Call]) -> list[Call]:
        """Cancels what runs, and returns what has not begun, which is not waiting any more."""
        stopped = {call for call in calls if not call.is_cancelled}
        for call in stopped:
            call.is_cancelled = True
        for run in self._runs.values():
            if run.call in stopped:
                run.node.actor.cancel.remote(run.call.number)
        waiting = [call for call in self._waiting if call in stopped]
        if waiting:
            self._waiting = deque(call for call in self._waiting if call not in stopped)
        return waiting

    def _step(self) -> None:
        """Hands out what there is room for, and waits a second at most for something to end."""
        self._look_for_nodes()
        self._hand_out()
        if not self._runs:
            self._wait_for_nodes()
            return
        ready, _ = self.ray.wait(list(self._runs), num_returns=1, timeout=LOOK_SECONDS)
        if ready:
            ready, _ = self.ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0)
        for reference in ready:
            if reference in self._runs:  # not of a node whose death an earlier one has told
                self._take(reference)

    def _hand_out(self) -> None:
        while self._waiting:
            free = {loaded.slots - node.running: node for node, loaded in self._ready()}
            if not free or (max(free) <= 0 and self._waiting[0].weight):
                return
            node = free[max(free)]
            call = self._waiting.popleft()
            node.running += call.weight
            self._runs[node.actor.run.remote(call.number, call.work)] = _Run(node, call)

    def _take(self, reference: Any) -> None:
        """Takes what a node has returned, or why it has not."""
        run = self._runs.pop(reference)
        try:
            value = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            reason = _reason(error)
            if run.call is None or not isinstance(getattr(error, "cause", None), DarwinNegError):
                self._drop(run.node, reason, [] if run.call is None else [run.call])
                return
            run.node.running -= run.call.weight
            self._ended.append(Ended(run.call, error=reason))
            return
        if run.call is None:
            self._use(run.node, value)
        else:
            run.node.running -= run.call.weight
            self._ended.append(Ended(run.call, value))

    def _use(self, node: _Node, loaded: Loaded) -> None:
        """Takes an engine that is ready, if it is the same as the others."""
        expected = loaded.described if self._expected is None else self._expected
        if difference := find_difference(expected, loaded.described):
            self._drop(node, RequestError(f"has another model or version ({difference})"), [])
            return
        self._first, self._expected = self._first or loaded, expected
        node.loaded = loaded
        for note in self._notes:
            self.warn(note)
        self._notes.clear()

    def _drop(self, node: _Node, error: DarwinNegError, lost: list[Call]) -> None:
        """Gives up an engine. lost: those of its calls that are not in _runs any more."""
        if self._nodes.pop(node.id, None) is None:
            return
        for reference, run in list(self._runs.items()):
            if run.node is node:
                del self._runs[reference]
                lost += [] if run.call is None else [run.call]
        with contextlib.suppress(Exception):  # it is gone already
            self.ray.kill(node.actor)
        if node.loaded is None and isinstance(error, REFUSED):
            self._starts[node.id] = MAX_STARTS
        said = type(error)(f"node {node.name}: {error}")
        # a node that is gone, of which the cluster does not know yet, says nothing of the others
        if isinstance(error, REFUSED) or not isinstance(self._last_error, REFUSED):
            self._last_error = said
        self._say(f"{said}{f'; {len(lost)} calls go to others' if lost else ''}")
        for call in sorted(lost, key=lambda call: call.number, reverse=True):
            call.losses += 1
            if call.is_cancelled:
                self._ended.append(Ended(call))
            elif call.losses < MAX_LOSSES:
                self._waiting.appendleft(call)
            else:
                why = DarwinNegError(f"{call.losses} engines ended while they worked on it: {error}")
                self._ended.append(Ended(call, error=why))

    def _say(self, note: str) -> None:
        """Until there is an engine, all of it may come to one error."""
        if self._first is None:
            self._notes.append(note)
        else:
            self.warn(note)

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
        self._runs[actor.load.remote(self.loading)] = _Run(node)

    def _wait_for_nodes(self) -> None:
        """Waits for a node to join. Errors: the reason why there is none, when patience is over."""
        if self._nodes:
            return
        starts = [self._starts.get(found["NodeID"], 0) for found in self.ray.nodes() if _takes_work(found)]
        if self._last_error is not None and starts and min(starts) >= MAX_STARTS:
            # once there has been an engine, what the nodes lack is no fault of the request
            raise self._last_error if self._first is None else DarwinNegError(str(self._last_error))
        until = time.monotonic() + self.patience
        while not self._nodes:
            if time.monotonic() > until:
                last = "" if self._last_error is None else f" (the last: {self._last_error})"
                raise DarwinNegError(
                    f"the cluster has had no node for {self.patience:g} seconds{last}; start one, and run the same "
                    "again to resume"
                )
            time.sleep(LOOK_SECONDS)
            self._look_for_nodes()


def _takes_work(node: Mapping[str, Any]) -> bool:
    """A node without CPUs is one that its owner wants to keep free of work."""
    return bool(node["Alive"]) and node["Resources"].get("CPU", 0) > 0


def _reason(error: Any) -> DarwinNegError:
    """Why a call failed: what the node raised, or how it died. An error of this package stays as it is."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, DarwinNegError) else DarwinNegError(first_line(cause or error))


def first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0]) if lines else type(error).__name__
