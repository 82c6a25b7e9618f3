"""Run Darwin-9B-NEG, and any GGUF model with a NEG head, through llama.cpp.

The names below are loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ContextFullError, DarwinNegError, ModelFileError, NegHeadError, OutputError, RequestError

if TYPE_CHECKING:
    from .llm import DarwinNEG, load_darwin_neg
    from .protocols import Answer, ModeConfig, Question
    from .remote.engine import RemoteEngine
    from .results import ChatChunk, ChatReply, Chunk, Generation, NegTrace, Scores, TokenLogprobs
    from .sampling import Neg, SamplingParams
    from .server.serve import serve
    from .spans import UncertainSpan

_LAZY = {
    "DarwinNEG": "llm",
    "load_darwin_neg": "llm",
    "Answer": "protocols",
    "ModeConfig": "protocols",
    "Question": "protocols",
    "Neg": "sampling",
    "SamplingParams": "sampling",
    "RemoteEngine": "remote.engine",
    "ChatChunk": "results",
    "ChatReply": "results",
    "Chunk": "results",
    "Generation": "results",
    "NegTrace": "results",
    "Scores": "results",
    "TokenLogprobs": "results",
    "UncertainSpan": "spans",
    "serve": "server.serve",
}

__all__ = [
    "Answer",
    "ChatChunk",
    "ChatReply",
    "Chunk",
    "ContextFullError",
    "DarwinNEG",
    "DarwinNegError",
    "Generation",
    "ModeConfig",
    "ModelFileError",
    "Neg",
    "NegHeadError",
    "NegTrace",
    "OutputError",
    "Question",
    "RemoteEngine",
    "RequestError",
    "SamplingParams",
    "Scores",
    "TokenLogprobs",
    "UncertainSpan",
    "__version__",
    "load_darwin_neg",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("darwin-neg-cpp")
        except PackageNotFoundError:  # used from a checkout
            return "0.0.0+checkout"
    if name in ("_core", "_server"):
        return _load_compiled(name)
    if name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load_compiled(name: str) -> Any:
    """Imports the engine or the server, whose threads then wait for each other awake for microseconds, and then asleep.

    Every operation of a graph ends with threads that wait. GNU's OpenMP lets them spin for milliseconds, and on cores
    that are busy with other work, a thread that spins uses up the time of the one that it waits for: a token then takes
    seconds. 1000 is what it takes itself for more threads than CPUs. It reads its environment once, when it is loaded,
    so that nothing else in this process sees the change.
    """
    import os
    from importlib import import_module

    given = any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    if not given:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        raise AttributeError(str(error)) from error  # so that Python's import statement raises an error of its own
    finally:
        if not given:
            del os.environ["GOMP_SPINCOUNT"]


def __dir__() -> list[str]:
    return sorted(__all__)
