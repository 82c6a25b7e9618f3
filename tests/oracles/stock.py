"""llama.cpp's own tools of the pinned version, built without the patch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from darwin_neg_cpp.files.cache_folder import cache_root

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("llama-completion", "llama-quantize", "llama-batched-bench", "llama-bench")


def _source_and_build() -> tuple[Path, Path]:
    command = [sys.executable, str(ROOT / "cmake" / "llama_source.py"), "--pristine", "--with-tests"]
    source = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return source, cache_root() / "tests" / f"stock-{source.name}"


def binaries() -> dict[str, str]:
    """Paths by name. DARWIN_NEG_STOCK_BIN names a folder with tools that are built already."""
    if folder := os.environ.get("DARWIN_NEG_STOCK_BIN"):
        return {tool: str(Path(folder) / tool) for tool in TOOLS}
    source, build = _source_and_build()
    found = {tool: str(build / "bin" / tool) for tool in TOOLS}
    if not all(Path(path).is_file() for path in found.values()):
        off = ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "BUILD_UI", "BUILD_SERVER", "USE_PREBUILT_UI", "OPENSSL")
        options = [f"-DLLAMA_{name}=OFF" for name in off] + ["-DBUILD_SHARED_LIBS=OFF", "-DGGML_CCACHE=OFF"]
        options += ["-DLLAMA_BUILD_COMMON=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DCMAKE_BUILD_TYPE=Release"]
        options += ["-DLLAMA_BUILD_COMMIT=stock", "-DLLAMA_BUILD_NUMBER=1"]
        subprocess.run(
            ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        subprocess.run(["cmake", "--build", str(build), "--target", *TOOLS], check=True, stdout=subprocess.DEVNULL)
    return found


def server() -> str:
    """Path of llama-server without its pages, which takes some minutes to build once the other tools are there."""
    if folder := os.environ.get("DARWIN_NEG_STOCK_BIN"):
        return str(Path(folder) / "llama-server")
    source, build = _source_and_build()
    binary = build / "bin" / "llama-server"
    if not binary.is_file():
        binaries()
        command = ["cmake", "-S", str(source), "-B", str(build), "-DLLAMA_BUILD_SERVER=ON"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        command = ["cmake", "--build", str(build), "--target", binary.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(binary)


if __name__ == "__main__":
    print("\n".join([*binaries().values(), server()]))
