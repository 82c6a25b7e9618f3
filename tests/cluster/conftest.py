"""A real Ray cluster on this machine, one for each file that asks for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import darwin_neg_cpp

MEMORY = {"object_store_memory": 80 << 20}


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """What processes of Ray are started with: they use the package that is tested."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    paths = [str(Path(darwin_neg_cpp.__file__).parents[1]), *filter(None, [before["PYTHONPATH"]])]
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), RAY_USAGE_STATS_ENABLED="0")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def started(start: Callable[[], Any]) -> Any:
    """What `start` returns. Ray gives a node 30 seconds, which may be too few on a machine that is busy with more."""
    for attempt in range(3):
        try:
            with environment():
                return start()
        except Exception as error:
            if attempt == 2 or "timed out during startup" not in str(error):
                raise
    raise AssertionError


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[Any]:
    """A head that takes no work."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, **MEMORY}
    made = started(lambda: Cluster(initialize_head=True, head_node_args=head))
    yield made
    made.shutdown()


@pytest.fixture
def cluster(whole_cluster: Any) -> Iterator[Any]:
    """The cluster, without the nodes that other tests have added."""
    yield whole_cluster
    for node in list(whole_cluster.worker_nodes):
        whole_cluster.remove_node(node, allow_graceful=False)
    with contextlib.suppress(TimeoutError):  # one that was late after all
        whole_cluster.wait_for_nodes()  # until the dead ones are known to be that


@pytest.fixture
def add_node(cluster: Any) -> Callable[[], Any]:
    """Adds a node with one CPU."""

    return lambda: started(lambda: cluster.add_node(num_cpus=1, **MEMORY))
