"""Maps the vision tower of a Qwen3.5 checkpoint to the tensors of llama.cpp's projector file.

Names change, and the convolution over pairs of frames becomes two over single frames, whose results llama.cpp adds. The
values are copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gguf import GGMLQuantizationType as Type

from ..files.safetensors_header import StoredTensor
from .checkpoint import Checkpoint
from .config import MAX_HEADS, MAX_LAYERS, Config
from .tensors import Output, Piece, Taker, put_tensor

PREFIXES = ("model.visual.", "visual.")
SECTION = "vision_config"
COLORS, FRAMES, MERGED = 3, 2, 2  # what llama.cpp takes for granted: channels, frames to a patch, patches merged a side
MAX_PATCH = 1 << 10
MAX_WIDTH = 1 << 16
MAX_POSITIONS = 1 << 24


@dataclass(frozen=True)
class VisionShape:
    """The hyper-parameters that decide which tensors a tower has, and their shapes.

    deepstack: the layers whose output goes to the language model too, in the order of their projections.
    """

    depth: int
    hidden: int
    n_ff: int
    n_heads: int
    patch: int
    positions: int
    image_size: int
    out: int
    deepstack: tuple[int, ...]

    @property
    def merged(self) -> int:
        """Width of a square of patches that becomes one embedding."""
        return self.hidden * MERGED**2


def is_vision(name: str) -> bool:
    """Whether a tensor is one of a vision tower, by its name in the checkpoint."""
    return name.startswith(PREFIXES)


def vision_tensors(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Returns the tower's tensors by their names without `model.`, which transformers has added over time."""
    out: dict[str, StoredTensor] = {}
    for stored in checkpoint.tensors.values():
        if not is_vision(stored.name):
            continue
        put_tensor(out, stored.name.removeprefix("model."), stored)
    return out


def vision_shape(config: Config) -> VisionShape:
    """Reads the tower's shape from config.json. What it does not say is as transformers takes it for granted."""
    vision = config.section(SECTION)

    def integer(key: str, default: int, *, high: int, only: int | None = None) -> int:
        value = config.integer(f"{SECTION}.{key}", default, high=high, of=vision)
        if only is not None and value != only:
            raise config.wrong(f"{SECTION}.{key}", f"is {value}, and llama.cpp reads towers with {only} alone")
        return value

    depth = integer("depth", 27, high=MAX_LAYERS)
    patch = integer("patch_size", 16, high=MAX_PATCH)
    integer("in_channels", COLORS, high=MAX_PATCH, only=COLORS)
    integer("temporal_patch_size", FRAMES, high=MAX_PATCH, only=FRAMES)
    integer("spatial_merge_size", MERGED, high=MAX_PATCH, only=MERGED)
    positions = integer("num_position_embeddings", 2304, high=MAX_POSITIONS)
    side = math.isqrt(positions)
    if side * side != positions:
        raise config.wrong(f"{SECTION}.num_position_embeddings", f"is {positions}, which is not a square")
    shape = VisionShape(
        depth=depth,
        hidden=integer("hidden_size", 1152, high=MAX_WIDTH),
        n_ff=integer("intermediate_size", 4304, high=1 << 24),
        n_heads=integer("num_heads", 16, high=MAX_HEADS),
        patch=patch,
        positions=positions,
        image_size=integer("image_size", side * patch, high=1 << 24),
        out=integer("out_hidden_size", 3584, high=1 << 24),
        deepstack=_deepstack(config, vision.get(f"{SECTION}.deepstack_visual_indexes"), depth),
    )
    if shape.hidden % (4 * shape.n_heads) != 0:
        raise config.wrong(f"{SECTION}.hidden_size", f"is {shape.hidden}, which is not a multiple of 4 * num_heads")
    if shape.out != (width := config.integer("hidden_size")):
        raise config.wrong(f"{SECTION}.out_hidden_size", f"is {shape.out}, and the language model takes {width}")
    return shape


def _deepstack(config: Config, value: object, depth: int) -> tuple[int, ...]:
    if value is None:
        return ()
    if (
        not isinstance(value, list)
        or not all(type(layer) is int and 0 <= layer < depth for layer in value)
        or len(set(value)) != len(value)
    ):
        raise config.wrong(f"{SECTION}.deepstack_visual_indexes", f"is not a list of different layers below {depth}")
    return tuple(value)


class Tower(Taker):
    """Plans a tower's tensors."""

    def __init__(self, checkpoint: Checkpoint, shape: VisionShape, default: Type) -> None:
        super().__init__(checkpoint.folder, vision_tensors(checkpoint), "a vision tower")
        self._shape = shape
        self._default = default
        files = dict.fromkeys(tensor.path for tensor in checkpoint.tensors.values())
        self._places = {path: place for place, path in enumerate(files)}

    def outputs(self) -> list[Output]:
        """All tensors, in the order in which llama.cpp's converter comes across them: by file and stored name."""
        out = list(self._all())
        self.check_nothing_left()
        sources = [output.pieces[0].source for output in out]
        order = sorted(range(len(out)), key=lambda i: (self._places[sources[i].path], sources[i].name))
        return [out[i] for i in order]

    def _all(self) -> Iterator[Output]:
        s = self._shape
        yield from self._patches("visual.patch_embed.proj.weight", "v.patch_embd.weight")
        yield self._vector("visual.patch_embed.proj.bias", "v.patch_embd.bias", s.hidden)
        positions = self.take("visual.pos_embed.weight", (s.positions, s.hidden))
        pieces = (Piece(positions, 0, s.positions),)
        yield Output("v.position_embd.weight", positions.shape, Type.F32, pieces)
        for i in range(s.depth):
            yield from self._block(f"visual.blocks.{i}.", f"v.blk.{i}.")
        yield from self._merger("visual.merger.", ("v.post_ln", "mm.0", "mm.2"), s.hidden)
        for i, layer in enumerate(s.deepstack):
            target = f"v.deepstack.{layer}."
            names = (target + "norm", target + "fc1", target + "fc2")
            yield from self._merger(f"visual.deepstack_merger_list.{i}.", names, s.merged)

    def _patches(self, source: str, target: str) -> Iterator[Output]:
        """The convolution's two halves: of each filter and color the plane of the first frame, and of the second."""
        s = self._shape
        stored = self.take(source, (s.hidden, COLORS, FRAMES, s.patch, s.patch))
        kind = Type.F16 if self._default == Type.F16 else Type.F32
        for frame, suffix in enumerate(("", ".1")):
            planes = range(frame, s.hidden * COLORS * FRAMES, FRAMES)
            pieces = tuple(Piece(stored, plane * s.patch, s.patch) for plane in planes)
            yield Output(target + suffix, (s.hidden, COLORS, s.patch, s.patch), kind, pieces)

    def _block(self, source: str, target: str) -> Iterator[Output]:
        s = self._shape
        yield from self._norm(source + "norm1", target + "ln1", s.hidden)
        yield from self._norm(source + "norm2", target + "ln2", s.hidden)
        yield from self._linear(source + "attn.qkv", target + "attn_qkv", (3 * s.hidden, s.hidden))
        yield from self._linear(source + "attn.proj", target + "attn_out", (s.hidden, s.hidden))
        yield from self._linear(source + "mlp.linear_fc1", target + "ffn_up", (s.n_ff, s.hidden))
        yield from self._linear(source + "mlp.linear_fc2", target + "ffn_down", (s.hidden, s.n_ff))

    def _merger(self, source: str, targets: tuple[str, str, str], normed: int) -> Iterator[Output]:
        """A projection of merged patches to the language model. normed: how many values its norm spans."""
        s = self._shape
        norm, first, second = targets
        yield from self._norm(source + "norm", norm, normed)
        yield from self._linear(source + "linear_fc1", first, (s.merged, s.merged))
        yield from self._linear(source + "linear_fc2", second, (s.out, s.merged))

    def _linear(self, source: str, target: str, shape: tuple[int, int]) -> Iterator[Output]:
        stored = self.take(source + ".weight", shape)
        yield Output(target + ".weight", shape, self._default, (Piece(stored, 0, shape[0]),))
        yield self._vector(source + ".bias", target + ".bias", shape[0])

    def _norm(self, source: str, target: str, size: int) -> Iterator[Output]:
        yield self._vector(source + ".weight", target + ".weight", size)
        yield self._vector(source + ".bias", target + ".bias", size)

    def _vector(self, source: str, target: str, size: int) -> Output:
        return Output(target, (size,), Type.F32, (Piece(self.take(source, (size,)), 0, 1),))
