"""Backends of ggml that are libraries of their own: one for each kind of CPU in a wheel, and packages for GPUs.

A wheel runs on every CPU of its platform: it holds the CPU's kernels several times, and ggml takes the best of those
that the machine can run. Backends for GPUs come in packages beside this one, and are part of the same build.
"""

from __future__ import annotations

import ctypes
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[1]
# name of the extra -> the package that it installs; LIBRARY and BUILD in it name its file and what it was built from
PACKAGES = {"vulkan": "darwin_neg_cpp_vulkan", "cuda12": "darwin_neg_cpp_cuda12"}
# what the library of each needs of the system, which no package of ours brings
NEEDS = {
    "vulkan": "it needs the Vulkan loader (libvulkan.so.1, Debian's libvulkan1) and a driver",
    "cuda12": "it needs NVIDIA's driver and CUDA 12 on the loader's path (libcudart.so.12, libcublas.so.12)",
}
SUFFIXES = (".so", ".dll")
# libraries of packages that this process has loaded
_loaded: set[Path] = set()


@dataclass(frozen=True)
class Package:
    """A package for GPUs that is installed. fault: why its library cannot be used, "" where it can be tried."""

    extra: str
    library: Path | None
    fault: str

    @property
    def name(self) -> str:
        return PACKAGES[self.extra]


def load(core: Any) -> None:
    """Loads what suits this machine. core: the module _core, which calls this while it is imported."""
    if not has_cpu(core):  # a build for one machine has the CPU's backend in it
        core.load_backends(str(FOLDER))
    for package in installed(core.build_info()):
        fault = package.fault
        if package.library is not None and not fault:
            if core.load_backend(str(package.library)):
                _loaded.add(package.library)
                continue
            fault = why_not(package.extra, package.library)
        logger.warning("%s is left out: %s", package.name, fault)
    if not has_cpu(core):
        raise ImportError(
            f"none of the CPU backends in {FOLDER} runs on this machine; build from source: pip install ."
        )


def has_cpu(core: Any) -> bool:
    return any(device["type"] == "cpu" for device in core.devices())


def installed(build: Mapping[str, str]) -> list[Package]:
    """The packages for GPUs that are installed. build: of _core."""
    found = []
    for extra, name in PACKAGES.items():
        # what somebody else's package does when it is looked for or imported must not keep ours from being imported
        try:
            if find_spec(name) is None:
                continue
            module = import_module(name)
            library, theirs = Path(module.LIBRARY), dict(module.BUILD)
            version, key = theirs["version"], theirs["patch_key"]
        except Exception as error:
            what = f"it is damaged ({type(error).__name__}: {' '.join(str(error).split())})"
            found.append(Package(extra, None, f"{what}; install it again: {_command(extra, build, again=True)}"))
            continue
        fault = ""
        if version != build["version"]:
            fault = (
                f"it is version {version}, darwin_neg_cpp is version {build['version']}; install both in one version: "
                f"{_command(extra, build)}"
            )
        elif key != build["patch_key"]:
            fault = (
                f"it was built with NEG patch {key}, darwin_neg_cpp with {build['patch_key']}; build both from one "
                f"tree: make plugin-{extra}, pip install ."
            )
        elif not library.is_file():
            fault = f"{library} is missing; install it again: {_command(extra, build, again=True)}"
        elif is_cut(library):
            fault = f"{library} is incomplete; install it again: {_command(extra, build, again=True)}"
        found.append(Package(extra, library, fault))
    return found


def _command(extra: str, build: Mapping[str, str], *, again: bool = False) -> str:
    if again:
        return f"pip install --force-reinstall --no-deps darwin-neg-cpp-{extra}=={build['version']}"
    return f'pip install "darwin-neg-cpp[{extra}]=={build["version"]}"'


def is_cut(path: Path) -> bool:
    """Whether the end of a library is missing, as after an interrupted copy: loading such a file can end the process.

    The table of sections is the last part of an ELF file, and its place is written at the beginning.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if len(start) < 64:
        return True
    if start[:6] != b"\x7fELF\x02\x01":  # of another system, or no library at all, which the loader refuses
        return False
    (table,) = struct.unpack_from("<Q", start, 40)
    size, count = struct.unpack_from("<HH", start, 58)
    return bool(table + size * count > path.stat().st_size)


def why_not(extra: str, path: Path) -> str:
    """Why a library of a package has not been loaded."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return f"{' '.join(str(error).split())}; {NEEDS[extra]}"
    return f"{path} is no backend for this build of ggml, or cannot start; {NEEDS[extra]}"


def examine(devices: list[dict[str, Any]], libraries: list[str], build: dict[str, str]) -> list[dict[str, Any]]:
    """Every plug-in that is installed: its name, whether it is loaded, and why not, or why it is of no use.

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
    for package in installed(build):
        is_loaded = package.library in _loaded
        reason = ""
        if is_loaded and package.library is not None and package.library.resolve() not in loaded:
            reason = f"finds no device that it can use; {NEEDS[package.extra]}"
        elif not is_loaded:
            reason = package.fault or why_not(package.extra, Path(package.library or ""))
        found.append({"name": package.extra, "file": str(package.library or ""), "loaded": is_loaded, "reason": reason})
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
