"""Quantizing through llama.cpp's own quantizer. The NEG head stays F32, bit for bit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from gguf import LlamaFileType

from . import neg_format
from .atomic_file import OutputError, check_output, replacing
from .errors import DarwinNegError, ModelFileError, RequestError
from .gguf_header import Header, read_header
from .input_file import open_input, shown_path

Progress = Callable[[int, int], None]
PathLike = str | os.PathLike[str]

# by the names that llama-quantize takes
TYPES = {
    kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower(): int(kind)
    for kind in LlamaFileType
    if kind.name != "GUESSED" and "SOME_F16" not in kind.name
} | {"q2_0": 41}  # younger than the library's list
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
POLL_SECONDS = 0.1


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
    """Writes `out`: `model` with its weights in another type.

    kind: q4_k_m, q6_k, ... (TYPES). imatrix: an importance matrix, as llama-imatrix writes it; the types below two and a half
    bits need one. allow_requantize: `model` may be quantized already, at a loss. threads: 0 for all. progress: tensors done and in
    all. Errors: RequestError, ModelFileError, OutputError; then `out` is as it was before.
    """
    number = type_number(kind)
    header = read_header(model)
    check_output(Path(out), [Path(model)], force=force)
    if imatrix is not None:
        open_input(imatrix, ModelFileError).close()
    core = _core()
    with replacing(Path(out)) as (_, temp):
        _run(core, header.path, temp, number, imatrix, allow_requantize, threads, progress or (lambda _d, _t: None))
        _check(header, read_header(temp))


def type_number(kind: str) -> int:
    """llama.cpp's number of a file type."""
    name = ALIASES.get(kind.lower(), kind.lower())
    if name not in TYPES:
        raise RequestError(f"type must be one of {', '.join(TYPES)}, got {kind!r}")
    return TYPES[name]


def _core() -> object:
    try:
        from . import _core
    except ImportError as error:
        raise DarwinNegError(
            f"quantizing needs the compiled engine, which cannot be loaded ({error}); install the package with `pip install .`, "
            "or choose f32, f16, bf16 or q8_0"
        ) from None
    return _core


def _run(
    core: object,
    model: str,
    temp: Path,
    number: int,
    imatrix: PathLike | None,
    allow_requantize: bool,
    threads: int,
    progress: Progress,
) -> None:
    from . import log

    state = core.QuantizeProgress()  # type: ignore[attr-defined]
    failed: list[BaseException] = []

    def work() -> None:
        try:
            core.quantize(  # type: ignore[attr-defined]
                model,
                str(temp),
                number,
                imatrix="" if imatrix is None else os.fspath(imatrix),
                allow_requantize=allow_requantize,
                n_threads=threads,
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
        log.forward()
    if not failed:
        return
    _blame_disk(temp, failed[0])
    if isinstance(failed[0], RequestError):
        raise RequestError(f"{model}: {' '.join(str(failed[0]).split())}; see the options imatrix and allow_requantize")
    raise failed[0]


def _blame_disk(temp: Path, error: BaseException) -> None:
    """The quantizer reports a full disk as a failed stream; the operating system says more."""
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


def _check(source: Header, written: Header) -> None:
    def wrong(what: str) -> OutputError:
        return OutputError(f"{written.path}: was not written correctly ({what}); check the disk and try again")

    if set(source.tensors) != set(written.tensors):
        raise wrong("tensors are missing")
    if not neg_format.has_neg(source):
        return
    before, after = neg_format.head_of(source), neg_format.head_of(written)
    for name, data in before.tensors().items():
        if data.tobytes() != after.tensors()[name].tobytes():
            raise wrong(name)
