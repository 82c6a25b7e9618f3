"""What entropies tell of the next token of a given text: how well they predict that it is not the likeliest one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..confidence.bootstrap import Difference, Estimate, Rating, compare, draw_weights, rate

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..results import Scores

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
DECILES = 10
KINDS = ("word start", "continuation", "digit", "punctuation", "other")
# tokens of the sequence that the model has seen, from and to (exclusive)
POSITIONS = ((1, 8), (8, 32), (32, 128), (128, 1 << 31))
SIGNALS = ("predicted", "true", "likeliest")  # the last: minus the log-probability of the likeliest token


@dataclass(frozen=True)
class Tokens:
    """The tokens of texts, but the first of each sequence; all [tokens].

    predicted, true: entropy of the distribution that each was to be drawn from, nats. likeliest: probability of the
    likeliest token. wrong: the text's token is another one. kind: index into KINDS. position: tokens of the sequence
    before it. document: which it belongs to.
    """

    predicted: Floats
    true: Floats
    likeliest: Floats
    wrong: npt.NDArray[np.bool_]
    kind: npt.NDArray[np.intp]
    position: npt.NDArray[np.intp]
    document: npt.NDArray[np.intp]

    def signal(self, name: str) -> Floats:
        """One of SIGNALS as an uncertainty."""
        return {"predicted": self.predicted, "true": self.true, "likeliest": -np.log(self.likeliest)}[name]


def collect(session: Session, scores: Sequence[Scores], documents: Sequence[int]) -> Tokens:
    """Takes the tokens from scores of texts with top=1. documents: that each text belongs to."""
    kinds = TokenKinds(session)
    columns: dict[str, list[Any]] = {name: [] for name in Tokens.__annotations__}
    for score, document in zip(scores, documents, strict=True):
        assert score.neg is not None
        ids = score.token_ids
        columns["predicted"].append(score.neg.entropy[:-1])
        columns["true"].append(score.entropy[:-1])
        columns["likeliest"].append(np.exp(score.top_logprobs[:-1, 0].astype(np.float64)))
        columns["wrong"].append(score.top_ids[:-1, 0] != ids[1:])
        columns["kind"].append([kinds.find(int(a), int(b)) for a, b in itertools.pairwise(ids)])
        columns["position"].append(np.arange(1, len(ids)))
        columns["document"].append(np.full(len(ids) - 1, document))
    types: dict[str, Any] = {"wrong": np.bool_, "kind": np.intp, "position": np.intp, "document": np.intp}
    arrays: dict[str, Any] = {
        name: np.concatenate(parts).astype(types.get(name, np.float64)) for name, parts in columns.items()
    }
    finite = np.isfinite(arrays["predicted"]) & np.isfinite(arrays["true"]) & (arrays["likeliest"] > 0)
    return Tokens(**{name: values[finite] for name, values in arrays.items()})


class TokenKinds:
    """The kinds of a vocabulary's tokens, looked up when first asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._texts: dict[int, str] = {}

    def find(self, before: int, token: int) -> int:
        """Returns the kind of a token after another one, as an index into KINDS."""
        return KINDS.index(name_kind(self._text(before), self._text(token)))

    def _text(self, token: int) -> str:
        if token not in self._texts:
            # some tokenizers drop the space that a text begins with, so the token is decoded after another one
            first = self._session.detokenize_bytes([token])
            both = self._session.detokenize_bytes([token, token])
            self._texts[token] = both[len(first) :].decode("utf-8", "replace")
        return self._texts[token]


def name_kind(before: str, text: str) -> str:
    """Returns the kind of a token's text after another one's: by its first character that is not a space."""
    body = text.lstrip()
    if not body or body[0] == "\ufffd":  # spaces and line ends, control tokens, parts of a character
        return "other"
    if body[0].isdigit():
        return "digit"
    if body[0].isalpha():
        inside = body == text and before != "" and (before[-1].isalnum() or before[-1] in "'’_\ufffd")
        return "continuation" if inside else "word start"
    return "punctuation"


def summarize(tokens: Tokens, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Returns all figures, JSON-ready. Intervals are bootstraps over documents, whose tokens are not independent."""
    everything = np.ones(len(tokens.wrong), np.bool_)
    return {
        "tokens": len(tokens.wrong),
        "wrong": int(tokens.wrong.sum()),
        "documents": len(np.unique(tokens.document)),
        "resamples": resamples,
        "overall": _rate(tokens, everything, SIGNALS, resamples),
        "kinds": {
            name: _rate(tokens, tokens.kind == k, SIGNALS[:2], resamples)
            for k, name in enumerate(KINDS)
            if (tokens.kind == k).any()
        },
        "positions": {
            f"{low}-{high - 1}" if high < 1 << 31 else f"{low}-": _rate(tokens, here, SIGNALS[:2], resamples)
            for low, high in POSITIONS
            if (here := (tokens.position >= low) & (tokens.position < high)).any()
        },
        "deciles": {name: _deciles(tokens, name, resamples) for name in SIGNALS[:2]},
    }


def _rate(tokens: Tokens, here: npt.NDArray[np.bool_], names: Sequence[str], resamples: int) -> dict[str, Any]:
    """Ratings of some of the tokens, and what the prediction has on the true entropy."""
    wrong, groups = tokens.wrong[here], tokens.document[here]
    options: dict[str, Any] = {"groups": groups, "resamples": resamples}
    ratings = {name: rate(tokens.signal(name)[here], wrong, **options) for name in names}
    difference = compare(tokens.predicted[here], tokens.true[here], wrong, **options)
    return {
        "tokens": int(here.sum()),
        "wrong": int(wrong.sum()),
        **{name: _rating(rating) for name, rating in ratings.items()},
        "predicted_less_true": _difference(difference),
    }


def _rating(rating: Rating) -> dict[str, Any]:
    at = {f"{coverage:g}": _estimate(value) for coverage, value in rating.accuracy_at.items()}
    return {"auroc": _estimate(rating.auroc), "area": _estimate(rating.area), "accuracy_at": at}


def _difference(difference: Difference) -> dict[str, Any]:
    return {"auroc": _estimate(difference.auroc), "area": _estimate(difference.area)}


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    low, high = estimate.interval
    return {"value": _number(estimate.value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _deciles(tokens: Tokens, name: str, resamples: int) -> list[dict[str, Any]]:
    """Tenths of the tokens, the surest first: what is said, and what is so."""
    signal = tokens.signal(name)
    tenth = np.empty(len(signal), np.intp)
    for k, part in enumerate(np.array_split(np.argsort(signal, kind="stable"), DECILES)):
        tenth[part] = k
    shares = np.concatenate(list(_shares(tokens, tenth, resamples)))
    rows = []
    for k in np.unique(tenth):
        here = tenth == k
        low, high = np.nanquantile(shares[:, k], [0.025, 0.975])
        rows.append(
            {
                "from": float(signal[here].min()),
                "to": float(signal[here].max()),
                "tokens": int(here.sum()),
                "predicted": float(tokens.predicted[here].mean()),
                "true": float(tokens.true[here].mean()),
                "wrong": _estimate(Estimate(float(tokens.wrong[here].mean()), (float(low), float(high)))),
                "expected": float(1 - tokens.likeliest[here].mean()),
            }
        )
    return rows


def _shares(tokens: Tokens, tenth: npt.NDArray[np.intp], resamples: int) -> Iterator[Floats]:
    """Shares of wrong ones in each tenth of resampled tokens, [resamples, DECILES]; NaN for an empty one."""
    member = (tenth[:, None] == np.arange(DECILES)).astype(np.float64)
    for weights in draw_weights(len(tenth), groups=tokens.document, resamples=resamples):
        items = weights @ member
        yield np.divide(
            weights @ (member * tokens.wrong[:, None]), items, out=np.full_like(items, np.nan), where=items > 0
        )


def cells(estimate: Mapping[str, float | None], digits: int = 3, *, sign: bool = False) -> str:
    """A figure and its interval as text."""
    if estimate["value"] is None:
        return "–"
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    text = form.format(estimate["value"])
    if estimate["low"] is None or estimate["high"] is None:
        return text
    return f"{text} ({form.format(estimate['low'])} to {form.format(estimate['high'])})"
