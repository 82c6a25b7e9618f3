"""What fits in a given memory: which quantization, how long a context, how many layers on the GPU.

Sizes of files and weights come from the tensors' shapes and from the types that llama.cpp's quantizer chooses for them.
KV cache, recurrent states and compute buffer are what llama.cpp plans for the context that the engine makes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType as Type

from ..checks import check_integer
from ..errors import ModelFileError, RequestError
from ..files.input_file import PathLike, shown, shown_path
from ..gguf_file.header import Header, TensorInfo, architecture
from ..gguf_file.info import describe
from ..gguf_file.parts import read_model
from ..gguf_file.preflight import check_runnable
from ..neg.formats import SIDE_CAR_ARCH
from .checkpoint import NEG_MODULES, open_checkpoint
from .convert import NEED_IMATRIX, outline, plan
from .head import head_in_shards
from .quantize import compiled_engine, dry_run, quantized_bytes
from .released import released_outline
from .source import Source

# from large to small; what llama-quantize makes, without those that it has for old files
LADDER = (
    *("q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "iq4_xs", "q3_k_l", "q3_k_m", "iq3_m", "q3_k_s"),
    *("iq3_xxs", "q2_k", "iq2_m", "iq2_xxs"),
)  # fmt: skip
# what is proposed: above, a file takes more memory and time than its answers are better; below, they get worse
PROPOSED = ("q8_0", "q6_k", "q5_k_m", "q4_k_m")
DEFAULT_CONTEXT = 8192
MAX_CONTEXT = 1 << 24
CELLS = 256  # llama.cpp makes contexts of a multiple of them
# an eighth of the memory, and at most this much, is left to drivers, the desktop and others
MOST_RESERVED = 512 << 20
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
LEAST, MOST = 10**6, 10**15
UNQUANTIZED = (Type.F32, Type.F16, Type.BF16)


@dataclass(frozen=True)
class Context:
    """Bytes beside the weights at a context of n_ctx tokens.

    kv_cache: of the attention layers. recurrent: of the other layers, which is the same for every context. compute: the
    buffer for intermediate results as llama.cpp plans it for the CPU: an estimate of what a GPU needs.
    """

    n_ctx: int
    kv_cache: int
    recurrent: int
    compute: int

    @property
    def total(self) -> int:
        return self.kv_cache + self.recurrent + self.compute


@dataclass(frozen=True)
class Model:
    """A model that memory is looked for.

    n_layers: what n_gpu_layers counts, the output layer included. can_be_quantized: it is not quantized already.
    contexts: by length; the first is the shortest that is wanted.
    """

    name: str
    architecture: str
    type: str
    n_params: int
    n_layers: int
    n_ctx_train: int
    n_parallel: int
    can_be_quantized: bool
    contexts: tuple[Context, ...]


@dataclass(frozen=True)
class Fit:
    """A quantization of the model, and what of it fits.

    file: size of the file in bytes. all_layers: bytes on a GPU with all layers there, at the shortest context; the
    embedding of tokens stays in main memory. without_gpu: bytes of main memory without a GPU, at the same. n_ctx: the
    longest context with all layers on the GPU, 0 where none fits. n_gpu_layers: how many layers fit with the shortest.
    """

    type: str
    needs_imatrix: bool
    file: int
    all_layers: int
    without_gpu: int
    n_ctx: int
    n_gpu_layers: int


@dataclass(frozen=True)
class Proposal:
    """What to run. on_device: bytes of the memory that is taken. n_gpu_layers: None without a GPU."""

    type: str
    file: int
    n_ctx: int
    n_gpu_layers: int | None
    on_device: int


@dataclass(frozen=True)
class Memory:
    """What fits in `size` bytes, of which `reserved` are left free. Proposals are None where nothing fits."""

    size: int
    reserved: int
    fits: tuple[Fit, ...]
    gpu: Proposal | None
    cpu: Proposal | None


@dataclass(frozen=True)
class Report:
    model: Model
    memory: tuple[Memory, ...]


def read_sizes(text: str) -> list[int]:
    """Reads sizes of memory: `8GB`, `7.5GiB`, or several with commas between them. Raises RequestError."""
    return [_read_size(part.strip()) for part in text.split(",")]


def _read_size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?) ?([A-Za-z]{2,3})", text, re.ASCII)
    unit = next((unit for unit in UNITS if match and unit.lower() == match[2].lower()), None)
    if match is None or unit is None:
        raise RequestError(
            f"fit must be a size such as 8GB (8,000,000,000 bytes) or 8GiB (8,589,934,592 bytes), got '{shown(text)}'"
        )
    whole, _, part = match[1].partition(".")
    # in whole numbers, which 0.1 GB is not as a float
    size: int = int(whole + part) * UNITS[unit] // 10 ** len(part)
    if not LEAST <= size <= MOST:
        raise RequestError(f"fit must be between 1MB and 1000TB, got '{shown(text)}'")
    return size


def fit(model: PathLike | None, sizes: Sequence[int], *, n_ctx: int | None = None, n_parallel: int = 8) -> Report:
    """Works out what of a model fits in memories of `sizes` bytes.

    model: a GGUF file or a checkpoint's folder; None: Darwin-9B-NEG as released, of which nothing is needed for it.
    n_ctx: tokens that the context must hold at least, by default 8192, or what the model was trained for. n_parallel:
    sequences that generate side by side. Errors: RequestError, ModelFileError, NegHeadError.
    """
    n_parallel = check_integer("n_parallel", n_parallel, low=1, high=255)
    if n_ctx is not None:
        n_ctx = check_integer("n_ctx", n_ctx, low=1, high=MAX_CONTEXT)
    with _opened(model) as (path, header, name, missing):
        described = describe(header)
        trained = described.n_ctx_train or MAX_CONTEXT
        if n_ctx is not None and n_ctx > trained:
            raise RequestError(f"n_ctx must be at most {trained}, what the model was trained for, got {n_ctx}")
        shortest = min(DEFAULT_CONTEXT, trained) if n_ctx is None else n_ctx
        layers = _Layers(header)
        about = Model(
            name=name or described.name or Path(header.path).name,
            architecture=described.architecture,
            type=described.quantization.lower(),
            n_params=described.n_params,
            n_layers=layers.count + 1,
            n_ctx_train=described.n_ctx_train,
            n_parallel=n_parallel,
            can_be_quantized=_can_be_quantized(header),
            contexts=_contexts(path, shortest, trained, n_parallel),
        )
        kinds = [kind for kind in LADDER if kind != about.type] if about.can_be_quantized else []
        files = [_File(about.type, False, header, {}, missing)]
        for kind in kinds:
            types = dry_run(path, kind, with_imatrix=kind in NEED_IMATRIX)
            files.append(_File(kind, kind in NEED_IMATRIX, header, types, missing))
    files.sort(key=lambda file: -file.size)
    return Report(about, tuple(_in(size, about, layers, files) for size in sizes))


# --- the model


@contextlib.contextmanager
def _opened(model: PathLike | None) -> Iterator[tuple[Path, Header, str, int]]:
    """A file with the model's header, that header, the model's name, and how many bytes of the header it lacks."""
    if model is None:
        with released_outline() as found:
            yield found.path, read_model(found.path), found.name, found.missing_bytes
    elif Path(model).is_dir():
        checkpoint = open_checkpoint(Path(model))
        has_head = (checkpoint.folder / NEG_MODULES).exists() or bool(head_in_shards(checkpoint))
        planned = plan(Source(Path(model), None), without_neg=not has_head)
        with outline(planned) as path:
            yield path, read_model(path), planned.name, 0
    else:
        header = read_model(model)
        if architecture(header) == SIDE_CAR_ARCH:
            raise ModelFileError(f"{shown_path(model)}: is a NEG side-car; give the model file that it belongs to")
        check_runnable(header.path, use_mmap=False)
        yield Path(header.path), header, "", 0


def _can_be_quantized(header: Header) -> bool:
    return all(info.type in UNQUANTIZED for info in header.tensors.values())


def _contexts(path: Path, shortest: int, trained: int, n_parallel: int) -> tuple[Context, ...]:
    """What llama.cpp plans at the shortest context, at the powers of two above it, and at the longest."""
    lengths = [shortest, *(1 << n for n in range(32) if shortest < 1 << n < trained)]
    if trained > lengths[-1] and trained < MAX_CONTEXT:
        lengths.append(trained)
    core = compiled_engine("planning memory", "")
    # for the CPU alone, so that the figures are the same on every machine
    params = core.ModelParams(str(path), n_parallel=n_parallel, devices=[])
    padded = [-(-n // CELLS) * CELLS for n in lengths]
    # what grows with the context is the cache, what does not are the states
    planned = core.planned_memory(params, [*padded, 2 * padded[-1]])
    for _ in core.drain_log():
        pass
    (_, last, _), (_, twice, _) = planned[-2:]
    recurrent = max(0, 2 * last - twice)
    return tuple(
        Context(n, memory - recurrent, recurrent, compute)
        for n, (_, memory, compute) in zip(lengths, planned, strict=False)
    )


class _Layers:
    """Which layer each tensor belongs to, and how much of the cache and of the states is of each layer.

    count: layers, those for multi-token prediction included. used: those that are loaded, which are all but these.
    """

    def __init__(self, header: Header) -> None:
        def number(name: str) -> int:
            value = header.value(f"{architecture(header)}.{name}", 0)
            return value if type(value) is int else 0

        self.count = number("block_count")
        self.used = self.count - number("nextn_predict_layers")
        listed = header.integers(f"{architecture(header)}.attention.head_count_kv")
        flags = header.integers(f"{architecture(header)}.attention.recurrent_layers")
        interval = number("full_attention_interval")
        recurrent = [
            bool(flags[i]) if flags and i < len(flags) else bool(interval and (i + 1) % interval)
            for i in range(self.used)
        ]
        heads = [0 if recurrent[i] else listed[i] if listed and i < len(listed) else 1 for i in range(self.used)]
        self.kv_shares = _shares(heads)
        self.state_shares = _shares([int(flag) for flag in recurrent])

    def weights(self, tensors: Mapping[str, TensorInfo], sizes: Mapping[str, int]) -> tuple[int, list[int], int]:
        """Bytes of the embedding, of each loaded layer, and of the output layer, which the NEG head is part of."""
        embedding = output = 0
        layers = [0] * self.used
        for name in tensors:
            block = re.match(r"blk\.(\d+)\.", name)
            if block is None and name.startswith("token_embd"):
                embedding += sizes[name]
            elif block is None:
                output += sizes[name]
            elif int(block[1]) < self.used:
                layers[int(block[1])] += sizes[name]
        if "output.weight" not in tensors:
            output += embedding  # the same matrix again, on the GPU
        return embedding, layers, output


def _shares(parts: Sequence[int]) -> list[float]:
    total = sum(parts)
    return [part / total if total else 0.0 for part in parts]


class _File:
    """A quantization of the model. types: of the tensors whose type it changes."""

    def __init__(self, kind: str, imatrix: bool, header: Header, types: Mapping[str, Type], missing: int) -> None:
        self.kind = kind
        self.needs_imatrix = imatrix
        self.tensors = header.tensors
        self.sizes, size = quantized_bytes(header, types)
        self.size = (size if types else header.file_size) + missing


# --- what fits


class _Sizes:
    """How much memory a file takes."""

    def __init__(self, file: _File, model: Model, layers: _Layers) -> None:
        self.file = file
        self._layers = layers
        self.n_layers = model.n_layers
        self._embedding, self._each, self._output = layers.weights(file.tensors, file.sizes)
        self._tied = "output.weight" not in file.tensors

    def on_gpu(self, n_gpu_layers: int, context: Context) -> int:
        """Bytes on the GPU with the last n_gpu_layers there, which llama.cpp counts from the output layer."""
        if n_gpu_layers == 0:
            return 0
        first = self._layers.count + 1 - n_gpu_layers
        there = range(min(max(first, 0), self._layers.used), self._layers.used)
        cache = context.kv_cache * sum(self._layers.kv_shares[i] for i in there)
        states = context.recurrent * sum(self._layers.state_shares[i] for i in there)
        return self._output + sum(self._each[i] for i in there) + round(cache + states) + context.compute

    def without_gpu(self, context: Context) -> int:
        output = self._output - (self._embedding if self._tied else 0)
        return self._embedding + sum(self._each) + output + context.total


def _in(size: int, model: Model, layers: _Layers, files: Sequence[_File]) -> Memory:
    reserved = min(size // 8, MOST_RESERVED)
    room = size - reserved
    shortest = model.contexts[0]
    sizes = [_Sizes(file, model, layers) for file in files]
    fits = []
    for found in sizes:
        lengths = [c.n_ctx for c in model.contexts if found.on_gpu(model.n_layers, c) <= room]
        counts = [n for n in range(model.n_layers + 1) if found.on_gpu(n, shortest) <= room]
        fits.append(
            Fit(
                type=found.file.kind,
                needs_imatrix=found.file.needs_imatrix,
                file=found.file.size,
                all_layers=found.on_gpu(model.n_layers, shortest),
                without_gpu=found.without_gpu(shortest),
                n_ctx=max(lengths, default=0),
                n_gpu_layers=max(counts),
            )
        )
    by_type = {found.file.kind: found for found in sizes}
    return Memory(size, reserved, tuple(fits), _for_gpu(model, fits, by_type), _for_cpu(model, room, by_type))


def _for_gpu(model: Model, fits: Sequence[Fit], sizes: Mapping[str, _Sizes]) -> Proposal | None:
    """The best of the proposed types with all layers on the GPU; where none fits, the smallest with a part of them."""
    able = [found for found in fits if not model.can_be_quantized or found.type in PROPOSED]
    best = next((found for found in able if found.n_ctx), able[-1])
    if best.n_gpu_layers == 0:
        return None
    n_ctx = best.n_ctx or model.contexts[0].n_ctx
    context = next(c for c in model.contexts if c.n_ctx == n_ctx)
    taken = sizes[best.type].on_gpu(best.n_gpu_layers, context)
    return Proposal(best.type, best.file, n_ctx, best.n_gpu_layers, taken)


def _for_cpu(model: Model, room: int, sizes: Mapping[str, _Sizes]) -> Proposal | None:
    """The best of the proposed types that fits; where none does, the best of all that need no importance matrix."""
    able = [kind for kind in sizes if not model.can_be_quantized or kind in PROPOSED]
    others = [kind for kind in sizes if kind in LADDER and not sizes[kind].file.needs_imatrix]
    for kind in (*able, *others):
        lengths = [c for c in model.contexts if sizes[kind].without_gpu(c) <= room]
        if lengths:
            return Proposal(kind, sizes[kind].file.size, lengths[-1].n_ctx, None, sizes[kind].without_gpu(lengths[-1]))
    return None
