"""From texts to a head: corpus, capture, training, threshold, report."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ContextFullError, OutputError, RequestError
from ..files.input_file import sha256_file, shown_path
from ..files.output_file import check_output, rename_in_errors, replacing
from ..files.progress import StepProgress
from ..neg import files as neg_files
from ..neg import formats as neg_format
from ..neg.head import MAX_REDUCED, NegHead
from ..trace.agreement import agreement, threshold_for
from . import corpus, report, work_folder
from .capture import Captured, capture
from .corpus import SPLITS, Document, Opening
from .head import Recipe, import_torch, predict, train

if TYPE_CHECKING:
    from ..llm import DarwinNEG

CARD_RATE = 0.0436  # activation rate that the card of Darwin-9B-NEG states
OWN_AT_ONCE = 32
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
OWN_FILES = ("own-texts.jsonl", "own-answers.jsonl")
STATE = "training.pt"
COMPLETE = "complete.txt"  # there while the finished files are moved to their places


@dataclass(frozen=True)
class Settings:
    """threshold: nats, or None to set it so that `target_rate` of the validation positions lie above. max_tokens: of the text, in all.

    context: tokens of text that are run through the model together. own_texts: how many the model writes itself, of own_tokens each at most.
    """

    text: tuple[Path, ...]
    out: Path
    recipe: Recipe = field(default_factory=Recipe)
    threshold: float | None = None
    target_rate: float = CARD_RATE
    max_tokens: int = 200_000
    context: int = 512
    own_texts: int = 0
    own_tokens: int = 192
    own_temperature: float = 0.8
    force: bool = False

    def check(self) -> None:
        if not self.text and not self.own_texts:
            raise RequestError("no text given; name files with --text, or let the model write with --self-generate N")
        if self.threshold is not None and not 0 <= self.threshold <= LARGEST_FLOAT32:
            raise RequestError(f"--threshold must be a number of nats >= 0 that float32 holds, got {self.threshold}")
        if not 0 <= self.own_temperature < math.inf:
            raise RequestError(f"--self-temperature must be a number >= 0, got {self.own_temperature}")
        if not 0 < self.target_rate < 1:
            raise RequestError(f"--target-rate must be between 0 and 1, got {self.target_rate}")
        recipe = self.recipe
        for name, value, low in (
            ("--max-tokens", self.max_tokens, 1000),
            ("--context", self.context, 16),
            ("--self-generate", self.own_texts, 0),
            ("--self-tokens", self.own_tokens, 8),
            ("--reduced", recipe.reduced, 0),
            ("--epochs", recipe.epochs, 1),
            ("--patience", recipe.patience, 1),
            ("--batch", recipe.batch, 1),
            ("--seed", recipe.seed, 0),
        ):
            if not low <= value < 2**31:
                raise RequestError(f"{name} must be at least {low}, got {value}")
        if recipe.reduced > MAX_REDUCED:
            raise RequestError(f"--reduced must be at most {MAX_REDUCED}, got {recipe.reduced}")


@dataclass(frozen=True)
class Outputs:
    """Names of everything that is written, after the side-car's. work: a folder that is there only until the end."""

    side_car: Path
    safetensors: Path
    json: Path
    markdown: Path
    figure: Path
    work: Path

    def files(self) -> tuple[Path, ...]:
        """In the order in which they appear. The head comes last: where it is, its report is too."""
        return self.figure, self.json, self.markdown, self.safetensors, self.side_car

    def work_files(self) -> list[str]:
        """Names of all that is written into the work folder."""
        captured = [f"{part}.{end}" for part in SPLITS for end in ("hidden", "entropy", "json")]
        return [*captured, *OWN_FILES, STATE, COMPLETE, *(path.name for path in self.files())]


def outputs(out: Path) -> Outputs:
    stem = out.name.removesuffix(".gguf").removesuffix(".neg")
    return Outputs(
        out,
        out.with_name(f"{stem}.neg_modules.safetensors"),
        out.with_name(f"{stem}.report.json"),
        out.with_name(f"{stem}.report.md"),
        out.with_name(f"{stem}.report.svg"),
        out.with_name(f"{stem}.work"),
    )


def check(settings: Settings, model: str) -> None:
    """Refuses what cannot end well, before the model is loaded."""
    settings.check()
    paths = outputs(settings.out)
    inputs = [Path(model), *settings.text]
    # a run that was killed between the first of them and the head may replace what it wrote
    ours = (paths.work / work_folder.MARK).is_file() and (paths.work / COMPLETE).is_file()
    for path in paths.files():
        check_output(path, inputs, force=settings.force or (ours and path != paths.side_car))
    work_folder.check(paths.work, inputs)
    import_torch()


def run(llm: DarwinNEG, settings: Settings, *, command: str, progress: StepProgress) -> dict[str, Any]:
    """Trains a head for the model and writes it with its report; returns the report. An interrupted run goes on at the next call.

    KeyboardInterrupt while a head is trained ends the training and keeps the best; before that it leaves the work folder.
    progress: called with the name of the step, what of it is done, and the whole.
    """
    check(settings, llm.path)
    paths = outputs(settings.out)
    documents = _text_documents(llm, settings)
    if not settings.own_texts:
        corpus.check_size(documents)
    elif settings.text and not documents:
        raise RequestError("--text: holds no text; leave it out or give other files")
    work_folder.make(paths.work)
    try:
        result = _run(llm, settings, documents, paths, command, progress)
    except (RequestError, ContextFullError):  # refused: there is nothing to go on with
        work_folder.remove(paths.work, paths.work_files())
        raise
    work_folder.remove(paths.work, paths.work_files())
    return result


def _run(
    llm: DarwinNEG,
    settings: Settings,
    documents: Sequence[Document],
    paths: Outputs,
    command: str,
    progress: StepProgress,
) -> dict[str, Any]:
    model = sha256_file(llm.path)
    own = _own_documents(llm, settings, documents, paths.work, model, progress)
    corpus.check_size([*documents, *own])
    captured: dict[str, Captured] = {}
    for part in SPLITS:
        sequences = corpus.sequences([one for one in [*documents, *own] if one.split == part], settings.context)
        told = partial(progress, f"capture {part}")
        captured[part] = capture(llm, sequences, paths.work, part, told, model=model)
    validation = captured["validation"]
    trained = train(
        captured["train"].hidden,
        captured["train"].entropy,
        (np.array(validation.hidden), validation.entropy),
        settings.recipe,
        state=paths.work / STATE,
        tell=lambda epoch, _error, _better: progress("train", epoch + 1, settings.recipe.epochs),
    )
    head = trained.head
    threshold = settings.threshold
    if threshold is None:
        threshold = threshold_for(predict(head, validation.hidden), settings.target_rate)
    name = os.path.basename(llm.path)
    head = replace(head, threshold=float(np.float32(threshold)), source=f"trained for {name} by darwin-neg train-head")
    result = {
        "command": command,
        "model": _model(llm, model),
        "head": {"n_reduced": head.n_reduced, "threshold": head.threshold, "top_k": head.top_k},
        "threshold_from": "given"
        if settings.threshold is not None
        else f"set for {settings.target_rate:.2%} of the validation positions",
        "test": compare(head, captured["test"], float(captured["train"].entropy.mean())),
        "data": {
            "text_documents": len(documents),
            "own_documents": len(own),
            "files": [os.path.basename(path) for path in settings.text],
            "parts": {part: _part(part, [*documents, *own], captured[part]) for part in SPLITS},
        },
        "training": {
            "recipe": asdict(settings.recipe),
            "epochs": len(trained.validation_errors),
            "best_epoch": trained.best_epoch,
            "validation_errors": list(trained.validation_errors),
            "interrupted": trained.interrupted,
        },
    }
    _write(llm, head, result, captured["test"], paths)
    return result


def compare(head: NegHead, data: Captured, mean: float) -> dict[str, dict[str, float]]:
    """The head and the two baselines on the same positions; mean: what the constant baseline says, nats."""
    predictions = {
        "head": predict(head, data.hidden),
        "constant": np.full(len(data.entropy), mean, np.float32),
        "previous": data.previous_entropy(mean),
    }
    return {name: agreement(values, data.entropy, head.threshold).as_dict() for name, values in predictions.items()}


def released_layout(head: NegHead) -> bytes:
    """The bytes of a neg_modules.safetensors."""
    data = {released: head.tensors()[name] for released, name in neg_format.RELEASED.items()}
    data["head.proj_out.weight"] = data["head.proj_out.weight"].reshape(1, -1)
    data[neg_format.RELEASED_THRESHOLD] = np.float32(head.threshold).reshape(())
    data[neg_format.RELEASED_TEMP_SCALE] = np.float32(head.temp_scale).reshape(())
    header: dict[str, Any] = {}
    at = 0
    for name, values in data.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return (
        len(text).to_bytes(8, "little")
        + text
        + b"".join(np.ascontiguousarray(v, "<f4").tobytes() for v in data.values())
    )


def _text_documents(llm: DarwinNEG, settings: Settings) -> list[Document]:
    documents = corpus.tokenized(llm, corpus.read(settings.text))
    return corpus.split(corpus.limited(documents, settings.max_tokens, settings.recipe.seed), settings.recipe.seed)


def _own_documents(
    llm: DarwinNEG, settings: Settings, documents: Sequence[Document], work: Path, model: str, progress: StepProgress
) -> list[Document]:
    """The model's own texts, each once."""
    seed, count = settings.recipe.seed, settings.own_texts
    texts, answers = (work / name for name in OWN_FILES)
    if documents:
        starts = corpus.openings(documents, count, seed)
        return corpus.distinct(_generated(llm, settings, starts, texts, model, 0, progress))
    # without text to begin with: from nothing, and answers to what such texts hold
    free = [Opening(f"own text {k}", "", answer=False) for k in range(count - count // 2)]
    own = corpus.split(corpus.distinct(_generated(llm, settings, free, texts, model, 0, progress)), seed)
    written = [one for one in own if one.text.strip()]
    if not written:
        return own
    starts = [replace(one, answer=True) for one in corpus.openings(written, count // 2, seed)]
    answered = _generated(llm, settings, starts, answers, model, len(free), progress)
    return corpus.distinct([*own, *answered])


def _generated(
    llm: DarwinNEG,
    settings: Settings,
    starts: Sequence[Opening],
    path: Path,
    model: str,
    before: int,
    progress: StepProgress,
) -> list[Document]:
    """Those that an interrupted run has got already, in `path`, are not generated again. before: texts of other files."""
    key = hashlib.sha256(
        # a head may act on what is sampled
        repr(
            [model, llm.neg, settings.own_tokens, settings.own_temperature, settings.recipe.seed, before, starts]
        ).encode()
    ).hexdigest()
    tokens = _saved_texts(path, key)[: len(starts)]
    while len(tokens) < len(starts):
        tokens += corpus.own_texts(
            llm,
            starts[len(tokens) : len(tokens) + OWN_AT_ONCE],
            seed=corpus.group_seed(settings.recipe.seed, before + len(tokens)),
            max_tokens=settings.own_tokens,
            temperature=settings.own_temperature,
        )
        with replacing(path) as (file, _):
            file.write("\n".join(json.dumps(one) for one in [key, *tokens]).encode())
        progress("generate", before + len(tokens), settings.own_texts)
    return [
        Document(start.origin, llm.detokenize(one), one, start.split)
        for start, one in zip(starts, tokens, strict=True)
        if len(one) > 1
    ]


def _saved_texts(path: Path, key: str) -> list[tuple[int, ...]]:
    try:
        first, *lines = path.read_text("utf-8").split("\n")
        return [tuple(json.loads(line)) for line in lines] if json.loads(first) == key else []
    except (OSError, ValueError, TypeError):  # damaged: it is only a saving of time
        return []


def _model(llm: DarwinNEG, sha256: str) -> dict[str, Any]:
    return {
        "file": os.path.basename(llm.path),
        "sha256": sha256,
        "description": llm.info["description"],
        "n_embd": llm.info["n_embd"],
    }


def _part(part: str, documents: Sequence[Document], data: Captured) -> dict[str, Any]:
    return {
        "documents": sum(one.split == part for one in documents),
        "tokens": len(data.entropy),
        "mean_entropy": float(data.entropy.mean()),
    }


def _write(llm: DarwinNEG, head: NegHead, result: dict[str, Any], test: Captured, paths: Outputs) -> None:
    """All files are made in the work folder first, so that a full disk leaves none of them, and moved to their places then."""
    made = {path: paths.work / path.name for path in paths.files()}
    try:
        report.write(made[paths.figure], report.figure(predict(head, test.hidden), test.entropy, head.threshold))
        report.write(made[paths.json], result)
        report.write(made[paths.markdown], report.markdown(result, paths.figure.name))
        with replacing(made[paths.safetensors]) as (file, _):
            file.write(released_layout(head))
        with rename_in_errors(made[paths.side_car], paths.side_car):
            neg_files.write_side_car(head, llm.path, made[paths.side_car], force=True)
        report.write(paths.work / COMPLETE, "The finished files are being moved to their places.\n")
        for path, temporary in made.items():
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{shown_path(paths.side_car)}: cannot be written ({error.strerror}); free space and give the same command again"
        ) from error
