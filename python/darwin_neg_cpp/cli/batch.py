"""`darwin-neg batch`: a file of prompts, answered into another file."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.input_file import sha256_file, shown_path
from ..files.progress import ProgressBar
from . import options
from .cluster_options import add_ray_option, connect_cluster
from .loading_options import settings_that_answers_depend_on
from .options import (
    add_chat_template_option,
    add_model_options,
    add_sampling_options,
    add_thinking_options,
    check_model_options,
    generating_options,
    load_model,
    sampling_params,
)

if TYPE_CHECKING:
    from ..batch.source import Source


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "batch",
        help="answer a file of prompts",
        description="Answers every line of a file of prompts, as many at once as the engine has places, and appends "
        "the answers to another file as they come. A line is a JSON object with a prompt or messages, an id, and "
        "settings of its own; OpenAI's batch files work, too. After Ctrl-C, a crash or kill -9 the same command "
        "resumes, and nothing is lost or done twice.",
    )
    parser.add_argument("prompts", metavar="PROMPTS", help="file of JSON lines, or - to read it from standard input")
    parser.add_argument(
        "-o", "--out", metavar="FILE", required=True, help="file of answers, with its settings in FILE.settings.json"
    )
    parser.add_argument("--chat", action="store_true", help="put prompts of text into the model's chat template")
    add_thinking_options(parser, when="in conversations: ")
    parser.add_argument(
        "--return-neg", action="store_true", help="list the predicted entropy of every token in the answers"
    )
    add_ray_option(parser, what="answer")
    parser.add_argument("--force", action="store_true", help="start again; the old answers are kept under a number")
    parser.add_argument("-q", "--quiet", action="store_true", help="no closing line")
    add_chat_template_option(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..batch.batch import batch
    from ..batch.requests import input_name, read_requests
    from .terminal import print_note

    check_model_options(args)
    params = sampling_params(args)
    template = {} if args.thinking is None else {"enable_thinking": args.thinking}
    data = options.standard_input().buffer.read() if args.prompts == "-" else _read(args.prompts)
    # bad lines are refused before the model is loaded
    requests = read_requests(
        data, input_name(args.prompts), params=params, chat=args.chat, template=template, return_neg=args.return_neg
    )
    inputs = [] if args.prompts == "-" else [Path(args.prompts)]
    with (
        _open_source(args) as source,
        ProgressBar("hashing") as hashing,
        ProgressBar("answering", unit=" answers") as bar,
    ):
        try:
            done = batch(
                source,
                requests,
                args.out,
                params=params,
                name=input_name(args.prompts),
                inputs=inputs,
                engine=_engine(args),
                force=args.force,
                hashing=hashing,
                progress=bar,
            )
        except KeyboardInterrupt:
            bar.close()
            again = "the same command resumes" + (" (without --force)" if args.force else "")
            print_note(f"interrupted; the answers so far are in {shown_path(args.out)}; {again}")
            raise
    if not args.quiet or done.failed:
        before = f", {done.before} of them from before" if done.before else ""
        failed = f", {done.failed} of them errors" if done.failed else ""
        print_note(f"{done.total} answers in {shown_path(args.out)}{before}{failed}")
    return 1 if done.failed else 0


@contextlib.contextmanager
def _open_source(args: argparse.Namespace) -> Iterator[Source]:
    from ..batch.source import LocalSource

    if args.ray is not None:
        from ..cluster.batch import ClusterSource, look

        with connect_cluster(args, generating_options(args), look) as cluster:
            yield ClusterSource(cluster)
        return
    with load_model(args) as llm:
        yield LocalSource(llm, _side_car(args))


def _side_car(args: argparse.Namespace) -> str | None:
    """The file of the head, if it is not in the model file."""
    if not args.demo:
        return str(args.side_car) if args.side_car else None
    from .. import demo_model

    return str(demo_model.HEAD)


def _read(path: str) -> bytes:
    from ..batch.requests import read_file

    return read_file(Path(path))


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of the model that change its output."""
    engine = {key: getattr(args, key) for key in ("type_k", "type_v", "flash_attn", "file_sampling")}
    if args.chat_template is not None:
        engine["chat_template_sha256"] = sha256_file(args.chat_template)
    return {**engine, **settings_that_answers_depend_on(args)}
