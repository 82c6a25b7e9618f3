"""Works out a projector file ("mmproj"): the vision tower, and how images are prepared for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_VERSION, GGUFWriter, Metadata

from ..errors import ModelFileError, RequestError
from ..files.input_file import shown, shown_path
from .checkpoint import PREPROCESSOR, PROCESSOR, Checkpoint, read_json
from .config import MAX_F32, Config
from .model_card import read_metadata
from .plan import OUT_TYPES, Plan, collect_warnings, counts, encode_header, entries_of, place, stored_type
from .vision import COLORS, MERGED, Tower, VisionShape, vision_shape, vision_tensors

ARCH = "clip"  # of every projector file, whatever the tower
VISION = "clip.vision."
# where newer and older versions of transformers put the settings of images inside the files
INNER = {PREPROCESSOR: "media_proc_cfg", PROCESSOR: "image_processor"}


def no_tower(where: str) -> ModelFileError:
    """The error for a checkpoint of a language model alone."""
    return ModelFileError(
        f"{where}: the checkpoint has no vision tower (no tensor visual.*), so there is no projector to write; "
        "give one that has, or leave mmproj= out"
    )


def make_projector_plan(checkpoint: Checkpoint, *, outtype: str = "auto", name: str | None = None) -> Plan:
    """Maps a checkpoint's vision tower to a file.

    outtype: f32, f16, bf16, q8_0, or auto (the type of the tower's weights; f16 for weights in F32). name: of the
    model, by default from the model card and the folder's name. Errors: ModelFileError, RequestError.
    """
    config = Config(checkpoint.config_path, checkpoint.config)
    tower = vision_tensors(checkpoint)
    if not tower:
        raise no_tower(shown_path(checkpoint.folder))
    if outtype == "auto":
        outtype = stored_type(tower)
    if outtype not in OUT_TYPES:
        raise RequestError(f"outtype of a projector must be one of {', '.join(OUT_TYPES)} or auto, got {outtype!r}")
    shape = vision_shape(config)
    outputs = Tower(checkpoint, shape, OUT_TYPES[outtype][1]).outputs()
    mean, deviation = _image_statistics(checkpoint.folder)
    tensors, _ = place(outputs)

    notes: list[str] = []
    with collect_warnings(notes):
        metadata, left_out = read_metadata(checkpoint.folder, checkpoint.config, counts(outputs), name)
        writer = GGUFWriter(None, ARCH)
        _add_keys(writer, metadata, config, shape, outtype)
        writer.add_array(VISION + "image_mean", mean)
        writer.add_array(VISION + "image_std", deviation)
        _add_tower(writer, config, shape)
        writer.add_quantization_version(GGML_QUANT_VERSION)
    header = encode_header(checkpoint, entries_of(writer), [placed.info for placed in tensors])
    notes = [*checkpoint.notes, *left_out, *notes]
    return Plan(outtype, ARCH, str(metadata.name), header, tensors, None, (), checkpoint.files(), tuple(notes))


def _add_keys(writer: GGUFWriter, metadata: Metadata, config: Config, shape: VisionShape, outtype: str) -> None:
    # by their names: versions of the gguf package from before these models have no methods for them
    writer.add_string("general.type", "mmproj")
    metadata.set_gguf_meta_model(writer)
    writer.add_file_type(OUT_TYPES[outtype][0])
    writer.add_bool("clip.has_vision_encoder", True)
    for key, value in (
        ("projection_dim", config.integer("hidden_size")),
        ("image_size", shape.image_size),
        ("patch_size", shape.patch),
        ("embedding_length", shape.hidden),
        ("feed_forward_length", shape.n_ff),
        ("block_count", shape.depth),
        ("attention.head_count", shape.n_heads),
    ):
        writer.add_uint32(VISION + key, value)


def _add_tower(writer: GGUFWriter, config: Config, shape: VisionShape) -> None:
    writer.add_string("clip.projector_type", "qwen3vl_merger")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32(VISION + "spatial_merge_size", MERGED)
    # the language model's, as llama.cpp's converter has it
    epsilon = config.number(config.values, "rms_norm_eps", 1e-6, high=1.0)
    writer.add_float32(VISION + "attention.layer_norm_epsilon", epsilon)
    writer.add_array(VISION + "is_deepstack_layers", [layer in shape.deepstack for layer in range(shape.depth)])


def _image_statistics(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the colors, by which images are normalized."""
    settings: dict[str, tuple[Path, Any]] = {}
    for name, inner in INNER.items():
        path = folder / name
        if path.is_file():
            found: Mapping[str, Any] = read_json(path)
            within = found.get(inner)
            found = {**found, **within} if isinstance(within, dict) else found
            settings |= {key: (path, value) for key, value in found.items()}
    if not settings:
        raise ModelFileError(
            f"{shown_path(folder)}: has no {PREPROCESSOR}, which says how images are normalized; "
            "download that file of the model too"
        )
    where = next(iter(settings.values()))[0]
    mean = _three_numbers(*settings.get("image_mean", (where, None)), "image_mean", low=-MAX_F32)
    return mean, _three_numbers(*settings.get("image_std", (where, None)), "image_std", low=1e-30)


def _three_numbers(path: Path, value: Any, key: str, *, low: float) -> list[float]:
    if (
        not isinstance(value, list)
        or len(value) != COLORS
        or not all(type(number) in (int, float) and low <= number <= MAX_F32 for number in value)
    ):
        what = "is missing" if value is None else f"is {_shown_value(value)}"
        above = "above 0, " if low > 0 else ""
        raise ModelFileError(
            f"{shown_path(path)}: {key} {what}, expected three numbers {above}one for each color; "
            "download the file again"
        )
    return [float(number) for number in value]


def _shown_value(value: Any) -> str:
    try:
        return shown(repr(value))
    except ValueError:  # a number of more digits than Python writes
        return "a number with too many digits"
