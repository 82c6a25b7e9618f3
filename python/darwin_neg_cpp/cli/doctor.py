"""`darwin-neg doctor`: how this installation was built and what it finds on this machine."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from typing import Any

from ..cache import cache_root
from .terminal import human_bytes


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("doctor", help="check the installation", description="Build, backends and devices, CPU features, folders.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = examine()
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0 if found["core"] == "ok" else 1


def examine() -> dict[str, Any]:
    """Everything that a report about a problem should contain."""
    from .. import __version__

    out: dict[str, Any] = {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cache": str(cache_root()),
        "core": "ok",
        "build": {},
        "devices": [],
        "gpu_offload": False,
    }
    try:
        from .. import _core
    except ImportError as error:
        out["core"] = f"cannot be loaded: {error}; install the package again with `pip install .`"
        return out
    out["build"] = _core.build_info()
    out["devices"] = _core.devices()
    out["gpu_offload"] = _core.supports_gpu_offload()
    return out


def _print(found: dict[str, Any]) -> None:
    build = found["build"]
    print(f"darwin-neg    {found['version']}")
    print(f"engine        {found['core']}")
    if build:
        print(f"llama.cpp     {build['llama_cpp_version']} ({build['llama_cpp_commit']}), NEG patch {build['patch_key']}")
        print(f"built with    {build['compiler']}, {build['build_type']}")
        print(f"CPU features  {build['cpu_features'].strip()}")
    for device in found["devices"]:
        print(f"device        {device['type']}: {device['name']}, {device['description']}, {human_bytes(device['memory_total'])}")
    if build:
        print(f"GPU offload   {'yes' if found['gpu_offload'] else 'no (rebuild with CMAKE_ARGS=-DGGML_CUDA=ON, -DGGML_METAL=ON or -DGGML_VULKAN=ON)'}")
    print(f"python        {found['python']}")
    print(f"platform      {found['platform']}")
    print(f"cache         {found['cache']}")
