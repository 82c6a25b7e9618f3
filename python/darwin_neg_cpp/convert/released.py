"""The released model as a file without its weights, from its configuration alone: nothing is downloaded."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_VERSION, GGUFType, GGUFWriter, LlamaFileType
from gguf import GGMLQuantizationType as Type

from ..files.safetensors_header import StoredTensor
from ..gguf_file import encode
from ..gguf_file.header import TensorInfo
from ..neg.head import DOWN_B, DOWN_W, OUT_B, OUT_W
from .config import Config, Shape, add_keys
from .plan import entries_of, place, tensor_bytes
from .tensors import Planner

# its config.json, as far as shapes depend on it, and what config.json does not say. vocabulary_bytes: what tokens,
# merges and chat template take in a file
RELEASED = Path(__file__).parents[1] / "data" / "darwin-9b-neg.json"


@dataclass(frozen=True)
class Outline:
    """A model file of which only the header exists. missing_bytes: of the header; no size counts them."""

    path: Path
    name: str
    missing_bytes: int


@contextlib.contextmanager
def released_outline() -> Iterator[Outline]:
    """Writes the released model's header in BF16, without its vocabulary, for the length of the block."""
    released = json.loads(RELEASED.read_text("utf-8"))
    config = Config(str(RELEASED), released["config"])
    shape = config.shape(n_mtp=released["mtp_blocks"])
    header, size = _header(released["name"], config, shape, released["head_width"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outline.gguf"
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)  # a hole, which takes no space
        yield Outline(path, released["name"], released["vocabulary_bytes"])


def _header(name: str, config: Config, shape: Shape, width: int) -> tuple[bytes, int]:
    """Returns the header, and the size of the file with its data."""
    placed, end = place(_Imagined(shape).outputs())
    infos = [entry.info for entry in placed]
    for tensor, extents in ((DOWN_W, (shape.hidden, width)), (DOWN_B, (width,)), (OUT_W, (width,)), (OUT_B, (1,))):
        infos.append(TensorInfo(tensor, extents, Type.F32, end, tensor_bytes(extents, Type.F32)))
        end = encode.aligned(end + infos[-1].size)
    writer = GGUFWriter(None, shape.arch)
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    add_keys(writer, config, shape)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(shape.vocab)
    # what llama.cpp would refuse a head without; the values make no difference to sizes
    writer.add_uint32("neg.version", 1)
    writer.add_float32("neg.threshold", 1.0)
    writer.add_uint32("neg.top_k", 20)
    writer.add_float32("neg.temp_scale", 1.0)
    writer.add_bool("neg.temp_enabled", False)
    writer.add_string("neg.source", name)
    keys = [encode.key(*entry) for entry in entries_of(writer)]
    header = b"".join([encode.start(len(infos), len(keys)), *keys, *map(encode.info, infos)])
    header += bytes(encode.aligned(len(header)) - len(header))
    return header, len(header) + end


class _Imagined(Planner):
    """Plans the tensors of a checkpoint that has whatever its configuration asks for."""

    def __init__(self, shape: Shape) -> None:
        # the only tensor whose absence has a meaning
        head = {} if shape.tied else {"lm_head.weight": _imagined("lm_head.weight", (shape.vocab, shape.hidden))}
        super().__init__(Path(), head, shape, Type.BF16)

    def take(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        self._left.pop(name, None)
        return _imagined(name, shape)


def _imagined(name: str, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor("", name, "BF16", shape, 0, 2 * math.prod(shape))
