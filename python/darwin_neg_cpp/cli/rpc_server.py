"""`darwin-neg rpc-server`: lends this machine's devices to a program on another one."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from .loading_options import names
from .options import add_threads_option


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "rpc-server",
        help="lend this machine's devices to a model on another one",
        description="Lends the devices of this machine to one program at a time, for a model that does not fit the "
        "machine it runs on: there, --rpc HOST:PORT uses them. Both need the same version. It has neither password "
        "nor encryption. Ctrl-C ends it.",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen, IPv4 only (default 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=50052, metavar="N", help="port, 0 for a free one (default 50052)")
    parser.add_argument("--cache", metavar="FOLDER", help="keep large tensors here, to send a model only once")
    parser.add_argument(
        "-dev",
        "--device",
        dest="devices",
        type=names,
        metavar="NAME,NAME",
        help="devices to lend (default: GPUs, or the CPU where there are none)",
    )
    add_threads_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..server.rpc import lend_devices

    code = 0
    try:
        lend_devices(host=args.host, port=args.port, cache=args.cache, devices=args.devices, n_threads=args.n_threads)
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # what still computes must not meet a library that is being taken down
    os._exit(code)
