"""From texts to a head: corpus, capture, training, threshold, report."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import neg_files, neg_format
from ..atomic_file import OutputError, check_output, replacing
from ..errors import RequestError
from ..input_file import shown_path
from ..measure import agreement, threshold_for
from ..neg_format import NegHead
from . import corpus, report
from .capture import Captured, capture
from .corpus import SPLITS, Document
from .head import Recipe, import_torch, predict, train

if TYPE_CHECKING:
    from ..llm import DarwinNEG

CARD_RATE = 0.0436  # activation rate that the card of Darwin-9B-NEG states
OWN_AT_ONCE = 32
Progress = Callable[[str, int, int], None]


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
        if self.threshold is not None and not 0 <= self.threshold < math.inf:
            raise RequestError(f"--threshold must be a number of nats >= 0, got {self.threshold}")
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
        if recipe.reduced > neg_format.MAX_REDUCED:
            raise RequestError(f"--reduced must be at most {neg_format.MAX_REDUCED}, got {recipe.reduced}")


@dataclass(frozen=True)
class Outputs:
    """Names of everything that is written, after the side-car's. work: a folder that is there only until the end."""

    side_car: Path
    safetensors: Path
    json: Path
    markdown: Path
    figure: Path
    work: Path


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


def run(llm: DarwinNEG, settings: Settings, *, command: str, progress: Progress) -> dict[str, Any]:
    """Trains a head for the model and writes it with its report; returns the report. An interrupted run goes on at the next call.

    KeyboardInterrupt while a head is trained ends the training and keeps the best; before that it leaves the work folder.
    progress: called with the name of the step, what of it is done, and the whole.
    """
    settings.check()
    import_torch()
    paths = outputs(settings.out)
    for path in (paths.side_car, paths.safetensors, paths.json, paths.markdown, paths.figure):
        check_output(path, [Path(llm.path), *settings.text], force=settings.force)
    documents = _text_documents(llm, settings)
    try:
        paths.work.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{shown_path(paths.work)}: cannot be made ({error.strerror}); choose another --out"
        ) from None
    own = _own_documents(llm, settings, documents, paths.work, progress)
    corpus.check_size([*documents, *own])
    captured: dict[str, Captured] = {}
    for part in SPLITS:
        sequences = corpus.sequences([one for one in [*documents, *own] if one.split == part], settings.context)
        captured[part] = capture(llm, sequences, paths.work, part, partial(progress, f"capture {part}"))
    epochs: list[tuple[int, float]] = []

    def tell(epoch: int, error: float, _better: bool) -> None:
        epochs.append((epoch, error))
        progress("train", epoch + 1, settings.recipe.epochs)

    validation = captured["validation"]
    head = train(
        captured["train"].hidden,
        captured["train"].entropy,
        (np.array(validation.hidden), validation.entropy),
        settings.recipe,
        state=paths.work / "training.pt",
        tell=tell,
    )
    threshold = settings.threshold
    if threshold is None:
        threshold = threshold_for(predict(head, validation.hidden), settings.target_rate)
    name = os.path.basename(llm.path)
    head = replace(head, threshold=float(np.float32(threshold)), source=f"trained for {name} by darwin-neg train-head")
    result = {
        "command": command,
        "model": _model(llm),
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
            "epochs": len(epochs),
            "best_epoch": min(epochs, key=lambda one: one[1])[0] if epochs else 0,
            "validation_errors": [error for _, error in epochs],
        },
    }
    _write(llm, head, result, captured["test"], paths, force=settings.force)
    shutil.rmtree(paths.work, ignore_errors=True)
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
    llm: DarwinNEG, settings: Settings, documents: Sequence[Document], work: Path, progress: Progress
) -> list[Document]:
    """The model's own texts. Those that an interrupted run has got already are not generated again."""
    seed = settings.recipe.seed
    if documents:
        starts = corpus.openings(documents, settings.own_texts, seed)
    else:
        start = llm.info["bos"] if llm.info["bos"] >= 0 else llm.info["eos"]
        text = llm.detokenize([start], special=True)
        starts = [Document(f"own text {k}", text, (start,)) for k in range(settings.own_texts)]
    path = work / "own-texts.jsonl"
    key = hashlib.sha256(
        repr([os.path.getsize(llm.path), settings.own_tokens, settings.own_temperature, seed, starts]).encode()
    ).hexdigest()
    tokens = _saved_texts(path, key)
    while len(tokens) < len(starts):
        group = starts[len(tokens) : len(tokens) + OWN_AT_ONCE]
        tokens += [
            one.tokens
            for one in corpus.own_texts(
                llm,
                group,
                seed=(seed * 1_000_003 + len(tokens)) % 2**31,
                max_tokens=settings.own_tokens,
                temperature=settings.own_temperature,
            )
        ]
        with replacing(path) as (file, _):
            file.write("\n".join(json.dumps(one) for one in [key, *tokens]).encode())
        progress("generate", len(tokens), len(starts))
    out = [
        replace(start, tokens=one, text=llm.detokenize(one, special=True))
        for start, one in zip(starts, tokens, strict=True)
        if len(one) > 1
    ]
    return out if documents else corpus.split(out, seed)


def _saved_texts(path: Path, key: str) -> list[tuple[int, ...]]:
    try:
        first, *lines = path.read_text("utf-8").split("\n")
        return [tuple(json.loads(line)) for line in lines] if json.loads(first) == key else []
    except (OSError, ValueError):
        return []


def _model(llm: DarwinNEG) -> dict[str, Any]:
    return {
        "file": os.path.basename(llm.path),
        "sha256": neg_format.sha256_file(llm.path),
        "description": llm.info["description"],
        "n_embd": llm.info["n_embd"],
    }


def _part(part: str, documents: Sequence[Document], data: Captured) -> dict[str, Any]:
    return {
        "documents": sum(one.split == part for one in documents),
        "tokens": len(data.entropy),
        "mean_entropy": float(data.entropy.mean()),
    }


def _write(
    llm: DarwinNEG, head: NegHead, result: dict[str, Any], test: Captured, paths: Outputs, *, force: bool
) -> None:
    """The head comes last: where it is, its report is too."""
    try:
        report.write(paths.figure, report.figure(predict(head, test.hidden), test.entropy, head.threshold))
        report.write(paths.json, result)
        report.write(paths.markdown, report.markdown(result, paths.figure.name))
        with replacing(paths.safetensors) as (file, _):
            file.write(released_layout(head))
        neg_files.write_side_car(head, llm.path, paths.side_car, force=force)
    except OSError as error:
        raise OutputError(
            f"{shown_path(paths.side_car)}: cannot be written ({error.strerror}); check the disk's free space"
        ) from error
