"""llama.cpp's own tools of the pinned version, built without the patch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from darwin_neg_cpp.files.cache_folder import cache_root

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("llama-completion", "llama-quantize", "llama-batched-bench", "llama-bench")


def binaries() -> dict[str, str]:
    """Paths by name. DARWIN_NEG_STOCK_BIN names a folder with tools that are built already."""
    if folder := os.environ.get("DARWIN_NEG_STOCK_BIN"):
        return {tool: str(Path(folder) / tool) for tool in TOOLS}
    source = subprocess.run(
        [sys.executable, str(ROOT / "cmake" / "llama_source.py"), "--pristine", "--with-tests"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    build = cache_root() / "tests" / f"stock-{Path(source).name}"
    found = {tool: str(build / "bin" / tool) for tool in TOOLS}
    if not all(Path(path).is_file() for path in found.values()):
        off = ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "BUILD_UI", "BUILD_SERVER", "USE_PREBUILT_UI", "OPENSSL")
        options = [f"-DLLAMA_{name}=OFF" for name in off] + ["-DBUILD_SHARED_LIBS=OFF", "-DGGML_CCACHE=OFF"]
        options += ["-DLLAMA_BUILD_COMMON=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DCMAKE_BUILD_TYPE=Release"]
        options += ["-DLLAMA_BUILD_COMMIT=stock", "-DLLAMA_BUILD_NUMBER=1"]
        subprocess.run(
            ["cmake", "-G", "Ninja", "-S", source, "-B", str(build), *options], check=True, stdout=subprocess.DEVNULL
        )
        subprocess.run(["cmake", "--build", str(build), "--target", *TOOLS], check=True, stdout=subprocess.DEVNULL)
    return found


if __name__ == "__main__":
    print("\n".join(binaries().values()))
