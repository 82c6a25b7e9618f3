"""Checks, before llama.cpp loads a LoRA adapter, what it asserts about it: a failed assertion ends the process.

Sources: llama_adapter_lora_init_impl in llama-adapter.cpp, build_lora_mm and build_inp_embd in llama-graph.cpp.
"""

from __future__ import annotations

from gguf import GGMLQuantizationType, GGUFValueType

from ..errors import ModelFileError
from ..files.input_file import shown, shown_path
from .header import Header, TensorInfo, read_header
from .parts import read_model

TYPES = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16, GGMLQuantizationType.Q8_0)
KEYS = {
    "general.type": (GGUFValueType.STRING, "adapter"),
    "adapter.type": (GGUFValueType.STRING, "lora"),
    "general.architecture": (GGUFValueType.STRING, None),
    "adapter.lora.alpha": (GGUFValueType.FLOAT32, None),
}
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
HINT = "give the GGUF file of a LoRA adapter that was made for this model"


def check_adapter(path: str, model: str) -> None:
    """Raises ModelFileError for a LoRA adapter that does not fit the model file.

    A model that our reader refuses is left to llama.cpp, which has loaded it: its adapter cannot be checked.
    """
    header = read_header(path)
    try:
        base = read_model(model)
    except ModelFileError:
        raise _wrong(header, f"cannot be checked against {shown_path(model)}, whose header is not readable") from None
    _check_keys(header, base)
    pairs: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in header.tensors.items():
        stem, dot, part = name.rpartition(".")
        if dot and part in ("lora_a", "lora_b"):
            pairs.setdefault(stem, {})[part] = tensor
        elif not name.endswith("_norm.weight"):  # which llama.cpp leaves out
            raise _wrong(header, f"tensor {shown(name)} is not a part of a LoRA adapter")
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise _wrong(header, f"tensor {shown(name)} has only one of its two parts")
        _check_pair(header, base, name, pair["lora_a"], pair["lora_b"])


def _wrong(header: Header, what: str) -> ModelFileError:
    return ModelFileError(f"{shown_path(header.path)}: {what}; {HINT}")


def _check_keys(header: Header, base: Header) -> None:
    for key, (kind, wanted) in KEYS.items():
        entry = header.keys.get(key)
        if entry is None or entry.type != kind:
            raise _wrong(header, f"is not a LoRA adapter: it has no {key} of type {kind.name.lower()}")
        if wanted is not None and header.value(key) != wanted:
            raise _wrong(header, f"is not a LoRA adapter: its {key} is '{shown(str(header.value(key)))}'")
    ours, theirs = (str(part.value("general.architecture")) for part in (header, base))
    if ours != theirs:
        raise _wrong(header, f"is an adapter for '{shown(ours)}', and the model is a '{shown(theirs)}'")
    if "adapter.alora.invocation_tokens" in header.keys:
        raise _wrong(header, "is an activated LoRA, which acts from certain tokens on; that is not supported")


def _check_pair(header: Header, base: Header, name: str, a: TensorInfo, b: TensorInfo) -> None:
    tensor = base.tensors.get(name)
    if tensor is None:
        raise _wrong(header, f"adapts {shown(name)}, which the model does not have")
    if bad := next((part for part in (a, b) if part.type not in TYPES), None):
        raise _wrong(header, f"tensor {shown(bad.name)} has type {bad.type.name}, not one of F32, F16, BF16 and Q8_0")
    if name == EMBEDDING and OUTPUT not in base.tensors:
        raise _wrong(header, f"adapts {name}, which is this model's output layer too; llama.cpp cannot apply that")
    inputs, outputs, *experts = (*tensor.shape, 1, 1, 1)[:4]
    rank = b.shape[0]
    # rows of the embedding are looked up, so that its parts lie the other way round
    sides = ((rank, outputs), (rank, inputs)) if name == EMBEDDING else ((inputs, rank), (rank, outputs))
    for part, side in zip((a, b), sides, strict=True):
        if (*part.shape, 1, 1, 1)[:4] != (*side, *experts) or rank < 1:
            raise _wrong(header, f"tensor {shown(part.name)} has shape {list(part.shape)}, expected {list(side)}")
