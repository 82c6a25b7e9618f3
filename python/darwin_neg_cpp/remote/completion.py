"""Sampling parameters and answers as llama-server's /completion has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import DarwinNegError
from ..sampling import SamplingParams, to_engine_values
from .calls import Call, Inbox

# tokens whose text came with the last of them: the place of that among those that were sent, their number, and the
# text, or None where it never came
Withheld = tuple[int, int, "str | None"]

PATH = "/completion"
# our parameters that llama-server knows by the same name
SAME_NAMES = (
    "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "min_keep", "xtc_probability", "xtc_threshold",
    "adaptive_target", "adaptive_decay", "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau",
    "mirostat_eta", "repeat_penalty", "repeat_last_n", "frequency_penalty", "presence_penalty", "dry_multiplier",
    "dry_base", "dry_allowed_length", "dry_penalty_last_n", "samplers",
)  # fmt: skip
# what the server may have been started with otherwise, and an answer must not depend on
FIXED = {
    "stream": True,
    "return_tokens": True,
    "return_progress": True,
    "sse_ping_interval": 10,
    "ignore_eos": False,
    "logit_bias": [],
    "stop": [],
    "n_probs": 0,
    "n_keep": 0,
    "n_indent": 0,
    "t_max_predict_ms": -1,
    "backend_sampling": False,
    "reasoning_budget_tokens": -1,
    # written out where a vocabulary has them as control tokens, as the engine writes them
    "preserved_tokens": ["<think>", "</think>"],
}
FINISH = {"eos": "stop", "word": "stop", "limit": "length"}


def make_body(
    tokens: Sequence[int], params: SamplingParams, *, seed: int, temperature: float, cache: bool, has_neg: bool
) -> dict[str, Any]:
    """A request of one sample. params: all set; their seed, temperature and n do not count.

    seed: of the sample itself, as the samplers take it. cache: whether the server may use what it has of other
    prompts. has_neg: whether it has a head.
    """
    values = to_engine_values(params)
    body = {
        **FIXED,
        **{name: values[name] for name in SAME_NAMES},
        "dry_sequence_breakers": [text.decode() for text in values["dry_sequence_breakers"]],
        "prompt": list(tokens),
        "n_predict": -1 if values["max_tokens"] is None else values["max_tokens"],
        "temperature": temperature,
        "seed": seed,
        "cache_prompt": cache,
    }
    if has_neg:
        body["return_neg"] = True
        if params.neg is not None:
            body["neg"] = {"enabled": True, "action": params.neg.action} if params.neg.enabled else False
    return body


class Completion(Call):
    """A sample on its way. text, tokens, entropies, active: as far as it has come; count: number of its tokens.

    withheld: what is missing in `tokens`.
    """

    def __init__(self, inbox: Inbox, body: Any, handle: int = 0, index: int = 0) -> None:
        super().__init__(inbox, PATH, body)
        self.handle, self.index = handle, index
        self.restart()

    def restart(self) -> None:
        self.parts: list[str] = []
        self.tokens: list[int] = []
        self.withheld: list[Withheld] = []
        self.count = 0
        self.prompt_tokens = 0
        self.finish_reason = "cancelled"
        self.entropies: list[float] = []
        self.active: list[bool] = []
        self.neg: dict[str, Any] | None = None

    def take(self, event: Any) -> bool:
        if "error" in event:
            error = event["error"]
            message = error.get("message") if isinstance(error, dict) else error
            raise DarwinNegError(str(message))
        if "prompt_progress" in event:
            return False
        count = int(event["tokens_predicted"])
        self.prompt_tokens = int(event["tokens_evaluated"])
        if event["stop"]:
            self._finish(event, count)
            return True
        new = count - self.count
        (token,) = event["tokens"]
        if new > 1:
            self.withheld.append((len(self.tokens), new, str(event["content"])))
        self.tokens.append(int(token))
        self.parts.append(str(event["content"]))
        self.count = count
        neg = event.get("neg") or {}
        if isinstance(neg.get("entropy"), (int, float)):
            self.entropies.append(float(neg["entropy"]))
            self.active.append(bool(neg.get("active")))
        return False

    def _finish(self, event: Any, count: int) -> None:
        self.finish_reason = FINISH[event["stop_type"]]
        if isinstance(event.get("neg"), dict):
            self.neg = event["neg"]
        if count > self.count:  # the beginning of a character that was never completed
            self.withheld.append((len(self.tokens), count - self.count, None))
            self.parts.append(self._end())
        self.count = count

    def _end(self) -> str:
        """The text that the server has kept back at the end; of one that tells no pieces, a stand-in."""
        pieces = (self.neg or {}).get("tokens")
        whole = "".join(map(str, pieces)) if isinstance(pieces, list) else ""
        return whole[len(self.text) :] if whole.startswith(self.text) and whole != self.text else "\ufffd"

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def record(self) -> tuple[list[str], list[float] | None]:
        """The text of each token, and the predicted entropies; without a record of them, nothing."""
        neg = self.neg or {}
        pieces, entropy = neg.get("tokens"), neg.get("entropy")
        if not isinstance(pieces, list) or not isinstance(entropy, list):
            return [], None
        return [str(piece) for piece in pieces], [math.nan if (e := _number(value)) is None else e for value in entropy]

    def mean_entropy(self) -> float | None:
        """Nats; of what has come, where the sample did not end."""
        if self.neg is not None:
            return _number(self.neg.get("mean_entropy"))
        return math.fsum(self.entropies) / len(self.entropies) if self.entropies else None

    def activation_rate(self) -> float | None:
        if self.neg is not None:
            return _number(self.neg.get("activation_rate"))
        return sum(self.active) / len(self.active) if self.active else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
