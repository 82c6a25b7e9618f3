"""`darwin-neg serve`: llama.cpp's HTTP server, with NEG in every token and a page to look at it."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import RequestError
from .loading_options import names
from .options import add_threads_option


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "serve",
        help="serve a model over HTTP, with a chat page",
        description="Serves a model to clients of OpenAI's and Anthropic's APIs, and a chat page at /. It is "
        "llama.cpp's own server: whatever llama-server takes may follow after --. Ctrl-C ends it.",
    )
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="FILE|REPO", help="GGUF model file, or a repository OWNER/NAME")
    group.add_argument("--side-car", metavar="FILE", help="NEG side-car, for a model file without a head")
    group.add_argument("--demo", action="store_true", help="the demo model (SmolLM2-135M, downloaded once, 94 MB)")
    group.add_argument("--mmproj", metavar="FILE", help="projector of the model, for questions about images")
    group.add_argument("--lora", action="append", default=[], metavar="FILE", help="LoRA adapter (repeatable)")
    group.add_argument(
        "-c",
        "--n-ctx",
        type=int,
        default=16384,
        metavar="N",
        help="context in tokens of all conversations together, 0: the model's own (default 16384)",
    )
    group.add_argument("--n-parallel", type=int, default=4, metavar="N", help="answers side by side (default 4)")
    group.add_argument("--mtp", type=int, default=0, metavar="N", help="tokens that the model's own MTP block drafts")
    add_threads_option(group)
    group.add_argument(
        "-ngl", "--n-gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, -1 for all (default)"
    )
    group.add_argument(
        "--rpc", type=names, default=(), metavar="HOST:PORT,..", help="other machines that hold parts of the model"
    )
    _add_neg_options(parser.add_argument_group("gate", "Where a request says nothing of its own."))
    _add_server_options(parser.add_argument_group("server"))
    parser.add_argument(
        "--raw", action="store_true", help="hand everything that follows to llama-server, and nothing else"
    )
    parser.add_argument("name", nargs="?", metavar="FILE|REPO", help="the model, in place of --model")
    parser.set_defaults(run=run, arguments={"rpc_servers": "rpc"})


def _add_neg_options(group: Any) -> None:
    group.add_argument(
        "--neg",
        dest="neg_action",
        choices=("mask", "sample", "off"),
        help="what the gate does: mask (default), sample (draws even under greedy decoding), off (reports only)",
    )
    group.add_argument("--neg-threshold", type=float, metavar="NATS", help="threshold (default: the model's)")
    group.add_argument("--neg-top-k", type=int, metavar="K", help="tokens that stay (default: the model's)")
    group.add_argument(
        "--temp-scale", action="store_true", default=None, help="divide the kept logits by the model's temp_scale"
    )


def _add_server_options(group: Any) -> None:
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1)")
    group.add_argument("--port", type=int, default=8080, metavar="N", help="port (default 8080)")
    group.add_argument("--api-key", metavar="KEY", help="what clients must send; others can see it in the process list")
    group.add_argument("--api-key-file", metavar="FILE", help="file with a key to a line")
    group.add_argument(
        "--max-queue", type=int, metavar="N", help="requests that may wait; further ones get 503 (default: no limit)"
    )
    group.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    from ..server import process
    from ..server import serve as server

    if args.raw:
        return process.run_llama_server(args.argv[args.argv.index("--raw") + 1 :])
    if args.name and args.model:
        raise RequestError(f"two models given, {args.name} and {args.model}; llama-server's options come after --")
    model, side_car = args.model or args.name, args.side_car
    options = args.argv[args.argv.index("--") + 1 :] if "--" in args.argv else ()
    if args.demo:
        if model or side_car:
            raise RequestError("--demo brings its own model; leave out --model and --side-car")
        from .. import demo_model

        model, side_car = demo_model.model_and_head()
    if not model:
        raise RequestError("no model given; use --model FILE, or --demo to try the demo model")
    return server.serve(
        model,
        side_car=side_car,
        neg=args.neg_action,
        neg_threshold=args.neg_threshold,
        neg_top_k=args.neg_top_k,
        temp_scale=args.temp_scale,
        host=args.host,
        port=args.port,
        api_key=args.api_key,
        api_key_file=args.api_key_file,
        n_ctx=args.n_ctx,
        n_parallel=args.n_parallel,
        n_threads=args.n_threads,
        n_gpu_layers=args.n_gpu_layers,
        mtp=args.mtp,
        mmproj=args.mmproj,
        lora=args.lora,
        rpc=args.rpc,
        max_queue=args.max_queue,
        open_page=args.open,
        options=options,
    )
