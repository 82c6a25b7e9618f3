"""`darwin-neg doctor`: how this installation was built and what it finds on this machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files.cache_folder import cache_root
from ..files.usable_cpus import UsableCpus, usable_cpus
from .options import add_json_option
from .terminal import human_bytes

PACKAGES = ("numpy", "gguf", "huggingface_hub", "tqdm")


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "doctor",
        help="check the installation",
        description="Shows how the engine was built, the devices it finds, CPU features, folders and package versions. "
        "Exit code 1 when the engine cannot be loaded.",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = examine()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0 if found["core"] == "ok" else 1


def examine() -> dict[str, Any]:
    """Collects what a bug report should contain; works without the compiled engine too."""
    from .. import __version__

    out: dict[str, Any] = {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "usable_cpus": _usable(usable_cpus()),
        "memory": _memory(),
        "packages": {name: _package(name) for name in PACKAGES},
        "cache": _folder(cache_root()),
        "core": "ok",
        "build": {},
        "devices": [],
        "plugins": [],
        "gpu_offload": False,
    }
    from ..engine import backends

    try:
        from .. import _core
    except ImportError as error:
        out["core"] = f"cannot be loaded: {error}; install the package again with `pip install .`"
        return out
    out["build"] = _core.build_info()
    out["devices"] = _core.devices()
    out["plugins"] = backends.examine(out["devices"], _core.backend_libraries(), out["build"])
    out["gpu_offload"] = _core.supports_gpu_offload()
    return out


def _usable(cpus: UsableCpus) -> dict[str, Any]:
    return {
        "count": cpus.count,
        "affinity": cpus.affinity,
        "quota": cpus.quota,
        "cores": cpus.cores,
        "default_threads": cpus.default_threads or cpus.cores or cpus.count,
    }


def _threads(found: dict[str, Any]) -> str:
    usable = found["usable_cpus"]
    reasons = []
    if usable["affinity"] < found["cpus"]:
        reasons.append(f"affinity mask of {usable['affinity']} CPUs")
    if usable["quota"] is not None:
        reasons.append(f"control group's quota of {usable['quota']:g} CPUs")
    why = f" ({', '.join(reasons)})" if reasons else ""
    return f"at most {usable['default_threads']} by default{why}"


def _memory() -> int | None:
    """Returns the bytes of main memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _folder(path: Path) -> dict[str, Any]:
    """Describes a folder that may not exist yet: whether it is writable, and the free space where it would be."""
    existing = next((p for p in (path, *path.parents) if p.is_dir()), None)
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "writable": existing is not None and os.access(existing, os.W_OK),
        "free": shutil.disk_usage(existing).free if existing is not None else None,
    }


def _print(found: dict[str, Any]) -> None:
    build, cache = found["build"], found["cache"]
    lines = [("darwin-neg", found["version"]), ("engine", found["core"])]
    if build:
        llama = f"{build['llama_cpp_version']} ({build['llama_cpp_commit']}), NEG patch {build['patch_key']}"
        lines += [("llama.cpp", llama), ("built with", f"{build['compiler']}, {build['build_type']}")]
        lines += [("CPU features", build["cpu_features"].strip())]
    for device in found["devices"]:
        memory = human_bytes(device["memory_total"])
        lines.append(("device", f"{device['type']}: {device['name']}, {device['description']}, {memory}"))
    for plugin in found["plugins"]:
        state = ["loaded"] * plugin["loaded"] + [plugin["reason"]] * bool(plugin["reason"])
        lines.append(("plug-in", f"{plugin['name']}: {', '.join(state)}"))
    if build:
        how = "no (install darwin-neg-cpp[vulkan] or [cuda12], or build from source with CMAKE_ARGS: see docs/gpu.md)"
        lines.append(("GPU offload", "yes" if found["gpu_offload"] else how))
    lines.append(("python", found["python"]))
    lines.append(("packages", ", ".join(f"{k} {v or 'MISSING'}" for k, v in found["packages"].items())))
    memory = f", {human_bytes(found['memory'])} of memory" if found["memory"] else ""
    lines.append(("platform", f"{found['platform']}, {found['cpus']} CPUs{memory}"))
    lines.append(("threads", _threads(found)))
    free = f", {human_bytes(cache['free'])} free" if cache["free"] is not None else ""
    lines.append(("cache", f"{cache['path']}{'' if cache['writable'] else ' (NOT WRITABLE)'}{free}"))
    for label, value in lines:
        print(f"{label:<13} {value}")
