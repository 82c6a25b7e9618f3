"""The results of generation and scoring. Arrays have one entry a token, end tokens included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import openai_json

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class NegTrace:
    """Prediction of the NEG head and state of its gate at each generated token.

    entropy: predicted entropy of the distribution that the token was drawn from, nats, float32 [tokens].
    active: whether the gate was active there, bool [tokens].
    """

    entropy: npt.NDArray[np.float32]
    active: npt.NDArray[np.bool_]

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
    finish_reason: "stop" (end token, or a stop string, then in `stop`), "length", "cancelled", or "error" for one of
        several samples that failed: `error` says why, and the rest is what there was before.
    seed, index: reproduce this sample. cached_tokens: of prompt_tokens, those that had been decoded before, for another
        request. prompt_seconds: time to decode the prompt; generate_seconds: from then on.
    """

    text: str
    token_ids: npt.NDArray[np.int32]
    finish_reason: FinishReason
    neg: NegTrace | None
    logprobs: TokenLogprobs | None = None
    stop: str | None = None
    seed: int = 0
    index: int = 0
    pieces: tuple[str, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    model: str = ""
    error: str | None = None

    def __str__(self) -> str:
        return self.text

    def to_openai(self) -> dict[str, Any]:
        """An OpenAI `text_completion` object, with the NEG trace under "neg"."""
        return openai_json.completion(self)


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

    @property
    def neg(self) -> NegTrace | None:
        return self.generation.neg

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
    finish_reason: set on the last chunk of a sample; error: why it failed. The counts and times are those of the
    request so far.
    """

    text: str
    token_ids: npt.NDArray[np.int32]
    pieces: tuple[str, ...]
    neg: NegTrace | None
    logprobs: TokenLogprobs | None = None
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
    def finish_reason(self) -> FinishReason | None:
        return self.chunk.finish_reason
