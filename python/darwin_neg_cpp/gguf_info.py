"""What a GGUF file says about its model, and the memory that running it takes. Reads the header alone.

Expected memory, in bytes:

- weights: the tensors' data, the head's included (mapped from the file, so not all of it must stay resident);
- KV cache, F16: cells x sum over attention layers of KV heads x (key length + value length) x 2, where cells is n_ctx rounded
  up to a multiple of 256. The engine's cache is unified: its cells are shared by all sequences, so n_parallel does not count;
- recurrent state, F32, of hybrids with `ssm` keys (qwen35, qwen3next, mamba and their kind): (n_parallel + 1) x recurrent
  layers x 4 x ((conv kernel - 1) x (inner size + 2 x groups x state size) + inner size x state size); the engine keeps one
  more sequence for the prompt that is shared by samples.

Not counted: compute buffers (some 100 MB, more for large vocabularies and batches) and recurrent states of other designs.
Sliding-window layers are counted in full, so the figure is an upper bound for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from darwin_neg_cpp.gguf_header import GGUFHeader, padded, read_header
from darwin_neg_cpp.input_file import PathLike
from darwin_neg_cpp.neg_format import NegSection, has_neg, is_side_car, read_gate

DEFAULT_N_CTX = 4096
DEFAULT_N_PARALLEL = 1
CELL_STEP = 256  # llama.cpp pads the context to this
MAX_LAYERS = 4096  # more is a damaged file
FULL_ATTENTION_INTERVAL = 4  # llama.cpp's default for qwen3next and qwen35
F16_BYTES, F32_BYTES = 2, 4


@dataclass(frozen=True)
class TypeCount:
    """Tensors of one type: how many, their elements, their bytes."""

    n_tensors: int
    n_params: int
    n_bytes: int


@dataclass(frozen=True)
class ExpectedMemory:
    """Bytes; see the top of the file for the formula. `kv_cache` is None when the header does not tell the sizes."""

    n_ctx: int
    n_parallel: int
    weights: int
    kv_cache: int | None
    recurrent_state: int

    @property
    def total(self) -> int:
        return self.weights + (self.kv_cache or 0) + self.recurrent_state


@dataclass(frozen=True)
class ModelInfo:
    """A GGUF file at a glance; None where the file does not tell. `split`: (number from 0, count) of a split model's file."""

    path: str
    size_bytes: int
    gguf_version: int
    architecture: str | None
    name: str | None
    is_side_car: bool
    quantization: str | None
    tensor_types: dict[str, TypeCount]
    n_tensors: int
    n_params: int
    n_ctx_train: int | None
    n_embd: int | None
    n_layer: int | None
    n_vocab: int | None
    has_chat_template: bool
    neg: NegSection | None
    memory: ExpectedMemory
    split: tuple[int, int] | None


def info(path: PathLike, *, n_ctx: int | None = None, n_parallel: int = DEFAULT_N_PARALLEL) -> ModelInfo:
    """Reads the header of a GGUF file.

    n_ctx: tokens of context to expect memory for (default: 4096, or the trained context when that is shorter);
    n_parallel: sequences at once.
    Raises ModelFileError for a file that is not sound GGUF, NegHeadError for one whose head is incomplete or malformed.
    """
    header = read_header(path)
    arch = _text(header, "general.architecture")
    n_ctx_train = _number(header, f"{arch}.context_length")
    if n_ctx is None:
        n_ctx = min(DEFAULT_N_CTX, n_ctx_train or DEFAULT_N_CTX)
    split_count = _number(header, "split.count")
    return ModelInfo(
        path=header.path,
        size_bytes=header.file_size,
        gguf_version=header.version,
        architecture=arch,
        name=_text(header, "general.name"),
        is_side_car=is_side_car(header),
        quantization=_quantization(header),
        tensor_types=_tensor_types(header),
        n_tensors=len(header.tensors),
        n_params=sum(t.n_elements for t in header.tensors.values()),
        n_ctx_train=n_ctx_train,
        n_embd=_number(header, f"{arch}.embedding_length"),
        n_layer=_number(header, f"{arch}.block_count"),
        n_vocab=_vocabulary(header, arch),
        has_chat_template="tokenizer.chat_template" in header.keys,
        neg=read_gate(header) if has_neg(header) else None,
        memory=_memory(header, arch, n_ctx, n_parallel),
        split=(_number(header, "split.no") or 0, split_count) if split_count and split_count > 1 else None,
    )


def _text(header: GGUFHeader, key: str) -> str | None:
    value = header.get(key)
    return value if isinstance(value, str) else None


def _number(header: GGUFHeader, key: str) -> int | None:
    value = header.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _quantization(header: GGUFHeader) -> str | None:
    """Name of the file type as llama.cpp's quantizer spells it; F16 and the like for files that are not quantized."""
    number = _number(header, "general.file_type")
    if number is None:
        return None
    from gguf import LlamaFileType  # here, because importing gguf takes longer than reading the header

    try:
        return str(LlamaFileType(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return f"file type {number}"


def _tensor_types(header: GGUFHeader) -> dict[str, TypeCount]:
    """By type name, the type with the most bytes first."""
    counts: dict[str, TypeCount] = {}
    for t in header.tensors.values():
        c = counts.get(t.type_name, TypeCount(0, 0, 0))
        counts[t.type_name] = TypeCount(c.n_tensors + 1, c.n_params + t.n_elements, c.n_bytes + t.n_bytes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1].n_bytes, item[0])))


def _vocabulary(header: GGUFHeader, arch: str | None) -> int | None:
    tokens = header.keys.get("tokenizer.ggml.tokens")
    return (
        tokens.count if tokens is not None and tokens.item_type is not None else _number(header, f"{arch}.vocab_size")
    )


def _memory(header: GGUFHeader, arch: str | None, n_ctx: int, n_parallel: int) -> ExpectedMemory:
    weights = sum(t.n_bytes for t in header.tensors.values())
    recurrent = _recurrent_layers(header, arch)
    return ExpectedMemory(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        weights=weights,
        kv_cache=_kv_cache(header, arch, recurrent, n_ctx),
        recurrent_state=_recurrent_state(header, arch, recurrent, n_parallel),
    )


def _recurrent_layers(header: GGUFHeader, arch: str | None) -> list[bool]:
    """For each layer that runs in plain decoding (multi-token-prediction blocks do not): whether it is recurrent."""
    n_layer = (_number(header, f"{arch}.block_count") or 0) - (_number(header, f"{arch}.nextn_predict_layers") or 0)
    if not 0 < n_layer <= MAX_LAYERS:
        return []
    if _number(header, f"{arch}.ssm.inner_size") is None:
        return [False] * n_layer
    listed = header.get(f"{arch}.attention.recurrent_layers")
    if isinstance(listed, list) and len(listed) >= n_layer:
        return [bool(r) for r in listed[:n_layer]]
    heads = header.get(f"{arch}.attention.head_count_kv")
    if isinstance(heads, list) and len(heads) >= n_layer:  # jamba, granite hybrid: no KV heads in recurrent layers
        return [h == 0 for h in heads[:n_layer]]
    if not heads:  # mamba: no attention anywhere
        return [True] * n_layer
    interval = _number(header, f"{arch}.full_attention_interval") or FULL_ATTENTION_INTERVAL
    return [(i + 1) % interval != 0 for i in range(n_layer)]


def _kv_cache(header: GGUFHeader, arch: str | None, recurrent: list[bool], n_ctx: int) -> int | None:
    heads = header.get(f"{arch}.attention.head_count")
    kv_heads = header.get(f"{arch}.attention.head_count_kv")
    n_embd = _number(header, f"{arch}.embedding_length")
    n_heads = max(heads, default=0) if isinstance(heads, list) else heads
    if not recurrent or not n_embd or not isinstance(n_heads, int) or n_heads < 1:
        return None
    key_length = _number(header, f"{arch}.attention.key_length") or n_embd // n_heads
    value_length = _number(header, f"{arch}.attention.value_length") or n_embd // n_heads
    if kv_heads is None:
        kv_heads = n_heads
    per_layer = kv_heads if isinstance(kv_heads, list) else [kv_heads] * len(recurrent)
    attended = sum(int(h) for h, is_recurrent in zip(per_layer, recurrent, strict=False) if not is_recurrent)
    return padded(n_ctx, CELL_STEP) * attended * (key_length + value_length) * F16_BYTES


def _recurrent_state(header: GGUFHeader, arch: str | None, recurrent: list[bool], n_parallel: int) -> int:
    sizes = [_number(header, f"{arch}.ssm.{key}") for key in ("conv_kernel", "inner_size", "state_size", "group_count")]
    conv_kernel, inner, state, groups = (size or 0 for size in sizes)
    conv = max(conv_kernel - 1, 0) * (inner + 2 * groups * state)
    return (n_parallel + 1) * sum(recurrent) * (conv + inner * state) * F32_BYTES
