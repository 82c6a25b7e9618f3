"""A scripted stand-in for `_core`, in plain Python, for tests of the API's and the CLI's plumbing alone.

Tokens are the bytes of UTF-8. The answer to a prompt is in ANSWERS, or else its words, of which
those in capitals are gated; a prompt that ends with "endless" is answered for ever.
Run as a program it is `darwin-neg` with this engine: `python fake_core.py generate ...`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from types import ModuleType
from typing import Any

import numpy as np

from darwin_neg_cpp.errors import DarwinNegError, NegHeadError, RequestError

ANSWERS = {
    "hostile": ["safe", "\x1b[2J", "\x07", "\u202e", "\x9b", "\r", "\n"],
    "thinker": ["<think>", "hm", "</think>", "42"],
    "boom": ["one", "!error the sampler gave up"],
    "broken": ["one", "!error llama_decode failed with code -3"],
}
TOKEN_SECONDS = 0.01  # of endless answers


def _reason_of(error: str) -> str:
    return "error" if error.startswith("llama_decode") else "refused"


class ChatPrompt:
    def __init__(self, prompt: str) -> None:
        self.prompt, self.stops, self.supports_thinking = prompt, [], True


class _Request:
    def __init__(self, prompt: str, params: dict[str, Any]) -> None:
        last = (prompt.split() or [""])[-1]
        self.endless = last == "endless"
        self.pieces = list(ANSWERS.get(last, [f"{word} " for word in prompt.split()]))
        self.params, self.prompt, self.cancelled, self.finished = params, prompt, False, False

    def sample(self, index: int, pieces: list[str], reason: str | None) -> dict[str, Any]:
        error = next((piece[7:] for piece in pieces if piece.startswith("!error")), None)
        pieces = [piece for piece in pieces if not piece.startswith("!error")]
        m, neg, top = len(pieces), self.params["has_neg"], self.params["logprobs"]
        gate = self.params["neg_action"] != "off"
        entropy = np.array([2.0 if piece.strip().isupper() else 0.0 for piece in pieces], np.float32)
        return {
            "index": index,
            "token_ids": np.array([len(piece) for piece in pieces], np.int32),
            "pieces": pieces,
            "entropy": entropy if neg else None,
            "active": (entropy > 1) & gate if neg else None,
            "logprobs": np.full(m, -0.5, np.float32) if top >= 0 else None,
            "top_ids": np.zeros((m, top), np.int32) if top > 0 else None,
            "top_logprobs": np.zeros((m, top), np.float32) if top > 0 else None,
            "finish_reason": _reason_of(error) if error else reason,
            "stop": None,
            "error": error,
        }


class Engine:
    """The newest instance is `Engine.last`; `calls` holds what was asked of it."""

    last: Engine
    with_neg = True

    def __init__(self, model_path: str, **options: Any) -> None:
        progress = options["progress"]
        if progress is not None and not progress(1.0):
            raise DarwinNegError("stopped")
        self.options, self.requests, self.closed = options, dict[int, _Request](), False
        self.calls: list[tuple[str, Any]] = []
        self.lock = threading.Lock()
        Engine.last = self

    def _check(self) -> None:
        if self.closed:
            raise DarwinNegError("the model is closed")

    def model_info(self) -> dict[str, Any]:
        neg = {"threshold": 1.0, "top_k": 20, "temp_scale": 1.0, "temp_enabled": False, "source": "script"}
        return {
            "description": "scripted",
            "n_vocab": 256,
            "n_threads": 1,
            "bos": -1,
            "neg": neg if self.with_neg else None,
        }

    def metadata(self) -> dict[str, str]:
        return {"general.name": "scripted"}

    def stats(self) -> dict[str, int]:
        return {"n_requests": len(self.requests)}

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        self._check()
        return list(text)

    def detokenize(self, tokens: list[int], special: bool) -> bytes:
        return bytes(tokens)

    def submit(self, prompts: list[list[int]], **params: Any) -> list[int]:
        self._check()
        if not all(prompts):
            raise RequestError("prompt has no tokens")
        if not self.with_neg and params["neg_action"] in ("mask", "sample"):
            raise NegHeadError("has no NEG head")
        numbers = []
        with self.lock:
            for prompt in prompts:
                number = len(self.calls) + 1
                self.calls.append(("submit", params))
                self.requests[number] = _Request(bytes(prompt).decode(), {**params, "has_neg": self.with_neg})
                numbers.append(number)
        return numbers

    def wait(self, request_id: int, timeout: float) -> dict[str, Any] | None:
        self._check()
        request = self.requests[request_id]
        reason = "cancelled" if request.cancelled else None
        if request.endless and not request.cancelled:
            time.sleep(min(timeout, TOKEN_SECONDS))
            if not request.params["stream"] or timeout == 0:
                return None
            return self._update(request, [request.sample(0, ["x "], None)])
        if request.params["stream"] and not request.cancelled:
            pieces, request.pieces = request.pieces[:1], request.pieces[1:]
            reason = "stop" if not request.pieces else None
        else:
            pieces, reason = ([], "cancelled") if request.cancelled else (request.pieces, "stop")
        request.finished = reason is not None
        return self._update(request, [request.sample(k, pieces, reason) for k in range(request.params["n"])])

    def _update(self, request: _Request, samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "finished": request.finished,
            "seed": 7 if request.params["seed"] < 0 else request.params["seed"],
            "n_prompt_tokens": len(request.prompt),
            "prompt_seconds": 0.5,
            "generate_seconds": 1.0,
            "samples": samples,
        }

    def wait_any(self, timeout: float) -> list[int]:
        self._check()
        time.sleep(min(timeout, TOKEN_SECONDS))
        with self.lock:
            return [k for k, r in self.requests.items() if not r.endless or r.cancelled]

    def cancel(self, request_id: int) -> None:
        self._check()
        self.calls.append(("cancel", request_id))
        if request_id in self.requests:
            self.requests[request_id].cancelled = True

    def cancel_all(self) -> None:
        for request_id in list(self.requests):
            self.cancel(request_id)

    def release(self, request_id: int) -> None:
        self._check()
        with self.lock:
            self.calls.append(("release", request_id))
            self.requests.pop(request_id, None)

    def close(self) -> None:
        self.calls.append(("close", None))
        self.closed = True

    def apply_chat_template(self, messages_json: str, **options: Any) -> ChatPrompt:
        self.calls.append(("template", {"messages": json.loads(messages_json), **options}))
        return ChatPrompt(json.loads(messages_json)[-1]["content"])

    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str:
        reasoning = ""
        if text.startswith("<think>"):
            reasoning, _, text = text.removeprefix("<think>").partition("</think>")
        return json.dumps({"content": text, "reasoning_content": reasoning, "tool_calls": []})


def module() -> Any:
    """A module object to stand at `darwin_neg_cpp._core`."""
    fake: Any = ModuleType("darwin_neg_cpp._core")
    fake.Engine, fake.ChatPrompt = Engine, ChatPrompt
    fake.drain_log = lambda: [(20, "a line of llama.cpp")]
    fake.build_info = dict
    fake.devices = list
    fake.supports_gpu_offload = lambda: False
    return fake


if __name__ == "__main__":
    import darwin_neg_cpp
    from darwin_neg_cpp.cli.main import main

    sys.modules["darwin_neg_cpp._core"] = darwin_neg_cpp._core = module()  # type: ignore[attr-defined]
    sys.exit(main())
