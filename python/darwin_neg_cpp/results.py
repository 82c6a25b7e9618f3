"""The results of generation and scoring. Arrays have one entry a token, end tokens included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import openai_json
from .checks import check_number
from .errors import RequestError
from .spans import UncertainSpan, find_origins, find_spans, token_offsets

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class NegTrace:
    """Prediction of the NEG head and state of its gate at each generated token.

    entropy: predicted entropy of the distribution that the token was drawn from, nats, float32 [tokens].
    active: whether the gate was active there, bool [tokens].
    threshold: the model's own, nats, whatever the request's was; None where it is not known.
    """

    entropy: npt.NDArray[np.float32]
    active: npt.NDArray[np.bool_]
    threshold: float | None = None

    @property
    def activation_rate(self) -> float:
        """Share of tokens at which the gate was active; 0 without tokens."""
        return float(self.active.mean()) if self.active.size else 0.0

    @property
    def mean_entropy(self) -> float:
        """Mean predicted entropy, nats; 0 without tokens."""
        return float(self.entropy.mean()) if self.entropy.size else 0.0


@dataclass(frozen=True)
class TokenText:
    """What one token stands for. written: with control tokens written out. bytes: as in a text, where a character may
    begin in one token and end in the next; empty for a control token."""

    written: bytes
    bytes: bytes


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural-log probabilities under the model's own distribution (temperature 1, before gate, grammar, penalties).

    chosen: of the generated tokens, float32 [tokens]. top_ids, top: the k most likely tokens, [tokens, k] (k may be 0).
    texts: of all these tokens, by id; empty in the chunks of a stream.
    """

    chosen: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int32]
    top: npt.NDArray[np.float32]
    texts: Mapping[int, TokenText] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The model's view of every position of a given text. Entry i is about the distribution of the token after token i.

    token_ids: int32 [tokens]. entropy: of that distribution, nats, float32 [tokens].
    neg: predicted entropy and gate, None when the model has no NEG head.
    logprobs: natural-log probability of the text's own next token, float32 [tokens], NaN at the end.
    top_ids, top_logprobs: the k most likely next tokens, [tokens, k].
    hidden: the LM head's input, float32 [tokens, n_embd], None unless asked for.
    All under the model's own distribution: temperature 1, no gate.
    """

    token_ids: npt.NDArray[np.int32]
    entropy: npt.NDArray[np.float32]
    neg: NegTrace | None
    logprobs: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int32]
    top_logprobs: npt.NDArray[np.float32]
    hidden: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Generation:
    """One generated answer.

    text: without stop string and end token. token_ids: int32 [tokens]. pieces: the text of each token ("" for one whose
        characters come with a later token, and for the end token). neg: None when the model has no NEG head.
    true_entropy: of the distribution that the model gave at each token, before any sampler (temperature 1, no gate),
        nats, float32 [tokens]; None unless asked for.
    finish_reason: "stop" (end token, or a stop string, then in `stop`), "length", "cancelled", or "error" for one of
        several samples that failed: `error` says why, and the rest is what there was before.
    ends_inside: whether a token ends inside a character, which the next one continues, bool [tokens].
    seed, index: reproduce this sample. cached_tokens: of prompt_tokens, those that had been decoded before, for another
        request. prompt_seconds: time to decode the prompt; generate_seconds: from then on.
    """

    text: str
    token_ids: npt.NDArray[np.int32]
    finish_reason: FinishReason
    neg: NegTrace | None
    logprobs: TokenLogprobs | None = None
    true_entropy: npt.NDArray[np.float32] | None = None
    stop: str | None = None
    seed: int = 0
    index: int = 0
    pieces: tuple[str, ...] = ()
    ends_inside: npt.NDArray[np.bool_] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    model: str = ""
    error: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def offsets(self) -> npt.NDArray[np.int32]:
        """The characters of `text` that each token has a part in, begin and end, [tokens, 2]; equal for one without
        text."""
        inside = np.zeros(len(self.pieces), np.bool_) if self.ends_inside is None else self.ends_inside
        return token_offsets(self.pieces, inside)

    def uncertain_spans(self, threshold: float | None = None, *, true_entropy: bool = False) -> list[UncertainSpan]:
        """Returns the stretches of `text` whose tokens have an entropy above a threshold, in order.

        threshold: nats; None: the one that the model's NEG head was trained with. true_entropy: go by the true
        entropy, which the request must have asked for, and not by the predicted one. Tokens without text, as the end
        token, count in no stretch. Errors: RequestError.
        """
        values, limit = _values_and_threshold(self, threshold, true_entropy=true_entropy)
        return find_spans(self.text, self.offsets, values, limit)

    def to_openai(self) -> dict[str, Any]:
        """An OpenAI `text_completion` object, with the NEG trace under "neg"."""
        return openai_json.completion(self)


def _values_and_threshold(
    out: Generation, threshold: float | None, *, true_entropy: bool
) -> tuple[npt.NDArray[np.float32], float]:
    """What uncertain_spans goes by."""
    values = out.true_entropy if true_entropy else None if out.neg is None else out.neg.entropy
    if values is None:
        raise RequestError(
            "true_entropy was not recorded; pass true_entropy=True to the request too"
            if true_entropy
            else "the model has no NEG head that predicts entropies; load one, or pass true_entropy=True here and to "
            "the request"
        )
    if threshold is None:
        threshold = None if out.neg is None else out.neg.threshold
        if threshold is None:
            raise RequestError("threshold is None, but no NEG head has learned one; give a number of nats")
    return values, check_number("threshold", threshold, low=0, infinite=(math.inf,))


@dataclass(frozen=True)
class ToolCall:
    """A call that the model asks for; `arguments` is JSON text as the model wrote it.

    id: no other call has it; a message of role "tool" names its call by it, under "tool_call_id".
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatReply:
    """An answer to a conversation: the reasoning the template marks as such, and the visible text.

    generation: the whole output, with its tokens and NEG trace. tool_calls: the complete calls of offered tools, in
    order; anything else that looks like a call is text.
    """

    text: str
    reasoning: str
    generation: Generation
    tool_calls: tuple[ToolCall, ...] = ()

    def __str__(self) -> str:
        return self.text

    def uncertain_spans(
        self,
        threshold: float | None = None,
        *,
        true_entropy: bool = False,
        part: Literal["text", "reasoning"] = "text",
    ) -> list[UncertainSpan]:
        """Returns the uncertain stretches of the visible text, or of the reasoning; their characters are counted there.

        See Generation.uncertain_spans, whose places count in the whole output with its marks.
        """
        if part not in ("text", "reasoning"):
            raise RequestError(f"part must be 'text' or 'reasoning', got {part!r}")
        values, limit = _values_and_threshold(self.generation, threshold, true_entropy=true_entropy)
        whole, shown = self.generation.text, self.text
        before = whole.find(self.reasoning) + len(self.reasoning) if self.reasoning in whole else 0
        if part == "reasoning":
            shown, whole, before = self.reasoning, whole[:before], 0
        origins = find_origins(shown, whole, before)
        return find_spans(shown, self.generation.offsets, values, limit, origins)

    @property
    def neg(self) -> NegTrace | None:
        return self.generation.neg

    @property
    def true_entropy(self) -> npt.NDArray[np.float32] | None:
        return self.generation.true_entropy

    @property
    def finish_reason(self) -> FinishReason:
        return self.generation.finish_reason

    @property
    def error(self) -> str | None:
        return self.generation.error

    @property
    def token_ids(self) -> npt.NDArray[np.int32]:
        return self.generation.token_ids

    def to_openai(self) -> dict[str, Any]:
        """An OpenAI `chat.completion` object, with the NEG trace under "neg"."""
        return openai_json.chat_completion(
            self.generation, text=self.text, reasoning=self.reasoning, tool_calls=self.tool_calls
        )


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer: the tokens whose text became certain, and that text.

    pieces: the text of each token, "" for one whose characters come with a later token.
    finish_reason: set on the last chunk of a sample; error: why it failed.
    The counts and times are those of the request so far.
    """

    text: str
    token_ids: npt.NDArray[np.int32]
    pieces: tuple[str, ...]
    neg: NegTrace | None
    logprobs: TokenLogprobs | None = None
    true_entropy: npt.NDArray[np.float32] | None = None
    ends_inside: npt.NDArray[np.bool_] | None = None
    index: int = 0
    finish_reason: FinishReason | None = None
    stop: str | None = None
    seed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class ChatChunk:
    """A piece of a streamed chat answer; `reasoning` or `text` or both are new. `chunk` holds the tokens."""

    text: str
    reasoning: str
    chunk: Chunk
    tool_calls: tuple[ToolCall, ...] = field(default=())

    @property
    def neg(self) -> NegTrace | None:
        return self.chunk.neg

    @property
    def true_entropy(self) -> npt.NDArray[np.float32] | None:
        return self.chunk.true_entropy

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.chunk.finish_reason
