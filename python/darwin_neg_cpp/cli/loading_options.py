"""Options about where a model lies, how far its context reaches and what is changed as it is loaded.

They stand in a group of their own, under llama.cpp's flags, for every verb that loads a model to run it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..files.input_file import sha256_file

if TYPE_CHECKING:
    from ..llm import ModelOptions

# what is passed on only where it was given, so that the library's own defaults hold
PASSED_ON = (
    "main_gpu", "split_mode", "tensor_split", "devices", "rpc_servers", "use_mlock", "offload_kqv", "op_offload",
    "swa_full", "rope_scaling_type", "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor",
    "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx", "lora", "override_tensor", "n_cpu_moe", "kv_overrides", "numa",
)  # fmt: skip
NO_EFFECT = ("use_mlock", "numa")  # on what the model answers

ON_OFF = argparse.BooleanOptionalAction
KINDS: dict[str, Callable[[str], bool | int | float | str]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": {"true": True, "false": False}.__getitem__,
}


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("devices, adapters and overrides")
    _add_devices(group)
    _add_context(group)
    group.add_argument(
        "--lora-scaled",
        dest="lora",
        type=_scaled,
        action="append",
        metavar="FILE:SCALE",
        help="LoRA adapter with a scale (repeatable)",
    )
    group.add_argument("--lora", action="append", metavar="FILE", help="LoRA adapter, a GGUF file (repeatable)")
    group.add_argument(
        "--override-kv",
        dest="kv_overrides",
        type=_keys,
        action="append",
        metavar="KEY=TYPE:VALUE,..",
        help="another value for a key of the model file; TYPE is int, float, bool or str (repeatable)",
    )


def _add_devices(group: Any) -> None:
    group.add_argument(
        "-dev", "--device", dest="devices", type=names, metavar="NAME,NAME", help="GPUs to use, none for the CPU alone"
    )
    group.add_argument(
        "--rpc",
        dest="rpc_servers",
        type=names,
        metavar="HOST:PORT,..",
        help="other machines that hold parts of the model",
    )
    group.add_argument(
        "-sm",
        "--split-mode",
        choices=("none", "layer", "row", "tensor"),
        help="how to split the model over GPUs (default layer)",
    )
    group.add_argument(
        "-ts",
        "--tensor-split",
        type=_numbers,
        metavar="N,N",
        help="proportions of the model by GPU or RPC server, as in 3,1",
    )
    group.add_argument("-mg", "--main-gpu", type=int, metavar="N", help="the GPU of split mode none (default 0)")
    group.add_argument(
        "-kvo", "--kv-offload", dest="offload_kqv", action=ON_OFF, help="keep the KV cache on the GPU (default: yes)"
    )
    group.add_argument(
        "-nkvo", dest="offload_kqv", action="store_false", default=None, help="the same as --no-kv-offload"
    )
    group.add_argument("--op-offload", action=ON_OFF, help="use the GPU for weights on the CPU, too (default: yes)")
    group.add_argument(
        "-ot",
        "--override-tensor",
        type=_placement,
        action="append",
        metavar="PATTERN=BUFFER,..",
        help="put tensors whose names match into a buffer, as in exps=CPU (repeatable)",
    )
    group.add_argument(
        "-ncmoe", "--n-cpu-moe", type=int, metavar="N", help="leave the experts of the first N layers to the CPU"
    )
    group.add_argument("--mlock", dest="use_mlock", action="store_true", default=None, help="keep the model in memory")
    group.add_argument(
        "--numa", choices=("distribute", "isolate", "numactl"), help="how to use the nodes of a NUMA machine"
    )


def _add_context(group: Any) -> None:
    group.add_argument(
        "--swa-full", action=ON_OFF, help="full caches for sliding-window layers (default: yes); no saves memory"
    )
    group.add_argument(
        "--rope-scaling",
        dest="rope_scaling_type",
        choices=("none", "linear", "yarn"),
        help="how positions beyond the trained context are scaled (default: the model's)",
    )
    for flag, what in (
        ("--rope-freq-base", "base frequency of RoPE, 0: the model's"),
        ("--rope-freq-scale", "factor of RoPE's frequencies, as in 0.25 for four times the context, 0: the model's"),
        ("--yarn-ext-factor", "YaRN's mix of extrapolation, negative: the model's"),
        ("--yarn-attn-factor", "YaRN's scale of attention, negative: the model's"),
        ("--yarn-beta-fast", "YaRN's low correction dimension, negative: the model's"),
        ("--yarn-beta-slow", "YaRN's high correction dimension, negative: the model's"),
    ):
        group.add_argument(flag, type=float, metavar="X", help=what)
    group.add_argument(
        "--yarn-orig-ctx", type=int, metavar="N", help="context that the model was trained for, 0: the model's"
    )


def loading_options(args: argparse.Namespace) -> ModelOptions:
    """The options that were given, as DarwinNEG takes them."""
    given: Any = {name: value for name in PASSED_ON if (value := getattr(args, name, None)) is not None}
    for name in ("override_tensor", "kv_overrides"):
        if name in given:
            # the first one holds, as in llama.cpp
            merged: dict[str, Any] = {}
            for key, value in (pair for pairs in given[name] for pair in pairs):
                merged.setdefault(key, value)
            given[name] = merged
    options: ModelOptions = given
    return options


def settings_that_answers_depend_on(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, for a record of a run: adapters by their hashes."""
    given: dict[str, Any] = {name: value for name, value in loading_options(args).items() if name not in NO_EFFECT}
    if "lora" in given:
        given["lora"] = [
            [sha256_file(path), scale]
            for path, scale in (part if isinstance(part, tuple) else (part, 1.0) for part in given["lora"])
        ]
    return given


def names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in re.split("[,/]", text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"give numbers, as in 3,1; got {text!r}") from None


def _scaled(text: str) -> tuple[str, float]:
    path, _, scale = text.rpartition(":")
    try:
        number = float(scale)
    except ValueError:
        path = ""
    if not path:
        raise argparse.ArgumentTypeError(f"give FILE:SCALE, as in adapter.gguf:0.5; got {text!r}")
    return path, number


def _placement(text: str) -> list[tuple[str, str]]:
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(pattern and buffer for pattern, _, buffer in pairs):
        raise argparse.ArgumentTypeError(f"give PATTERN=BUFFER, as in exps=CPU; got {text!r}")
    return [(pattern, buffer) for pattern, _, buffer in pairs]


def _keys(text: str) -> list[tuple[str, bool | int | float | str]]:
    """Overrides with commas between them; `\\,` is a comma of a value."""
    return [_key(part.replace("\\,", ",")) for part in re.split(r"(?<!\\),", text)]


def _key(text: str) -> tuple[str, bool | int | float | str]:
    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not (key and equals and colon and kind in KINDS):
        raise argparse.ArgumentTypeError(f"give KEY=TYPE:VALUE with a TYPE of int, float, bool or str; got {text!r}")
    try:
        return key, KINDS[kind](value)
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{value!r} is not of type {kind}, in {text!r}") from None
