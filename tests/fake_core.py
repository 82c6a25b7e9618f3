"""A scripted stand-in for `_core`, in plain Python, for tests of the API's and the CLI's plumbing alone.

Tokens are the bytes of UTF-8. The answer to a prompt is in ANSWERS, or else its words, of which
those in capitals are gated; a prompt that ends with "endless" is answered for ever.
Run as a program it is `darwin-neg` with this engine: `python fake_core.py generate ...`.
"""

from __future__ import annotations

import enum
import json
import os
import sys
import threading
import time
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from darwin_neg_cpp.errors import DarwinNegError, NegHeadError, RequestError
from darwin_neg_cpp.sampling import SamplingParams, to_engine_values

ANSWERS = {
    "hostile": ["safe", "\x1b[2J", "\x07", "\u202e", "\x9b", "\r", "\n"],
    "thinker": ["<think>", "hm", "</think>", "42"],
    "boom": ["one", "!error the sampler gave up"],
    "broken": ["one", "!error llama_decode failed with code -3"],
    "half": ["one ", "!error@1 the sampler gave up"],  # sample 1 alone
    "halfbroken": ["one ", "!error@1 llama_decode failed with code -3"],
}
PIECES: list[str] = []  # of answers, whose tokens are numbered after the bytes
TOKEN_SECONDS = 0.01  # of endless answers


def _reason_of(error: str) -> str:
    return "error" if error.startswith("llama_decode") else "refused"


def _token_of(piece: str) -> int:
    if piece not in PIECES:
        PIECES.append(piece)
    return 256 + PIECES.index(piece)


class NegAction(enum.Enum):
    off = 0
    mask = 1
    sample = 2


class Notify(enum.Enum):
    token = 0
    sample = 1
    request = 2


class _Params:
    """Values by name, those of `defaults` and no others."""

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, **values: Any) -> None:
        if unknown := sorted(values.keys() - self.defaults.keys()):
            raise TypeError(f"{type(self).__name__} has no field {unknown[0]!r}")
        self._values = {**self.defaults, **values}

    def as_dict(self) -> dict[str, Any]:
        return dict(self._values)


class ModelParams(_Params):
    defaults: ClassVar[dict[str, Any]] = {
        **{"model_path": "", "neg_path": None, "n_ctx": 4096, "n_batch": 512, "n_ubatch": 512, "n_parallel": 8},
        **{"prefix_cache": 4, "prefix_cache_bytes": 256 << 20},
        **{"n_threads": 0, "n_threads_batch": 0, "n_gpu_layers": -1, "main_gpu": 0, "split_mode": "layer"},
        **{"flash_attn": "auto", "type_k": "f16", "type_v": "f16", "use_mmap": True, "use_mlock": False},
        **{
            "tensor_split": [],
            "devices": None,
            "rpc_servers": [],
            "offload_kqv": True,
            "op_offload": True,
            "swa_full": True,
        },
        **{"rope_scaling_type": None, "rope_freq_base": 0.0, "rope_freq_scale": 0.0, "yarn_ext_factor": -1.0},
        **{"yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0, "yarn_orig_ctx": 0, "lora": []},
        **{"override_tensor": [], "n_cpu_moe": 0, "kv_overrides": [], "numa": None},
        **{"mtp": 0, "draft": "none", "draft_max": 4, "mtp_max_parallel": 2},
    }

    def __init__(self, model_path: str, **values: Any) -> None:
        super().__init__(model_path=model_path, **values)


class RequestParams(_Params):
    defaults: ClassVar[dict[str, Any]] = {
        **to_engine_values(SamplingParams()),
        **{"neg_action": None, "neg_threshold": None, "neg_top_k": None, "neg_use_temp_scale": None},
        "notify": Notify.request,
    }


class ChatPrompt:
    def __init__(self, prompt: str) -> None:
        self.prompt, self.pieces, self.stops, self.supports_thinking = prompt, [prompt], [], True


class _Request:
    def __init__(self, prompt: str, params: dict[str, Any], inbox: Inbox) -> None:
        last = (prompt.split() or [""])[-1]
        self.endless = last == "endless"
        self.pieces = list(ANSWERS.get(last, [f"{word} " for word in prompt.split()]))
        self.params, self.prompt, self.inbox, self.cancelled, self.finished = params, prompt, inbox, False, False

    def news(self) -> list[dict[str, Any]] | None:
        """Returns what its inbox gets next, if anything."""
        each_token = self.params["notify"] is Notify.token
        if self.finished or (self.endless and not self.cancelled and not each_token):
            return None
        if self.cancelled:
            pieces, reason = [], "cancelled"
        elif self.endless:
            time.sleep(TOKEN_SECONDS)
            return [self.sample(0, ["x "], None)]
        elif each_token:
            pieces, self.pieces = self.pieces[:1], self.pieces[1:]
            reason = None if self.pieces else "stop"
        else:
            pieces, reason = self.pieces, "stop"
        self.finished = reason is not None
        return [self.sample(k, pieces, reason) for k in range(self.params["n"])]

    def sample(self, index: int, pieces: list[str], reason: str | None) -> dict[str, Any]:
        fails = ("!error ", f"!error@{index} ")
        error = next((piece.partition(" ")[2] for piece in pieces if piece.startswith(fails)), None)
        pieces = [piece for piece in pieces if not piece.startswith("!error")]
        m, neg, top = len(pieces), self.params["has_neg"], self.params["logprobs"]
        gate = self.params["neg_action"] is not NegAction.off
        entropy = np.array([2.0 if piece.strip().isupper() else 0.0 for piece in pieces], np.float32)
        return {
            "index": index,
            "token_ids": np.array([_token_of(piece) for piece in pieces], np.int32),
            "pieces": pieces,
            "ends_inside": np.zeros(m, np.bool_),
            "entropy": entropy if neg else None,
            "active": (entropy > 1) & gate if neg else None,
            "true_entropy": entropy + np.float32(0.25) if self.params["true_entropy"] else None,
            "logprobs": None if top is None else np.full(m, -0.5, np.float32),
            "top_ids": np.zeros((m, top), np.int32) if top else None,
            "top_logprobs": np.zeros((m, top), np.float32) if top else None,
            "finish_reason": _reason_of(error) if error else reason,
            "stop": None,
            "error": error,
        }

    def update(self, number: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "request": number,
            "finished": self.finished,
            "seed": 7 if self.params["seed"] is None else self.params["seed"],
            "n_prompt_tokens": len(self.prompt),
            "n_cached_tokens": 0,
            "neg_threshold": 1.0 if self.params["has_neg"] else None,
            "prompt_seconds": 0.5,
            "generate_seconds": 1.0,
            "samples": samples,
        }


class Inbox:
    """Answers are made when they are waited for."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._closed = engine, False

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        changed, requests = self._engine.changed, self._engine.requests
        with changed:
            self._engine.check_process()
            while True:
                for number, request in requests.items():
                    if request.inbox is self and (samples := request.news()) is not None:
                        return request.update(number, samples)
                if self._closed or not changed.wait(timeout):
                    return None

    def close(self) -> None:
        with self._engine.changed:
            self._engine.check_process()
            self._closed = True
            self._engine.changed.notify_all()


class Requests:
    def __init__(self, engine: Engine, ids: list[int]) -> None:
        self._engine, self._ids = engine, ids

    @property
    def ids(self) -> list[int]:
        return list(self._ids)

    def cancel(self, request_id: int | None = None) -> None:
        self._engine.check_process()
        for number in self._ids if request_id is None else [request_id]:
            self._engine.cancel(number)

    def release(self, request_id: int | None = None) -> None:
        if os.getpid() != self._engine.pid:
            return
        with self._engine.changed:
            for number in self._ids if request_id is None else [request_id]:
                if self._engine.requests.pop(number, None) is not None:
                    self._engine.calls.append(("release", number))
            self._engine.changed.notify_all()

    def __del__(self) -> None:
        self.release()


class Engine:
    """The newest instance is `Engine.last`; `calls` holds what was asked of it, `requests` what was not released."""

    last: Engine
    with_neg = True

    def __init__(self, params: ModelParams, *, chat_template: str | None = None, progress: Any = None) -> None:
        if progress is not None and not progress(1.0):
            raise DarwinNegError("stopped")
        self.options = {**params.as_dict(), "chat_template": chat_template}
        self.requests, self.closed, self.pid = dict[int, _Request](), False, os.getpid()
        self.calls: list[tuple[str, Any]] = []
        self.changed = threading.Condition(threading.RLock())  # a destructor may run while it is held
        Engine.last = self

    def check_process(self) -> None:
        if os.getpid() != self.pid:
            raise DarwinNegError(
                "the model was loaded in another process; start child processes with multiprocessing's 'spawn' method "
                "and load the model there"
            )

    def _check(self) -> None:
        self.check_process()
        if self.closed:
            raise DarwinNegError("the model is closed")

    def model_info(self) -> dict[str, Any]:
        neg = {"threshold": 1.0, "top_k": 20, "temp_scale": 1.0, "temp_enabled": False, "source": "script"}
        return {
            "description": "scripted",
            "n_vocab": 256,
            "n_threads": 1,
            "n_ctx": self.options["n_ctx"],
            "n_parallel": self.options["n_parallel"],
            "bos": -1,
            "eos": -1,
            "neg": neg if self.with_neg else None,
        }

    def metadata(self) -> dict[str, str]:
        return {"general.name": "scripted"}

    def stats(self) -> dict[str, Any]:
        return {"n_requests": len(self.requests), "drafted": [], "draft_accepted": []}

    def marker_texts(self) -> list[tuple[str, bool]]:
        return []

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        self._check()
        return list(text)

    def detokenize(self, tokens: list[int], special: bool) -> bytes:
        return b"".join(PIECES[token - 256].encode() if token >= 256 else bytes([token]) for token in tokens)

    def inbox(self) -> Inbox:
        self._check()
        return Inbox(self)

    def submit(
        self, prompts: list[list[int]], params: RequestParams, inbox: Inbox, chat: ChatPrompt | None = None
    ) -> Requests:
        self._check()
        values = params.as_dict()
        if not all(prompts):
            raise RequestError("prompt has no tokens")
        if not self.with_neg and values["neg_action"] in (NegAction.mask, NegAction.sample):
            raise NegHeadError("has no NEG head")
        numbers = []
        with self.changed:
            for prompt in prompts:
                number = len(self.calls) + 1
                self.calls.append(("submit", values))
                self.requests[number] = _Request(bytes(prompt).decode(), {**values, "has_neg": self.with_neg}, inbox)
                numbers.append(number)
            self.changed.notify_all()
        return Requests(self, numbers)

    def cancel(self, number: int) -> None:
        with self.changed:
            self.calls.append(("cancel", number))
            if number in self.requests:
                self.requests[number].cancelled = True
            self.changed.notify_all()

    def cancel_all(self) -> None:
        self._check()
        for number in list(self.requests):
            self.cancel(number)

    def close(self) -> None:
        self.check_process()
        with self.changed:
            self.calls.append(("close", None))
            self.closed = True
            for request in self.requests.values():
                request.cancelled = True
            self.changed.notify_all()

    def apply_chat_template(self, messages_json: str, **options: Any) -> ChatPrompt:
        self.calls.append(("template", {"messages": json.loads(messages_json), **options}))
        return ChatPrompt(json.loads(messages_json)[-1]["content"])

    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str:
        reasoning = ""
        if text.startswith("<think>"):
            reasoning, _, text = text.removeprefix("<think>").partition("</think>")
        return json.dumps({"content": text, "reasoning_content": reasoning, "tool_calls": []})


def calls(name: str) -> list[Any]:
    """What the newest engine was asked for under this name."""
    return [value for kind, value in Engine.last.calls if kind == name]


def module() -> Any:
    """A module object to stand at `darwin_neg_cpp._core`."""
    fake: Any = ModuleType("darwin_neg_cpp._core")
    for part in (ChatPrompt, Engine, Inbox, ModelParams, NegAction, Notify, RequestParams, Requests):
        setattr(fake, part.__name__, part)
    fake.drain_log = lambda: [(20, "a line of llama.cpp")]
    fake.build_info = dict
    fake.devices = fake.backend_libraries = list
    fake.supports_gpu_offload = lambda: False
    return fake


if __name__ == "__main__":
    import darwin_neg_cpp
    from darwin_neg_cpp.cli.main import main

    sys.modules["darwin_neg_cpp._core"] = darwin_neg_cpp._core = module()  # type: ignore[attr-defined]
    sys.exit(main())
