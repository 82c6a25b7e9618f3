"""The options of a loaded model: their types, and checks that name the argument they refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypedDict

from ..checks import MAX_INT32, check_flag, check_integer, check_text

MAX_THREADS = 512  # ggml's own limit


class ModelOptions(TypedDict, total=False):
    """The keyword arguments of DarwinNEG, for functions that find the file and then load it."""

    n_ctx: int
    n_parallel: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int
    main_gpu: int
    split_mode: Literal["none", "layer", "row"]
    flash_attn: Literal["auto", "on", "off"]
    type_k: str
    type_v: str
    use_mmap: bool
    use_mlock: bool
    chat_template: str | None
    file_sampling: bool
    progress: Callable[[float], bool | None] | None


CHECKS: dict[str, Callable[[str, Any], object]] = {
    "n_ctx": partial(check_integer, low=0),
    "n_parallel": partial(check_integer, low=1, high=255),
    "n_batch": partial(check_integer, low=1),
    "n_ubatch": partial(check_integer, low=1),
    "n_threads": partial(check_integer, low=0, high=MAX_THREADS),
    "n_threads_batch": partial(check_integer, low=0, high=MAX_THREADS),
    "n_gpu_layers": partial(check_integer, low=-1, high=MAX_INT32),
    "main_gpu": partial(check_integer, low=0),
    "split_mode": check_text,
    "flash_attn": check_text,
    "type_k": check_text,
    "type_v": check_text,
    "use_mmap": check_flag,
    "use_mlock": check_flag,
}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the engine takes them. Errors: RequestError names the one that is wrong."""
    return {name: CHECKS[name](name, value) for name, value in options.items()}
