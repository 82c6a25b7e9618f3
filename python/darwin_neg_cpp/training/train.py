"""From texts to a head: corpus, capture, training, threshold, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_integer, check_number, shown
from ..errors import ContextFullError, RequestError
from ..files.input_file import sha256_file
from ..files.output_file import check_output
from ..files.progress import StepProgress
from ..neg.head import MAX_REDUCED, NegHead
from ..trace.agreement import find_threshold, measure_agreement
from . import corpus, outputs, work_folder
from .capture import Captured, Scorer, capture
from .corpus import SPLITS, Document, Split
from .head import Recipe, Trained, import_torch, predict, train
from .outputs import COMPLETE, STATE, Outputs, name_outputs
from .own_texts import Writer, Writing, write_own_texts

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..llm import DarwinNEG

CARD_RATE = 0.0436  # activation rate that the card of Darwin-9B-NEG states


@dataclass(frozen=True)
class Settings:
    """threshold: nats, or None to set it so that `target_rate` of the validation positions lie above it.

    max_tokens: of the text, in total. context: tokens of text that are run through the model together. own_texts: how
    many texts the model writes itself, of own_tokens each at most.
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
        """Raises RequestError for a value out of range, named as the field is."""
        if not self.text and not self.own_texts:
            raise RequestError(
                "no text given; name files with text=..., or let the model write some with own_texts=..."
            )
        if self.threshold is not None:
            check_number("threshold", self.threshold, low=0)
        check_number("own_temperature", self.own_temperature, low=0)
        recipe = self.recipe
        for name, share in (("target_rate", self.target_rate), ("learning_rate", recipe.learning_rate)):
            if not 0 < check_number(name, share) < 1:
                raise RequestError(f"{name} must be between 0 and 1, and neither of them, got {shown(share)}")
        for name, value, low in (
            ("max_tokens", self.max_tokens, 1000),
            ("context", self.context, 16),
            ("own_texts", self.own_texts, 0),
            ("own_tokens", self.own_tokens, 8),
            ("reduced", recipe.reduced, 0),
            ("epochs", recipe.epochs, 1),
            ("patience", recipe.patience, 1),
            ("batch", recipe.batch, 1),
            ("seed", recipe.seed, 0),
        ):
            check_integer(name, value, low=low)
        if recipe.reduced > MAX_REDUCED:
            raise RequestError(f"reduced must be at most {MAX_REDUCED}, got {recipe.reduced}")


def check(settings: Settings, model: str) -> None:
    """Refuses what cannot end well, before the model is loaded."""
    settings.check()
    paths = name_outputs(settings.out)
    inputs = [Path(model), *settings.text]
    # a run that was killed between the first of them and the head may replace what it wrote
    ours = (paths.work / work_folder.MARK).is_file() and (paths.work / COMPLETE).is_file()
    for path in paths.files():
        check_output(path, inputs, force=settings.force or (ours and path != paths.side_car))
    work_folder.check(paths.work, inputs)
    import_torch()


def run(
    llm: DarwinNEG,
    settings: Settings,
    *,
    command: str,
    progress: StepProgress,
    writer: Writer | None = None,
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Trains a head for the model and writes it with its report, which is returned. An interrupted run resumes at the
    next call with the same settings.

    KeyboardInterrupt while a head is trained ends the training and keeps the best; before that it leaves the work
    folder. progress: called with the name of the step, the amount done, and the total.
    writer: generates the model's own texts elsewhere, as on servers. scorer: runs the texts through the model
    elsewhere, as on a cluster.
    """
    session = llm.session
    check(settings, session.path)
    paths = name_outputs(settings.out)
    documents = _read_documents(session, settings)
    if not settings.own_texts:
        corpus.check_size(documents)
    elif settings.text and not documents:
        raise RequestError("text holds no words; leave it out or name other files")
    work_folder.make(paths.work)
    try:
        result = _run(session, settings, documents, paths, command, progress, writer, scorer)
    except (RequestError, ContextFullError):  # refused: there is nothing to resume
        work_folder.remove(paths.work, paths.work_files())
        raise
    work_folder.remove(paths.work, paths.work_files())
    return result


def _run(
    session: Session,
    settings: Settings,
    texts: Sequence[Document],
    paths: Outputs,
    command: str,
    progress: StepProgress,
    writer: Writer | None,
    scorer: Scorer | None,
) -> dict[str, Any]:
    sha256 = sha256_file(session.path)
    writing = Writing(settings.own_texts, settings.own_tokens, settings.own_temperature, settings.recipe.seed, sha256)
    own = write_own_texts(session, texts, writing, paths.work, partial(progress, "generate"), writer)
    documents = [*texts, *own]
    corpus.check_size(documents)
    captured: dict[Split, Captured] = {}
    for part in SPLITS:
        sequences = corpus.cut_sequences(
            session, [document for document in documents if document.split == part], settings.context
        )
        watch = partial(progress, f"capture {part}")
        captured[part] = capture(session, sequences, paths.work, part, watch, model=sha256, scorer=scorer)
    validation = captured["validation"]
    trained = train(
        captured["train"].hidden,
        captured["train"].entropy,
        (np.array(validation.hidden), validation.entropy),
        settings.recipe,
        state=paths.work / STATE,
        on_epoch=lambda epoch, _error, _better: progress("train", epoch + 1, settings.recipe.epochs),
    )
    head = _with_threshold(trained.head, settings, validation, session.name)
    data = {
        "text_documents": len(texts),
        "own_documents": len(own),
        "files": [os.path.basename(path) for path in settings.text],
        "parts": {part: _describe_part(part, documents, captured[part]) for part in SPLITS},
    }
    result = {
        "command": command,
        "model": _describe_model(session, sha256),
        "head": {"n_reduced": head.n_reduced, "threshold": head.threshold, "top_k": head.top_k},
        "threshold_from": "given"
        if settings.threshold is not None
        else f"set for {settings.target_rate:.2%} of the validation positions",
        "test": compare(head, captured["test"], float(captured["train"].entropy.mean())),
        "data": data,
        "training": _describe_training(trained, settings.recipe),
    }
    test = captured["test"]
    outputs.write(paths, session.path, head, result, predict(head, test.hidden), test.entropy)
    return result


def compare(head: NegHead, data: Captured, mean: float) -> dict[str, dict[str, float]]:
    """The head and the two baselines on the same positions; mean: what the constant baseline predicts, nats."""
    predictions = {
        "head": predict(head, data.hidden),
        "constant": np.full(len(data.entropy), mean, np.float32),
        "previous": data.previous_entropy(mean),
    }
    return {
        name: measure_agreement(values, data.entropy, head.threshold).as_dict() for name, values in predictions.items()
    }


def _read_documents(session: Session, settings: Settings) -> list[Document]:
    documents = corpus.tokenize(session, corpus.read(settings.text))
    seed = settings.recipe.seed
    return corpus.split(corpus.limit(documents, settings.max_tokens, seed), seed)


def _with_threshold(head: NegHead, settings: Settings, validation: Captured, model: str) -> NegHead:
    threshold = settings.threshold
    if threshold is None:
        threshold = find_threshold(predict(head, validation.hidden), settings.target_rate)
    source = f"trained for {model} by darwin-neg train-head"
    return replace(head, threshold=float(np.float32(threshold)), source=source)


def _describe_model(session: Session, sha256: str) -> dict[str, Any]:
    return {
        "file": session.name,
        "sha256": sha256,
        "description": session.info["description"],
        "n_embd": session.info["n_embd"],
    }


def _describe_part(part: Split, documents: Sequence[Document], data: Captured) -> dict[str, Any]:
    return {
        "documents": sum(document.split == part for document in documents),
        "tokens": len(data.entropy),
        "mean_entropy": float(data.entropy.mean()),
    }


def _describe_training(trained: Trained, recipe: Recipe) -> dict[str, Any]:
    return {
        "recipe": asdict(recipe),
        "epochs": len(trained.validation_errors),
        "best_epoch": trained.best_epoch,
        "validation_errors": list(trained.validation_errors),
        "interrupted": trained.interrupted,
    }
