"""The options of a loaded model: their types, and checks that name the argument they refuse.

Names and meanings are those of llama-cpp-python, and of llama.cpp's command line where that has more.
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypedDict

from ..checks import (
    MAX_INT32,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_rpc_servers,
    check_text,
    shown,
)
from ..errors import ModelFileError, RequestError
from ..files.input_file import open_input, shown_path

MAX_THREADS = 512  # ggml's own limit
MAX_DRAFT = 32  # tokens
MAX_PATTERN = 256  # characters
MAX_PATTERN_STATES = 2000  # the standard library's matcher recurses once for each, on the stack
MAX_KEY = 127  # bytes of a key, and of a text that replaces another: the size of llama.cpp's fields
MAX_UINT32 = 2**32 - 1
LEAST_ROPE_SCALE, LARGEST_ROPE_SCALE = 1e-4, 1e4

Lora: TypeAlias = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]
KeyValue: TypeAlias = bool | int | float | str
Draft: TypeAlias = Literal["none", "ngram"]
SplitMode: TypeAlias = Literal["none", "layer", "row", "tensor"]
RopeScaling: TypeAlias = Literal["none", "linear", "yarn"]
NumaStrategy: TypeAlias = Literal["distribute", "isolate", "numactl"]


class ModelOptions(TypedDict, total=False):
    """The keyword arguments of DarwinNEG, for functions that find the file and then load it."""

    n_ctx: int
    n_parallel: int
    prefix_cache: int
    prefix_cache_bytes: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int
    main_gpu: int
    split_mode: SplitMode
    tensor_split: Sequence[float] | None
    devices: Sequence[str] | None
    rpc_servers: Sequence[str] | None
    flash_attn: Literal["auto", "on", "off"]
    type_k: str
    type_v: str
    use_mmap: bool
    use_mlock: bool
    mtp: int
    draft: Draft
    draft_max: int
    mtp_max_parallel: int
    offload_kqv: bool
    op_offload: bool
    swa_full: bool
    rope_scaling_type: RopeScaling | None
    rope_freq_base: float
    rope_freq_scale: float
    yarn_ext_factor: float
    yarn_attn_factor: float
    yarn_beta_fast: float
    yarn_beta_slow: float
    yarn_orig_ctx: int
    lora: Lora | Sequence[Lora] | None
    override_tensor: Mapping[str, str] | None
    n_cpu_moe: int
    kv_overrides: Mapping[str, KeyValue] | None
    numa: NumaStrategy | bool | None
    chat_template: str | None
    file_sampling: bool
    progress: Callable[[float], bool | None] | None


# the others change what a model makes of a text, or how it is kept
WITHOUT_EFFECT_ON_STATES = {
    *("n_ctx", "n_parallel", "prefix_cache", "prefix_cache_bytes", "n_batch", "n_ubatch", "n_threads"),
    *("n_threads_batch", "n_gpu_layers", "main_gpu", "split_mode", "tensor_split", "devices", "use_mmap", "use_mlock"),
    *("rpc_servers", "mtp", "draft", "draft_max", "mtp_max_parallel"),
    *("offload_kqv", "op_offload", "override_tensor", "n_cpu_moe", "numa"),
}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the engine takes them. Errors: RequestError names the one that is wrong."""
    values: dict[str, Any] = {name: CHECKS[name](name, value) for name, value in options.items()}
    scale, context = values.get("rope_freq_scale", 0.0), values.get("yarn_orig_ctx", 0)
    if scale and context / scale > MAX_UINT32:
        raise RequestError(f"yarn_orig_ctx must be at most {MAX_UINT32:,} times rope_freq_scale, got {context}")
    return values


def input_path(argument: str, path: object) -> str:
    """A path that names a readable regular file; opening a pipe would block for ever."""
    if not isinstance(path, (str, os.PathLike)):
        raise RequestError(f"{argument} must be a path, got {type(path).__name__}")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise RequestError(f"{argument} must be a path of text, got {type(name).__name__}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelFileError(f"{shown_path(name)}: the name is not valid UTF-8; rename the file") from None
    open_input(name, ModelFileError).close()
    return name


def _check_split(name: str, value: object) -> list[float]:
    return [check_number(name, part, low=0.0) for part in _check_list(name, value, "numbers, as in [3, 1]")]


def _check_devices(name: str, value: object) -> list[str] | None:
    """None for all of them. "none", or a list of none, keeps the model on the CPU, as in llama.cpp."""
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    names = [check_text(name, part) for part in _check_list(name, value, 'names, as in ["CUDA0"]')]
    return [] if names == ["none"] else names


def _check_list(name: str, value: object, what: str) -> list[object]:
    if value is None:
        return []
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise RequestError(f"{name} must be a list of {what}, got {shown(value)}")
    return list(value)


def _check_rope_base(name: str, value: object) -> float:
    base = check_number(name, value, low=0.0)
    if 0 < base < 1:
        raise RequestError(f"{name} must be at least 1, or 0 for the model's, got {shown(value)}")
    return base


def _check_rope_scale(name: str, value: object) -> float:
    scale = check_number(name, value)
    if scale != 0 and not LEAST_ROPE_SCALE <= scale <= LARGEST_ROPE_SCALE:
        limits = f"between {LEAST_ROPE_SCALE:g} and {LARGEST_ROPE_SCALE:g}"
        raise RequestError(f"{name} must be {limits}, or 0 for the model's, got {shown(value)}")
    return scale


def _check_lora(name: str, value: object) -> list[tuple[str, float]]:
    """Paths with their scales, from one path, a path with a scale, or a list of either."""
    if value is None:
        return []
    if isinstance(value, (str, bytes, os.PathLike)) or _is_scaled(value):
        value = [value]
    if not isinstance(value, Sequence):
        raise RequestError(f"{name} must be a path, (path, scale) or a list of them, got {shown(value)}")
    pairs = []
    for part in value:
        path, scale = part if _is_scaled(part) else (part, 1.0)
        pairs.append((input_path(name, path), check_number(f"{name}: the scale", scale)))
    return pairs


def _is_scaled(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and not isinstance(value[1], (Sequence, os.PathLike))


def _check_placement(name: str, value: object) -> list[tuple[str, str]]:
    """Pairs of a regular expression of tensor names and a buffer type."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise RequestError(f'{name} must be a dict, as in {{"exps": "CPU"}}, got {shown(value)}')
    for pattern in value:
        check_text(name, pattern)
        counts = [int(count) for count in re.findall(r"\d+", " ".join(re.findall(r"\{([^}]*)\}", pattern)))]
        states = len(pattern) * math.prod(max(count, 1) for count in counts)
        if len(pattern) > MAX_PATTERN or states > MAX_PATTERN_STATES:
            raise RequestError(f"{name} has a pattern that is too long, or repeats too much: {shown(pattern)}")
    return [(check_text(name, pattern), check_text(name, buffer)) for pattern, buffer in value.items()]


def _check_keys(name: str, value: object) -> list[tuple[str, KeyValue]]:
    """Pairs of a key and a value of plain Python. Whether the types fit the file is checked with the file."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be a dict of keys and values, got {shown(value)}")
    return [(_check_key(name, key), _check_key_value(f"{name}: {key}", item)) for key, item in value.items()]


def _check_key(name: str, key: object) -> str:
    text = check_text(f"{name}: a key", key)
    if not 0 < len(text.encode()) <= MAX_KEY or "\0" in text:
        raise RequestError(f"{name}: a key has 1 to {MAX_KEY} bytes and no null character, got {shown(key)}")
    return text


def _check_key_value(name: str, value: object) -> KeyValue:
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return check_flag(name, value)
    if isinstance(value, numbers.Integral):
        return check_integer(name, value, low=0, high=MAX_UINT32)
    if isinstance(value, numbers.Real):
        return check_number(name, value)
    if isinstance(value, str):
        text = check_text(name, value)
        if len(text.encode()) > MAX_KEY or "\0" in text:
            raise RequestError(f"{name} is longer than {MAX_KEY} bytes, or has a null character")
        return text
    raise RequestError(f"{name} must be True, False, a number or text, got {shown(value)}")


def _check_numa(name: str, value: object) -> str | None:
    """True is llama.cpp's default strategy, as in llama-cpp-python."""
    if value is None or value is False:
        return None
    return check_choice(name, "distribute" if value is True else value, ("distribute", "isolate", "numactl"))


def _check_rope_scaling(name: str, value: object) -> str | None:
    return None if value is None else check_choice(name, value, ("none", "linear", "yarn"))


CHECKS: dict[str, Callable[[str, Any], object]] = {
    "n_ctx": partial(check_integer, low=0),
    "n_parallel": partial(check_integer, low=1, high=255),
    "prefix_cache": partial(check_integer, low=0, high=255),
    "prefix_cache_bytes": partial(check_integer, low=0, high=2**63 - 1),
    "n_batch": partial(check_integer, low=1),
    "n_ubatch": partial(check_integer, low=1),
    "n_threads": partial(check_integer, low=0, high=MAX_THREADS),
    "n_threads_batch": partial(check_integer, low=0, high=MAX_THREADS),
    "n_gpu_layers": partial(check_integer, low=-1, high=MAX_INT32),
    "main_gpu": partial(check_integer, low=0),
    "split_mode": partial(check_choice, choices=("none", "layer", "row", "tensor")),
    "tensor_split": _check_split,
    "devices": _check_devices,
    "rpc_servers": check_rpc_servers,
    "flash_attn": check_text,
    "type_k": check_text,
    "type_v": check_text,
    "use_mmap": check_flag,
    "use_mlock": check_flag,
    "mtp": partial(check_integer, low=0, high=MAX_DRAFT),
    "draft": partial(check_choice, choices=("none", "ngram")),
    "draft_max": partial(check_integer, low=1, high=MAX_DRAFT),
    "mtp_max_parallel": partial(check_integer, low=1, high=MAX_INT32),
    "offload_kqv": check_flag,
    "op_offload": check_flag,
    "swa_full": check_flag,
    "rope_scaling_type": _check_rope_scaling,
    "rope_freq_base": _check_rope_base,
    "rope_freq_scale": _check_rope_scale,
    "yarn_ext_factor": partial(check_number, low=-1.0),
    "yarn_attn_factor": partial(check_number, low=-1.0),
    "yarn_beta_fast": partial(check_number, low=-1.0),
    "yarn_beta_slow": partial(check_number, low=-1.0),
    "yarn_orig_ctx": partial(check_integer, low=0),
    "lora": _check_lora,
    "override_tensor": _check_placement,
    "n_cpu_moe": partial(check_integer, low=0),
    "kv_overrides": _check_keys,
    "numa": _check_numa,
}
