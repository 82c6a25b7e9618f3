"""What the head saw along a text: predicted and true entropy, gate and alternatives at every token."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ContextFullError, NegHeadError, RequestError
from ..files.input_file import shown_path
from ..sampling import Neg, SamplingParams
from ..spans import UncertainSpan, find_spans, token_offsets
from .agreement import measure_agreement

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..llm import DarwinNEG
    from ..results import Generation, Scores
    from ..sampling import NegActionName

TOP = 5


@dataclass(frozen=True)
class TraceToken:
    """One token of the text. Its figures describe the distribution that it was drawn from, so the first token has None.

    text: "" where a character ends in a later token. predicted, true: entropy, nats; None also without a head, or where
    a model gives no finite number. active: whether the gate was. logprob: of this token under the model, natural.
    top: the most likely tokens there with their probabilities. generated: by the model, or part of the prompt.
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
    """The tokens of a text, and the gate they were drawn with.

    action, threshold (nats; infinite: never active), top_k: the gate of the request, with the model's values where the
    request had none. action is None without a head; threshold and top_k are None without a head and where the action is
    "off". prompt_tokens: how many tokens at the beginning were given. spans: stretches of the text, all tokens' texts
    joined, where the predicted entropy is above the threshold, or with the gate off above the model's; of the generated
    tokens, or of all where nothing was generated.
    """

    model: str
    source: str
    action: NegActionName | None
    threshold: float | None
    top_k: int | None
    prompt_tokens: int
    tokens: tuple[TraceToken, ...]
    spans: tuple[UncertainSpan, ...] = ()

    @property
    def has_head(self) -> bool:
        return self.action is not None

    def summary(self) -> dict[str, float | int | None]:
        """Figures over the generated tokens, or over all where nothing was generated; nats, None where undefined."""
        counted = [token for token in self.tokens if token.true is not None]
        counted = [token for token in counted if token.generated] or counted
        logprobs = [token.logprob for token in counted if token.logprob is not None]
        out: dict[str, float | int | None] = {
            "tokens": len(counted),
            "mean_true_entropy": float(np.mean([token.true for token in counted])) if counted else None,
            "mean_logprob": float(np.mean(logprobs)) if logprobs else None,
        }
        if self.has_head and counted:
            out["activation_rate"] = float(np.mean([token.active for token in counted]))
        counted = [token for token in counted if token.predicted is not None]
        if counted:
            predicted = np.array([token.predicted for token in counted], np.float64)
            # the threshold has no part in the figures that are taken from it
            result = measure_agreement(predicted, np.array([token.true for token in counted], np.float64), math.inf)
            out |= {
                "mean_predicted_entropy": float(predicted.mean()),
                "mean_error": result.mae,
                "r2": result.r2,
                "pearson": result.pearson,
            }
        return out

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: an infinite threshold becomes None."""
        out = asdict(self)
        if self.threshold is not None:
            out["threshold"] = _finite(self.threshold)
        return {key: out.pop(key) for key in ("model", "source", "action", "threshold", "top_k", "prompt_tokens")} | {
            "summary": self.summary(),
            **out,
        }


def trace_generation(llm: DarwinNEG, prompt: str | Sequence[int], params: SamplingParams | None = None) -> Trace:
    """Generates from a prompt and traces prompt and answer.

    Predictions and gate of the answer are those of the generation itself. Errors: those of `generate`; RequestError for
    params with n other than 1.
    """
    params = params or SamplingParams()
    if params.n != 1:
        raise RequestError(
            f"n must be 1 for a trace, got {params.n}; trace one sample at a time, each with its own seed"
        )
    tokens = llm.session.tokenize_prompt(prompt)
    # its own log-probabilities are needed where the text is too long to be scored to its end
    (out,) = llm.session.run([tokens], replace(params, logprobs=params.logprobs or 0))
    assert not isinstance(out, list)  # n is 1
    return _trace(llm.session, tokens, out, params.neg)


def trace_text(llm: DarwinNEG, text: str, *, neg: Neg | None = None) -> Trace:
    """Traces a given text ("teacher-forced"). neg: where the gate would be active; None: as the model file says."""
    if neg is not None and llm.neg is None:
        raise NegHeadError(f"{shown_path(llm.path)}: has no NEG head, so there is no gate; give one with a side-car")
    tokens = llm.session.tokenize(text, parse_special=False)
    if len(tokens) < 2:
        raise RequestError("the text has fewer than two tokens; there is nothing to trace")
    if len(tokens) > (n_ctx := llm.session.info["n_ctx"]):
        raise ContextFullError(
            f"the text has {len(tokens)} tokens, the context holds {n_ctx}; shorten it or raise n_ctx"
        )
    return _trace(llm.session, tokens, None, neg)


def _trace(session: Session, given: list[int], answer: Generation | None, neg: Neg | None) -> Trace:
    action, threshold, top_k = resolve_gate(session, neg)
    tokens = given if answer is None else [*given, *answer.token_ids.tolist()]
    # A generated text may hold one token more than the context: nothing is predicted after the last one.
    (scores,) = session.score([tokens[: session.info["n_ctx"]]], hidden=False, top=TOP)
    first = TraceToken(tokens[0], "", False, None, None, False, None, ())
    scored = [_scored_token(session, scores, i, token, threshold) for i, token in enumerate(tokens[1:])]
    texts, ends_inside = decode_each(session, tokens)
    entries = [replace(token, text=text) for token, text in zip([first, *scored], texts, strict=True)]
    if answer is not None:
        entries[len(given) :] = [_generated_token(token, answer, k) for k, token in enumerate(entries[len(given) :])]
    return Trace(
        model=session.name,
        source="" if session.neg is None else str(session.neg["source"]),
        action=action,
        threshold=threshold,
        top_k=top_k,
        prompt_tokens=len(given),
        tokens=tuple(entries),
        spans=_find_spans(session, entries, ends_inside, threshold),
    )


def _find_spans(
    session: Session, tokens: Sequence[TraceToken], ends_inside: Sequence[bool], threshold: float | None
) -> tuple[UncertainSpan, ...]:
    """The uncertain stretches; see Trace."""
    if session.neg is None:
        return ()
    limit = float(session.neg["threshold"]) if threshold is None else threshold
    some = any(token.generated for token in tokens)
    counted = [token.predicted if token.generated or not some else None for token in tokens]
    entropy = np.array([math.nan if value is None else value for value in counted], np.float32)
    texts = [token.text for token in tokens]
    return tuple(find_spans("".join(texts), token_offsets(texts, ends_inside), entropy, limit))


def _scored_token(session: Session, scores: Scores, at: int, token: int, threshold: float | None) -> TraceToken:
    """The token after position `at`, by the scores of the finished text."""
    predicted, active = None, False
    if scores.neg is not None:
        predicted = _finite(scores.neg.entropy[at])
        # not scores.neg.active, which goes by the model's threshold; compared in float32, as the gate does
        active = threshold is not None and bool(scores.neg.entropy[at] > np.float32(threshold))
    return TraceToken(
        id=token,
        text="",
        generated=False,
        predicted=predicted,
        true=_finite(scores.entropy[at]),
        active=active,
        logprob=_finite(scores.logprobs[at]),
        top=_alternatives(session, scores.top_ids[at], scores.top_logprobs[at]),
    )


def _generated_token(token: TraceToken, answer: Generation, k: int) -> TraceToken:
    """Token `k` of the answer, with what the generation itself recorded of it."""
    token = replace(token, generated=True)
    if answer.neg is not None:
        token = replace(token, predicted=_finite(answer.neg.entropy[k]), active=bool(answer.neg.active[k]))
    if token.logprob is None and answer.logprobs is not None:
        token = replace(token, logprob=_finite(answer.logprobs.chosen[k]))
    return token


def resolve_gate(session: Session, neg: Neg | None) -> tuple[NegActionName | None, float | None, int | None]:
    """Action, threshold and top_k of a request with these options; see Trace."""
    if session.neg is None:
        return None, None, None
    options = neg or Neg()
    if not options.enabled or options.action == "off":
        return "off", None, None
    threshold = float(session.neg["threshold"]) if options.threshold is None else float(options.threshold)
    return options.action, threshold, int(options.top_k or session.neg["top_k"])


def _finite(value: float | np.floating[Any]) -> float | None:
    return float(value) if math.isfinite(value) else None


def _alternatives(
    session: Session, ids: npt.NDArray[np.int32], logprobs: npt.NDArray[np.float32]
) -> tuple[tuple[str, float], ...]:
    return tuple(
        (session.detokenize([int(i)], special=True), float(np.exp(p)))
        for i, p in zip(ids, logprobs, strict=True)
        if math.isfinite(p)
    )


def decode_each(session: Session, tokens: Sequence[int]) -> tuple[list[str], list[bool]]:
    """The text that each token adds, and whether it ends inside a character.

    A character of several tokens comes with the last of them; control tokens are written out.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out, ends_inside = [], []
    for i, token in enumerate(tokens):
        # some tokenizers drop a space at the beginning of a text, so each token is decoded after the one before it
        before = list(tokens[max(0, i - 1) : i])
        head = session.detokenize_bytes(before, special=True)
        both = session.detokenize_bytes([*before, token], special=True)
        out.append(decoder.decode(both[len(head) :], i == len(tokens) - 1))
        ends_inside.append(decoder.getstate()[0] != b"")
    return out, ends_inside
