"""Backends of ggml that are libraries of their own: one for each kind of CPU in a wheel, and packages for GPUs.

A wheel runs on every CPU of its platform: it holds the CPU's kernels several times, and ggml takes the best of those
that the machine can run. Backends for GPUs come in packages beside this one, and are part of the same build.
"""

from __future__ import annotations

import ctypes
import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[1]
# name of the extra -> the package that it installs; LIBRARY and BUILD in it name its file and what it was built from
PACKAGES = {"vulkan": "darwin_neg_cpp_vulkan", "cuda12": "darwin_neg_cpp_cuda12"}
# what must be the same for a plug-in and what loads it
SAME = ("version", "patch_key")
SUFFIXES = (".so", ".dll")


def load(core: Any) -> None:
    """Loads what suits this machine. core: the module _core, which calls this while it is imported."""
    if not has_cpu(core):  # a build for one machine has the CPU's backend in it
        core.load_backends(str(FOLDER))
    for package in PACKAGES.values():
        if find_spec(package) is None:
            continue
        module = import_module(package)
        if reason := unfit(module, core.build_info()):
            logger.warning("%s", reason)
        elif not core.load_backend(str(module.LIBRARY)):
            logger.warning("%s", not_loaded(module))
    if not has_cpu(core):
        raise ImportError(
            f"none of the CPU backends in {FOLDER} runs on this machine; build from source: pip install ."
        )


def has_cpu(core: Any) -> bool:
    return any(device["type"] == "cpu" for device in core.devices())


def unfit(module: ModuleType, build: dict[str, str]) -> str:
    """Why a package's backend cannot be loaded into this build; "" where it can."""
    for field in SAME:
        if module.BUILD[field] != build[field]:
            return (
                f"{module.__name__} is left out: it is of {field} {module.BUILD[field]}, darwin_neg_cpp of "
                f"{build[field]}; install both in one version"
            )
    return ""


def not_loaded(module: ModuleType) -> str:
    return f"{module.__name__} is left out: {why_not(Path(module.LIBRARY))}"


def why_not(path: Path) -> str:
    """What the system says when a library is loaded that cannot be."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return f"{path.name} finds no device that it can use"


def examine(devices: list[dict[str, Any]], libraries: list[str], build: dict[str, str]) -> list[dict[str, Any]]:
    """Every plug-in that is installed: its name, whether it is loaded, and why not.

    devices, libraries of the backends, build: of _core. Empty for a build for one machine without packages for GPUs.
    """
    loaded = {Path(device["library"]).resolve() for device in devices if device["library"]}
    registered = {Path(library).resolve() for library in libraries if library}  # that of RPC has no devices
    found = []
    scores = {path: _score(path) for path in sorted(FOLDER.glob("*ggml-*")) if _is_plugin(path)}
    for path, score in scores.items():
        name = path.stem.removeprefix("lib").removeprefix("ggml-")
        is_loaded = path.resolve() in registered
        reason = ""
        if not is_loaded and isinstance(score, str):
            reason = score
        elif not is_loaded and score == 0:
            reason = "this CPU lacks instructions that it uses"
        elif not is_loaded:
            reason = "another one suits this CPU better"
        found.append({"name": name, "file": str(path), "loaded": is_loaded, "reason": reason})
    for extra, package in PACKAGES.items():
        if find_spec(package) is None:
            continue
        module = import_module(package)
        is_loaded = Path(module.LIBRARY).resolve() in loaded
        reason = "" if is_loaded else unfit(module, build) or not_loaded(module)
        found.append({"name": extra, "file": str(module.LIBRARY), "loaded": is_loaded, "reason": reason})
    return found


def _is_plugin(path: Path) -> bool:
    """Whether a file is a plug-in by its name; the libraries that every build needs begin with darwin-neg."""
    return path.suffix in SUFFIXES and path.name.removeprefix("lib").startswith("ggml-")


def _score(path: Path) -> int | str:
    """How well a plug-in for CPUs suits this one, 0 where it cannot run; or why the file cannot be loaded."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    score = getattr(library, "ggml_backend_score", None)
    return 1 if score is None else int(score())
