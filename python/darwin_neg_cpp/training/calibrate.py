"""How well a head predicts on one file, and the threshold that gives its gate a target activation rate there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import NegHeadError, RequestError
from ..files.input_file import shown, shown_path
from ..files.output_file import check_output
from ..files.progress import Progress
from ..gguf_file.header import read_header
from ..gguf_file.parts import refuse_split
from ..neg import files as neg_files
from ..neg import formats as neg_format
from ..trace.agreement import Agreement, find_threshold, measure_agreement
from . import corpus, token_confidence, token_report

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..llm import DarwinNEG
    from ..results import Scores

LEAST_TOKENS = 500


@dataclass
class Calibration:
    """agreement: at the present threshold. reference_*: agreement of the less quantized file, mean |difference| of the
    two predictions (nats), and the share of positions at which the two gates differ. tokens: for a report, which needs
    what the text's own tokens are."""

    model: str
    threshold: float
    target_rate: float
    new_threshold: float
    agreement: Agreement
    sequences: list[tuple[int, ...]] = field(repr=False)
    predicted: npt.NDArray[np.float32] = field(repr=False)
    source: str = ""
    tokens: token_confidence.Tokens | None = field(default=None, repr=False)
    reference: str | None = None
    reference_agreement: Agreement | None = None
    reference_difference: float | None = None
    reference_moved: float | None = None

    def as_dict(self) -> dict[str, Any]:
        out = {
            "model": self.model,
            "threshold": self.threshold,
            "target_rate": self.target_rate,
            "new_threshold": self.new_threshold,
            **self.agreement.as_dict(),
        }
        if self.reference_agreement is not None:
            out["reference"] = {
                "model": self.reference,
                "mean_difference": self.reference_difference,
                "gate_differs": self.reference_moved,
                **self.reference_agreement.as_dict(),
            }
        return out

    def describe(self) -> str:
        rows = [("this file", self.agreement)]
        if self.reference_agreement is not None:
            rows.append(("reference", self.reference_agreement))
        lines = [f"{shown_path(self.model)}: {self.agreement.positions} positions, threshold {self.threshold:.4f} nats"]
        lines += [
            f"{name}: gate active at {row.activation_rate:.2%} (true entropy above it at {row.true_rate:.2%}); "
            f"R² {row.r2:.3f}, mean error {row.mae:.3f} nats, precision {row.precision:.2f}, recall {row.recall:.2f}"
            for name, row in rows
        ]
        if self.reference_agreement is not None:
            lines.append(
                f"predictions differ from the reference's by {self.reference_difference:.4f} nats on average, the "
                f"gate at {self.reference_moved:.2%} of positions"
            )
        return "\n".join([*lines, f"threshold for {self.target_rate:.2%}: {self.new_threshold:.4f} nats"])


def check(
    model: str,
    side_car: str | None,
    out: Path | None,
    texts: Sequence[Path],
    *,
    reference: str | None,
    force: bool,
    report: Path | None = None,
) -> None:
    """Refuses what cannot end well, before the model is loaded."""
    neg_format.read_head(side_car or model)
    if reference is not None:
        read_header(reference)
        if not side_car:
            neg_format.read_head(reference)
    read = [*(Path(path) for path in (model, side_car, reference) if path), *texts]
    if out is not None:
        if not side_car:
            refuse_split(read_header(model))
        check_output(out, read, force=force)
    if report is not None:
        token_report.check(report, read if out is None else [*read, out], force=force)


def measure(
    llm: DarwinNEG,
    texts: Sequence[Path],
    *,
    target_rate: float,
    max_tokens: int,
    context: int,
    progress: Progress,
    by_token: bool = False,
) -> Calibration:
    """Compares predicted with true entropies along texts, and finds the threshold for `target_rate`.

    by_token: keep what a report needs of each token.

    Errors: RequestError for texts of too few tokens, NegHeadError for a model without a head.
    """
    if llm.neg is None:
        raise NegHeadError(f"{shown_path(llm.path)}: has no NEG head; give one as a side-car")
    # nothing is split here: parts need not be many, and a long one has more context
    documents = corpus.read(texts, least_part=corpus.PART_CHARACTERS[1])
    documents = corpus.limit(corpus.tokenize(llm.session, documents), max_tokens, 0)
    numbered = corpus.cut_numbered(llm.session, documents, context)
    sequences = [sequence for _, sequence in numbered]
    if (total := sum(map(len, sequences))) < LEAST_TOKENS:
        raise RequestError(f"text holds {total} tokens, at least {LEAST_TOKENS} are needed; give more text")
    scores = _score(llm.session, sequences, progress, top=1 if by_token else 0)
    predicted, true = _entropies(scores)
    threshold = float(llm.neg["threshold"])
    tokens = token_confidence.collect(llm.session, scores, [number for number, _ in numbered]) if by_token else None
    return Calibration(
        model=os.path.basename(llm.path),
        threshold=threshold,
        target_rate=target_rate,
        new_threshold=find_threshold(predicted, target_rate),
        agreement=measure_agreement(predicted, true, threshold),
        sequences=sequences,
        predicted=predicted,
        source=str(llm.neg["source"]),
        tokens=tokens,
    )


def add_reference(calibration: Calibration, other: DarwinNEG, *, progress: Progress) -> None:
    """Adds how another file of the same model, less quantized and with the same head, predicts on the same texts."""
    if other.neg is None:
        raise NegHeadError(f"{shown_path(other.path)}: has no NEG head; give the same head as the model's")
    predicted, true = _entropies(_score(other.session, calibration.sequences, progress))
    calibration.reference = os.path.basename(other.path)
    calibration.reference_agreement = measure_agreement(predicted, true, calibration.threshold)
    calibration.reference_difference = float(np.abs(predicted - calibration.predicted).mean())
    calibration.reference_moved = float(
        ((predicted > calibration.threshold) != (calibration.predicted > calibration.threshold)).mean()
    )


def write(model: str, side_car: str | None, threshold: float, out: Path, *, force: bool) -> None:
    """Writes a copy of the side-car, or of the model with its head inside, with another threshold."""
    head = replace(neg_format.read_head(side_car or model), threshold=threshold)
    if side_car:
        neg_files.write_side_car(head, model, out, force=force)
    else:
        neg_files.attach(model, head, out, force=force, replace=True)


def write_report(calibration: Calibration, texts: Sequence[Path], folder: Path, *, command: str) -> None:
    """Writes report.md, report.json and report.svg about the tokens. command: repeats it."""
    assert calibration.tokens is not None
    report = {
        "command": command,
        "model": calibration.model,
        "head": calibration.source,
        "texts": [shown(path.name) for path in texts],
        "agreement": calibration.agreement.as_dict(),
        "figures": token_confidence.summarize(calibration.tokens),
    }
    token_report.write(folder, report)


def _score(session: Session, sequences: Sequence[tuple[int, ...]], progress: Progress, top: int = 0) -> list[Scores]:
    out = []
    total, done = sum(map(len, sequences)), 0
    for scores in session.score(sequences, hidden=False, top=top):
        out.append(scores)
        done += len(scores.token_ids)
        progress(done, total)
    return out


def _entropies(scores: Sequence[Scores]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Predicted and true ones of all texts."""
    predicted = [score.neg.entropy for score in scores if score.neg is not None]
    return np.concatenate(predicted), np.concatenate([score.entropy for score in scores])
