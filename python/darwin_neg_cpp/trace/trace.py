"""What the head saw along a text: predicted and true entropy, gate and alternatives at every token."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import NegHeadError, RequestError
from ..files.input_file import shown_path
from ..sampling import Neg
from .agreement import agreement

if TYPE_CHECKING:
    from ..llm import DarwinNEG
    from ..sampling import NegActionName, SamplingParams

TOP = 5


@dataclass(frozen=True)
class TraceToken:
    """One token of the text. What is said about it is about the distribution that it comes out of, so the first token has None.

    text: "" where a character ends in a later token. predicted, true: entropy, nats; None also without a head, or where a model gives no
    finite number. active: of the gate. logprob: of this token under the model, natural. top: the likeliest tokens there with their probabilities.
    generated: by the model, or part of the prompt.
    """

    id: int
    text: str
    generated: bool
    predicted: float | None
    true: float | None
    active: bool
    logprob: float | None
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Trace:
    """action, threshold (nats; infinite: never active), top_k: of the gate as the request had it, the model's where it said nothing. action is
    None without a head; threshold and top_k are None without a head and where the action is "off". prompt_tokens: how many tokens at
    the beginning were given."""

    model: str
    source: str
    action: NegActionName | None
    threshold: float | None
    top_k: int | None
    prompt_tokens: int
    tokens: tuple[TraceToken, ...]

    @property
    def has_head(self) -> bool:
        return self.action is not None

    def summary(self) -> dict[str, float | int | None]:
        """Figures over the generated tokens, or over all where nothing was generated. nats; None where nothing can be said."""
        about = [one for one in self.tokens if one.true is not None]
        about = [one for one in about if one.generated] or about
        logprobs = [one.logprob for one in about if one.logprob is not None]
        out: dict[str, float | int | None] = {
            "tokens": len(about),
            "mean_true_entropy": float(np.mean([one.true for one in about])) if about else None,
            "mean_logprob": float(np.mean(logprobs)) if logprobs else None,
        }
        if self.has_head and about:
            out["activation_rate"] = float(np.mean([one.active for one in about]))
        about = [one for one in about if one.predicted is not None]
        if about:
            predicted = np.array([one.predicted for one in about], np.float64)
            # the threshold has no part in the figures that are taken from it
            found = agreement(predicted, np.array([one.true for one in about], np.float64), math.inf)
            out |= {
                "mean_predicted_entropy": float(predicted.mean()),
                "mean_error": found.mae,
                "r2": found.r2,
                "pearson": found.pearson,
            }
        return out

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: such a threshold becomes None."""
        out = asdict(self)
        if self.threshold is not None:
            out["threshold"] = _finite(self.threshold)
        return {key: out.pop(key) for key in ("model", "source", "action", "threshold", "top_k", "prompt_tokens")} | {
            "summary": self.summary(),
            **out,
        }


def generated(llm: DarwinNEG, prompt: str | Sequence[int], params: SamplingParams) -> Trace:
    """Generates from a prompt and traces prompt and answer. Predictions and gate of the answer are those of the generation itself."""
    tokens = llm.tokenize(prompt) if isinstance(prompt, str) else list(prompt)
    out = llm.generate(tokens, params, n=1)
    seen = None if out.neg is None else (out.neg.entropy, out.neg.active)
    return _trace(llm, [*tokens, *out.token_ids.tolist()], len(tokens), seen, params.neg)


def of_text(llm: DarwinNEG, text: str, *, neg: Neg | None = None) -> Trace:
    """Traces a given text ("teacher-forced"). neg: where the gate would be active; None: as the model file says."""
    if neg is not None and llm.neg is None:
        raise NegHeadError(f"{shown_path(llm.path)}: has no NEG head, so there is no gate; give one with a side-car")
    tokens = llm.tokenize(text, parse_special=False)
    if len(tokens) < 2:
        raise RequestError("the text has fewer than two tokens; there is nothing to trace")
    return _trace(llm, tokens, len(tokens), None, neg)


def _trace(
    llm: DarwinNEG,
    tokens: list[int],
    n_prompt: int,
    seen: tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]] | None,
    neg: Neg | None,
) -> Trace:
    action, threshold, top_k = gate(llm, neg)
    out = llm.score(tokens, top=TOP)
    texts = pieces(llm, tokens)
    entries = []
    for i, token in enumerate(tokens):
        at = i - 1  # the distribution that token i comes out of is said at the token before it
        predicted, active = None, False
        if at >= 0 and out.neg is not None:
            # not out.neg.active, which goes by the model's threshold; compared in float32, as the gate does
            active = threshold is not None and bool(out.neg.entropy[at] > np.float32(threshold))
            predicted = _finite(out.neg.entropy[at])
        if i >= n_prompt and seen is not None:
            predicted, active = _finite(seen[0][i - n_prompt]), bool(seen[1][i - n_prompt])
        entries.append(
            TraceToken(
                id=token,
                text=texts[i],
                generated=i >= n_prompt,
                predicted=predicted,
                true=_finite(out.entropy[at]) if at >= 0 else None,
                active=active,
                logprob=_finite(out.logprobs[at]) if at >= 0 else None,
                top=() if at < 0 else _alternatives(llm, out.top_ids[at], out.top_logprobs[at]),
            )
        )
    return Trace(
        model=os.path.basename(llm.path),
        source="" if llm.neg is None else str(llm.neg["source"]),
        action=action,
        threshold=threshold,
        top_k=top_k,
        prompt_tokens=n_prompt,
        tokens=tuple(entries),
    )


def gate(llm: DarwinNEG, neg: Neg | None) -> tuple[NegActionName | None, float | None, int | None]:
    """Action, threshold and top_k that a request with these options gets; see Trace."""
    if llm.neg is None:
        return None, None, None
    asked = neg or Neg()
    if not asked.enabled or asked.action == "off":
        return "off", None, None
    threshold = float(llm.neg["threshold"]) if asked.threshold is None else float(asked.threshold)
    return asked.action, threshold, int(asked.top_k or llm.neg["top_k"])


def _finite(value: float | np.floating[Any]) -> float | None:
    return float(value) if math.isfinite(value) else None


def _alternatives(
    llm: DarwinNEG, ids: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]
) -> tuple[tuple[str, float], ...]:
    return tuple(
        (llm.detokenize([int(i)], special=True), float(np.exp(p)))
        for i, p in zip(ids, logprobs, strict=True)
        if math.isfinite(p)
    )


def pieces(llm: DarwinNEG, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds. A character of several tokens comes with the last of them; control tokens are written out."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out = []
    for i, token in enumerate(tokens):
        # some tokenizers drop a space at the beginning of a text, so each token is looked at behind the one before it
        before = list(tokens[max(0, i - 1) : i])
        head = llm.session.detokenize_bytes(before, special=True)
        both = llm.session.detokenize_bytes([*before, token], special=True)
        out.append(decoder.decode(both[len(head) :], i == len(tokens) - 1))
    return out
