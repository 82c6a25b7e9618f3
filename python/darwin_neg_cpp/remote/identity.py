"""What a server says that it runs. Servers that share a run must say the same."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RequestError
from .address import Address

# SHA-256 of the template (ChatML) that llama-server shows for a model file without one
NO_TEMPLATE = "cc145ac597328b60dbce2631dce17c0c84bb6a87b2380cc0473e2e1291965db7"

NAMES = {
    "model": "the model's name",
    "build": "build",
    "n_params": "number of parameters",
    "size": "size of the model",
    "n_vocab": "size of the vocabulary",
    "n_embd": "hidden size",
    "quantization": "quantization",
    "chat_template": "chat template",
    "n_ctx": "context of one request (--ctx-size, --parallel)",
    "lora": "LoRA adapters",
    "neg": "NEG head",
}


@dataclass(frozen=True)
class Identity:
    """What an answer depends on, as far as a server tells.

    model: the name of its file, or the one that it was given. build: llama.cpp's own description. n_ctx: tokens of one
    request. chat_template: its text. neg: the head's values and what the server was told to do with it; None without.
    """

    model: str
    build: str
    n_params: int
    size: int
    n_vocab: int
    n_embd: int
    quantization: str
    chat_template: str
    n_ctx: int
    lora: tuple[str, ...]
    neg: Mapping[str, Any] | None

    @property
    def has_template(self) -> bool:
        return bool(self.chat_template) and _sha256(self.chat_template) != NO_TEMPLATE

    def as_model(self) -> dict[str, Any]:
        """What identifies the weights, for a record of a run."""
        template = _sha256(self.chat_template) if self.has_template else None
        values = {name: getattr(self, name) for name in ("n_params", "size", "n_vocab", "n_embd", "quantization")}
        return {
            "name": self.model,
            **values,
            "chat_template_sha256": template,
            "lora": list(self.lora),
            "neg": self.neg,
        }


def read_identity(address: Address, props: Any, models: Any) -> tuple[Identity, int]:
    """The identity in the answers to /props and /v1/models, and the number of requests that run side by side.

    Errors: RequestError for what is not llama-server, or serves no model.
    """
    try:
        settings = props["default_generation_settings"]
        (entry,) = models["data"]
        meta = entry["meta"]
        identity = Identity(
            model=_name(props, entry),
            build=str(props["build_info"]),
            n_params=int(meta["n_params"]),
            size=int(meta["size"]),
            n_vocab=int(meta["n_vocab"]),
            n_embd=int(meta["n_embd"]),
            quantization=str(props.get("model_ftype") or meta.get("ftype") or ""),
            chat_template=str(props.get("chat_template") or ""),
            n_ctx=int(settings["n_ctx"]),
            lora=tuple(_adapter(adapter) for adapter in settings.get("params", {}).get("lora", ())),
            neg=_neg(props.get("neg")),
        )
        return identity, max(1, int(props["total_slots"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RequestError(
            f"{address}: is not llama-server with one model (/props or /v1/models lacks what it tells); name another "
            "server"
        ) from None


def check_same(one: tuple[Address, Identity], other: tuple[Address, Identity]) -> None:
    """Errors: RequestError naming both servers and the first difference."""
    if difference := find_difference(one[1], other[1]):
        raise RequestError(
            f"{one[0]} and {other[0]} differ in {difference}; start both with the same, or leave one out"
        )


def find_difference(one: Identity, other: Identity) -> str | None:
    """What two servers differ in, with both values where they are short; None when they do not."""
    for field in fields(Identity):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a != b:
            short = field.name not in ("chat_template", "lora")
            return NAMES[field.name] + (f": {_short(a)} and {_short(b)}" if short else "")
    return None


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return "none" if value is None else str(value)


def _name(props: Any, entry: Any) -> str:
    name = str(props.get("model_alias") or entry.get("id") or props.get("model_path") or "")
    # without an alias it is the path of the file, which may lie elsewhere on each machine
    return re.split(r"[\\/]", name)[-1] if name == props.get("model_path") else name


def _adapter(adapter: Any) -> str:
    return f"{adapter.get('id')}: {adapter.get('scale')}" if isinstance(adapter, Mapping) else str(adapter)


def _neg(neg: Any) -> Mapping[str, Any] | None:
    if not isinstance(neg, Mapping):
        return None
    return {str(name): value for name, value in neg.items() if not (isinstance(value, float) and math.isnan(value))}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
