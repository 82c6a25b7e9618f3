"""Quantizes a model with llama.cpp's own quantizer. The NEG head stays F32, bit for bit."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGUFValueType, LlamaFileType
from gguf import GGMLQuantizationType as Type

from ..checks import check_integer
from ..errors import DarwinNegError, ModelFileError, OutputError, RequestError
from ..files.input_file import PathLike, open_input, shown, shown_path
from ..files.output_file import check_output, rename_in_errors, replacing
from ..files.progress import Progress, no_progress
from ..files.usable_cpus import usable_cpus
from ..gguf_file import encode
from ..gguf_file.header import Header, read_header
from ..gguf_file.parts import read_model
from ..gguf_file.preflight import check_loadable
from ..neg.formats import has_neg, head_of
from .imatrix import check_imatrix

# by llama-quantize's names. It does not make NVFP4, and makes a Q2_0 that only later versions of the gguf package can
# read
TYPES = {
    kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower(): int(kind)
    for kind in LlamaFileType
    if kind.name != "GUESSED" and "SOME_F16" not in kind.name and "NVFP4" not in kind.name
} | ({"q2_0": 41} if "Q2_0" in Type.__members__ else {})
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
UINT32 = GGUFValueType.UINT32
SET_KEYS = ("general.file_type", "general.quantization_version")  # by the quantizer
# the logger that a loaded model's log goes to as well; the converter does without the engine's room
_llama_log = logging.getLogger("darwin_neg_cpp.llama")
_llama_log.addHandler(logging.NullHandler())

POLL_SECONDS = 0.1
MAX_THREADS = 1024


def quantize(
    model: PathLike,
    out: PathLike,
    kind: str,
    *,
    imatrix: PathLike | None = None,
    allow_requantize: bool = False,
    threads: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes `out`: `model` with its weights in another type. A split model is read whole, and written as one file.

    kind: q4_k_m, q6_k, ... (TYPES). imatrix: an importance matrix, as llama-imatrix writes it; the types below two
    and a half bits need one. allow_requantize: `model` may be quantized already, at a loss. threads: 0 for all.
    progress: called with tensors done and tensors in total. Errors: RequestError, ModelFileError, OutputError; then
    `out` is as it was before.
    """
    threads = check_integer("threads", threads, low=0, high=MAX_THREADS)
    check_ready(kind, imatrix)
    number, core = type_number(kind), compiled_engine()
    header = read_model(model)
    check_loadable(header)
    inputs = [Path(part.path) for part in header.parts or (header,)]
    inputs += [] if imatrix is None else [Path(imatrix)]
    check_output(Path(out), inputs, force=force)
    if imatrix is not None:
        check_imatrix(core, header, header.path, number, _full_name(kind), imatrix)
    with replacing(Path(out)) as (_, temp), rename_in_errors(temp, Path(out)):
        _run(core, header.path, temp, number, imatrix, allow_requantize, threads, progress or no_progress)
        _check(header, _read_written(temp, header.path))


def check_ready(kind: str, imatrix: PathLike | None = None) -> None:
    """Raises an error for what fails with any model: an unknown type, a missing imatrix, no compiled engine."""
    type_number(kind)
    if imatrix is not None:
        open_input(imatrix, ModelFileError).close()
    compiled_engine()


def check_plan(header: Path, kind: str, imatrix: PathLike) -> None:
    """Raises an error for a matrix that is not one of a model. header: a file with its header, and any data or none."""
    check_imatrix(
        compiled_engine(), read_header(header), str(header), type_number(kind), _full_name(kind), imatrix, warn=False
    )


def type_number(kind: str) -> int:
    """llama.cpp's number of a file type."""
    name = _full_name(kind)
    if name not in TYPES:
        raise RequestError(f"type must be one of {', '.join(TYPES)}, got {kind!r}")
    return TYPES[name]


def dry_run(model: Path, kind: str, *, with_imatrix: bool = False) -> dict[str, Type]:
    """The types that `quantize` would give to the tensors whose type it changes, by name. Only the header is read."""
    found = compiled_engine().quantized_types(str(model), type_number(kind), with_imatrix=with_imatrix)
    return {name: Type[label.upper()] for name, label in found.items()}


def quantized_bytes(header: Header, types: Mapping[str, Type]) -> tuple[dict[str, int], int]:
    """Returns the bytes of each tensor of a quantized file, and those of the whole file.

    header: of the model that it is made from. types: as `dry_run` returns them.
    """
    sizes = {}
    for name, info in header.tensors.items():
        block, size = GGML_QUANT_SIZES[types.get(name, info.type)]
        sizes[name] = info.n_elements // block * size
    # keys as in the model, but for those of a split and the two that the quantizer sets, in 32 bits each
    kept = (key for name, key in header.keys.items() if not name.startswith("split.") and name not in SET_KEYS)
    keys = sum(key.end - key.begin for key in kept) + sum(len(encode.key(name, UINT32, 0)) for name in SET_KEYS)
    infos = sum(len(encode.info(info)) for info in header.tensors.values())
    start = encode.aligned(len(encode.start(0, 0)) + keys + infos)
    return sizes, start + sum(encode.aligned(size) for size in sizes.values())


def _full_name(kind: str) -> str:
    return ALIASES.get(kind.lower(), kind.lower())


def compiled_engine(what: str = "quantizing", otherwise: str = ", or choose f32, f16, bf16 or q8_0") -> Any:
    """The compiled module. Raises DarwinNegError where it cannot be loaded.

    what: what needs it. otherwise: what to do without it.
    """
    try:
        from .. import _core
    except ImportError as error:
        raise DarwinNegError(
            f"{what} needs the compiled engine, which cannot be loaded ({error}); install the package with "
            f"`pip install .`{otherwise}"
        ) from None
    return _core


def _run(
    core: Any,
    model: str,
    temp: Path,
    number: int,
    imatrix: PathLike | None,
    allow_requantize: bool,
    threads: int,
    progress: Progress,
) -> None:
    state = core.QuantizeProgress()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            core.quantize(
                model,
                str(temp),
                number,
                imatrix="" if imatrix is None else os.fspath(imatrix),
                allow_requantize=allow_requantize,
                n_threads=threads or usable_cpus().count,
                progress=state,
            )
        except BaseException as error:  # raised again below, on the caller's thread
            failed.append(error)

    # a thread of its own, so that this one sees Ctrl-C
    thread = threading.Thread(target=work, name="darwin-neg-quantize", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if state.total:
                progress(state.done, state.total)
    except BaseException:
        state.cancel()
        thread.join()
        raise
    finally:
        for level, line in core.drain_log():
            _llama_log.log(level, "%s", line)
    if not failed:
        progress(max(1, state.total), max(1, state.total))
        return
    _raise_disk_error(temp, failed[0])
    if isinstance(failed[0], RequestError):
        raise RequestError(
            f"{shown_path(model)}: {' '.join(str(failed[0]).split())}; see imatrix=FILE and allow_requantize=True"
        )
    raise failed[0]


def _raise_disk_error(temp: Path, error: BaseException) -> None:
    """Raises the operating system's error when the disk is full; the quantizer only reports a failed stream."""
    if "iostream" not in str(error):
        return
    with temp.open("ab") as file:
        try:
            file.write(bytes(1 << 20))
            file.flush()
        except OSError as reason:
            raise OutputError(
                f"{shown_path(temp.parent)}: cannot be written to ({reason.strerror}); free some space"
            ) from reason


def _read_written(temp: Path, model: str) -> Header:
    """The header of what the quantizer has written. That it cannot be read is the quantizer's fault, or the disk's."""
    try:
        return read_header(temp)
    except ModelFileError as error:
        why = str(error).partition(": ")[2].partition(";")[0]
        raise OutputError(
            f"{shown_path(temp)}: what llama.cpp's quantizer made of {shown_path(model)} cannot be read ({why}); check "
            "the disk, or try another type"
        ) from None


def _check(source: Header, written: Header) -> None:
    if others := sorted(set(source.tensors) ^ set(written.tensors)):
        names = ", ".join(map(shown, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ModelFileError(
            f"{shown_path(source.path)}: llama.cpp's quantizer writes other tensors than the model has ({names}), so "
            "nothing is kept; use the model as it is, or convert it again"
        )
    if not has_neg(source):
        return
    before, after = head_of(source), head_of(written)
    for name, data in before.tensors().items():
        if data.tobytes() != after.tensors()[name].tobytes():
            raise OutputError(
                f"{shown_path(written.path)}: was not written correctly ({name}); check the disk and try again"
            )
