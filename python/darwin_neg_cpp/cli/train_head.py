"""`darwin-neg train-head`: a NEG head for a GGUF model."""

from __future__ import annotations

import argparse
import contextlib
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..files.input_file import shown_path
from ..files.progress import step_bars
from .cluster_options import add_ray_option, connect_cluster
from .options import add_force_option, add_text_model_options, load_text_model, text_options
from .server_options import add_server_options, connect
from .text_command import command_with_texts

if TYPE_CHECKING:
    from ..cluster.nodes import Cluster
    from ..llm import DarwinNEG, ModelOptions
    from ..training.capture import Scorer


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "train-head",
        help="train a NEG head for a GGUF model",
        description="Runs texts through a model and learns to predict the entropy of its next-token distribution from "
        "its last hidden state. Writes the head as a side-car and as neg_modules.safetensors, and a report on how well "
        "it predicts; the model file is not changed. Needs PyTorch: pip install 'darwin-neg-cpp[train]'. If "
        "interrupted, run the same command to resume.",
    )
    add_text_model_options(parser, side_car=False)
    add_server_options(parser, what="ask for generated texts", instead=False)
    add_ray_option(parser, what="run the texts through the model")
    parser.add_argument(
        "--text",
        nargs="+",
        default=[],
        metavar="FILE",
        help="UTF-8 text, one document per file; or JSON lines (.jsonl, .ndjson) with text, messages, or prompt and "
        "completion",
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="side-car to write; the other files are named after it"
    )
    parser.add_argument(
        "--self-generate",
        dest="own_texts",
        type=int,
        default=0,
        metavar="N",
        help="also train on N texts that the model generates",
    )
    parser.add_argument(
        "--self-tokens",
        dest="own_tokens",
        type=int,
        default=192,
        metavar="N",
        help="maximum number of tokens of a generated text (default 192)",
    )
    parser.add_argument(
        "--self-temperature",
        dest="own_temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="temperature of generated texts (default 0.8)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=200_000,
        metavar="N",
        help="maximum number of tokens of text in total (default 200000)",
    )
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="tokens run through the model together (default 512)"
    )
    parser.add_argument(
        "--target-rate",
        type=float,
        default=0.0436,
        metavar="R",
        help="share of positions at which the gate should be active (default 0.0436)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="NATS", help="the gate's threshold, instead of a target rate"
    )
    parser.add_argument(
        "--reduced", type=int, default=0, metavar="N", help="inner width (default: a quarter of the hidden size)"
    )
    parser.add_argument(
        "--epochs", type=int, default=40, metavar="N", help="maximum number of passes over the data (default 40)"
    )
    parser.add_argument(
        "--patience", type=int, default=5, metavar="N", help="stop after N passes without improvement (default 5)"
    )
    parser.add_argument(
        "--batch-size", dest="batch", type=int, default=512, metavar="N", help="positions per step (default 512)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3, metavar="X", help="AdamW learning rate (default 0.001)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default 0)")
    add_force_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..training import train
    from ..training.head import Recipe
    from ..training.outputs import name_outputs

    settings = train.Settings(
        text=tuple(map(Path, args.text)),
        out=Path(args.out),
        recipe=Recipe(
            reduced=args.reduced,
            epochs=args.epochs,
            patience=args.patience,
            batch=args.batch,
            learning_rate=args.learning_rate,
            seed=args.seed,
        ),
        threshold=args.threshold,
        target_rate=args.target_rate,
        max_tokens=args.max_tokens,
        context=args.context,
        own_texts=args.own_texts,
        own_tokens=args.own_tokens,
        own_temperature=args.own_temperature,
        force=args.force,
    )
    # before the model is loaded
    if args.servers and not args.own_texts:
        raise RequestError("--server generates texts, and none are asked for; pass --self-generate N, or leave it out")
    train.check(settings, args.model)
    n_ctx, n_parallel = max(args.context, 1024), 8
    with (
        _open_cluster(args, text_options(n_ctx, n_parallel)) as cluster,
        load_text_model(args, n_ctx=n_ctx, n_parallel=n_parallel) as llm,
        connect(args) if args.servers else contextlib.nullcontext() as remote,
        step_bars({"train": " epochs"}) as progress,
    ):
        if remote is not None:
            remote.check_runs(llm.path, llm.info, llm.neg)
        scorer = None if cluster is None else _scorer(cluster, llm)
        command = command_with_texts(args)
        result = train.run(llm, settings, command=command, progress=progress, writer=remote, scorer=scorer)
    if result["training"]["interrupted"]:
        epoch = result["training"]["best_epoch"] + 1
        print(f"darwin-neg: interrupted; the best head so far, of epoch {epoch}, is written", file=sys.stderr)
    test = result["test"]
    print(
        f"{shown_path(args.out)}: R² {test['head']['r2']:.3f} on test (previous token's entropy: "
        f"{test['previous']['r2']:.3f}), threshold {result['head']['threshold']:.3f} nats, "
        f"active at {test['head']['activation_rate']:.2%}"
    )
    print(f"report: {shown_path(name_outputs(settings.out).markdown)}")
    return 0


def _open_cluster(args: argparse.Namespace, more: ModelOptions) -> AbstractContextManager[Cluster | None]:
    if args.ray is None:
        return contextlib.nullcontext()
    from ..cluster.capture import look

    return connect_cluster(args, more, look)


def _scorer(cluster: Cluster, llm: DarwinNEG) -> Scorer:
    from ..cluster.capture import ClusterScorer

    return ClusterScorer(cluster, llm)
