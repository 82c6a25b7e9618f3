"""The option that names a Ray cluster, for verbs that can run their work on its nodes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..errors import RequestError
from .options import model_options

if TYPE_CHECKING:
    from ..cluster.nodes import Cluster
    from ..cluster.worker import Loaded
    from ..llm import DarwinNEG, ModelOptions


def add_ray_option(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Adds --ray. what: is done on the nodes."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help=f"{what} on all nodes of a Ray cluster, one engine on each: HOST:PORT, or auto for one of this machine; "
        "the model must be there under the same path",
    )


def check_ray_option(args: argparse.Namespace) -> None:
    """Refuses --ray beside --server, where both would do the same work."""
    if args.ray is not None and args.servers:
        raise RequestError("--ray and --server both say where the model runs; leave one of them out")


def connect_cluster(
    args: argparse.Namespace, more: ModelOptions, look: Callable[[DarwinNEG, str | None], Loaded]
) -> AbstractContextManager[Cluster]:
    """Opens the cluster that --ray names. more: options of the model beside those that every verb has. look: see
    Loading."""
    from ..cluster.connect import open_cluster
    from ..cluster.worker import Loading
    from .terminal import print_note

    side_car = getattr(args, "side_car", None)
    loading = Loading(args.model, str(side_car) if side_car else None, model_options(args, more), look)
    return open_cluster(args.ray, loading, warn=print_note)
