"""Checks, before llama.cpp loads a model, what it asserts about the header: a failed assertion ends the process.

Sources: load_hparams in llama-model.cpp, ggml_backend_cpu_buffer_from_ptr in ggml-backend.cpp, norms and rotations in
ggml-cpu/ops.cpp, the Gated DeltaNet in models/qwen35.cpp and models/delta-net-base.cpp.
"""

from __future__ import annotations

import contextlib
import math

from ..errors import ModelFileError, NegHeadError, RequestError
from ..files.input_file import shown, shown_path
from ..files.shown_text import escape_line
from .header import Header, read_header
from .info import VISION_ARCH, pre_tokenizer
from .overrides import Overrides, overridden
from .parts import UnreadablePartError, read_model, with_parts

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MMAP_ALIGNMENT = 32  # ggml's TENSOR_ALIGNMENT
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")
ROPE_SECTIONS = 4
OLLAMA_VISION = ("v.blk.", "v.patch_embed", "v.pos_embed", "v.merger.")
ONE_EXPERT_IS_NONE = ("hunyuan-dense", "hunyuan_vl")


def check_runnable(path: str, *, use_mmap: bool = True, overrides: Overrides = ()) -> list[str]:
    """Raises ModelFileError for a model that llama.cpp would abort on; returns what the user should know about it.

    A header that our reader refuses is left to llama.cpp, which refuses it too, or knows a type that ours does not.
    overrides: keys with other values than the file's; RequestError where the fault is theirs.
    """
    try:
        header = read_header(path)
    except ModelFileError:
        return []
    with contextlib.suppress(UnreadablePartError):
        header = with_parts(header)
    if header.value("general.architecture") == VISION_ARCH:
        raise ModelFileError(
            f"{shown_path(path)}: is a projector for images or sound (mmproj), not a model; load the language "
            "model, and give this file to a server: `darwin-neg serve -m MODEL --mmproj FILE`"
        )
    header = overridden(header, overrides)
    try:
        check_header(header)
    except ModelFileError as error:
        if overrides:
            _blame_overrides(path, error)
        raise
    if use_mmap:
        _check_places(header)
    if pre_tokenizer(header) is None:
        return [
            f"{shown_path(path)}: has no tokenizer.ggml.pre, so that texts may become other tokens than in training; "
            "convert the model again with a current tool"
        ]
    return []


def _blame_overrides(path: str, error: ModelFileError) -> None:
    """Raises RequestError if the file as it is would do."""
    with contextlib.suppress(ModelFileError):
        check_runnable(path, use_mmap=False)
        what = str(error).removeprefix(f"{shown_path(path)}: ").partition("; the file is damaged")[0]
        raise RequestError(f"kv_overrides: {what}") from None


def check_header(header: Header) -> None:
    """Raises ModelFileError for a model that no llama.cpp loads, or that it would abort on."""
    check_loadable(header)
    _check_rotation(header)
    _check_delta_net(header)


def check_loadable(header: Header) -> None:
    """Raises ModelFileError for a header that llama.cpp would abort on as it reads it, also when it only quantizes."""
    _check_texts(header)
    _check_layout(header)
    _check_layers(header)
    _check_experts(header)
    _check_numbers(header)


def explain(path: str, error: ModelFileError | NegHeadError) -> ModelFileError | NegHeadError:
    """Returns `error` with control characters escaped: llama.cpp quotes the file as it is.

    Where llama.cpp only says that a header could not be loaded, or does not say in which part of a split model the
    fault is, returns our own reader's error instead.
    """
    try:
        read_model(path)
    except UnreadablePartError as reason:
        return reason
    except ModelFileError as reason:
        if "failed to load model from" in str(error) or "is not UTF-8" in str(reason):
            return reason
    return type(error)(escape_line(str(error)))


def _wrong(header: Header, what: str) -> ModelFileError:
    return ModelFileError(f"{shown_path(header.path)}: {what}; the file is damaged, download or convert it again")


def _key(header: Header, name: str) -> str:
    return f"{header.value('general.architecture')}.{name}"


def _number(header: Header, name: str) -> int:
    value = header.value(_key(header, name), 0)
    return value if isinstance(value, int) else 0


def _check_texts(header: Header) -> None:
    for key in ("general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre"):
        value = header.value(key)
        if isinstance(value, str) and "\N{REPLACEMENT CHARACTER}" in value:
            raise _wrong(header, f"{key} is not UTF-8 ('{shown(value)}')")


def _check_layout(header: Header) -> None:
    """Raises ModelFileError for the layouts of Ollama's own converter, which its own engine alone reads."""
    arch, key = str(header.value("general.architecture")), _key(header, "rope.dimension_sections")
    sections = header.array_length(key)
    vision = next((name for name in header.tensors if name.startswith(OLLAMA_VISION)), None)
    ahead = next((name for name in header.tensors if name.startswith("mtp.")), None)
    plain = next((name for name in header.tensors if name.endswith(".ssm_dt")), None)
    if arch.startswith("qwen") and sections not in (None, ROPE_SECTIONS):
        what = f"{shown(key)} has {sections} numbers where llama.cpp reads {ROPE_SECTIONS}"
    elif arch != VISION_ARCH and vision is not None:
        what = f"it holds {shown(vision)}, a part of a vision tower, which llama.cpp wants in a file of its own"
    elif arch.startswith("qwen35") and (ahead or plain) is not None:
        what = f"it holds {shown(str(ahead or plain))}, which llama.cpp knows under another name"
    elif arch.startswith("qwen35") and 0 in (header.integers(_key(header, "attention.head_count_kv")) or ()):
        what = f"{shown(_key(header, 'attention.head_count_kv'))} is 0 for layers without attention"
    else:
        return
    raise ModelFileError(
        f"{shown_path(header.path)}: has the layout of Ollama's own files, which only Ollama opens: {what}; "
        "download a GGUF file made for llama.cpp, or convert the original checkpoint with `darwin-neg convert`"
    )


def _check_layers(header: Header) -> None:
    key = _key(header, "block_count")
    if key not in header.keys:  # llama.cpp says so itself
        return
    layers, extra = _number(header, "block_count"), _number(header, "nextn_predict_layers")
    if not 1 <= layers <= MAX_LAYERS:
        raise _wrong(header, f"{shown(key)} is {layers}, expected 1 to {MAX_LAYERS}")
    if not 0 <= extra <= layers:
        raise _wrong(header, f"{shown(_key(header, 'nextn_predict_layers'))} is {extra}, of {layers} layers in total")


def _check_experts(header: Header) -> None:
    experts, groups = _number(header, "expert_count"), _number(header, "expert_group_count")
    if header.value("general.architecture") in ONE_EXPERT_IS_NONE and experts <= 1:
        return
    used = max(header.integers(_key(header, "expert_used_count")) or [_number(header, "expert_used_count")])
    sound = 0 <= experts <= MAX_EXPERTS and (
        0 < used <= experts and 0 <= groups < experts if experts else used == groups == 0
    )
    if sound and groups > 1:
        sound = experts % groups == 0 and 0 < _number(header, "expert_group_used_count") < groups
    if not sound:
        key = shown(_key(header, "expert_count"))
        raise _wrong(header, f"{key} is {experts} in {groups} groups, of which {used} are used, which cannot be")


def _check_numbers(header: Header) -> None:
    for name in EPSILONS:
        value = header.value(_key(header, f"attention.{name}"), 0.0)
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise _wrong(header, f"{shown(_key(header, f'attention.{name}'))} is {value}, expected a small number")
    kind = header.value(_key(header, "rope.scaling.type"))
    if isinstance(kind, str) and kind not in ROPE_SCALINGS:
        raise _wrong(
            header,
            f"{shown(_key(header, 'rope.scaling.type'))} is '{shown(kind)}', not one of {', '.join(ROPE_SCALINGS)}",
        )


def _check_rotation(header: Header) -> None:
    key, turned = _key(header, "rope.dimension_count"), _number(header, "rope.dimension_count")
    qwen = str(header.value("general.architecture")).startswith("qwen")  # rotates always; what others do is theirs
    most = _number(header, "attention.key_length") if qwen else 0
    if key in header.keys and (turned % 2 or (qwen and turned < 2) or turned > most > 0):
        raise _wrong(header, f"{shown(key)} is {turned}, expected an even number of at most the head's size")
    key = _key(header, "rope.dimension_sections")
    sections = header.integers(key) or [_number(header, "rope.dimension_sections")]
    if qwen and key in header.keys and max(sections[:3]) <= 0:
        raise _wrong(header, f"{shown(key)} is {sections[:4]}, expected numbers above 0")


def _check_delta_net(header: Header) -> None:
    if not str(header.value("general.architecture")).startswith("qwen35"):
        return
    key = _key(header, "ssm.inner_size")
    inner, state = _number(header, "ssm.inner_size"), _number(header, "ssm.state_size")
    values, groups = _number(header, "ssm.time_step_rank"), _number(header, "ssm.group_count")
    if key in header.keys and inner != state * values:
        raise _wrong(header, f"{shown(key)} is {inner}, expected {values} heads of {state}")
    if groups > 0 and values % groups:
        raise _wrong(header, f"{shown(_key(header, 'ssm.group_count'))} is {groups}, expected a divisor of {values}")


def _check_places(header: Header) -> None:
    for name in header.tensors:
        path, offset = header.place(name)
        if offset % MMAP_ALIGNMENT:
            raise ModelFileError(
                f"{shown_path(path)}: tensor '{shown(name)}' is not aligned to {MMAP_ALIGNMENT} bytes; "
                "convert the file again, or load it with use_mmap=False"
            )
