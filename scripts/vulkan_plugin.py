"""Builds ggml's Vulkan backend as a plug-in, and keeps it in the cache folder for builds from the same sources.

    python scripts/vulkan_plugin.py BUILD

BUILD/package then holds the package darwin_neg_cpp_vulkan: with that folder on PYTHONPATH, darwin_neg_cpp loads the
plug-in. The build compiles 1,100 shaders; one from the same sources, by the same compilers and with the same options is
a copy. Nothing needs the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "cmake"), str(ROOT / "python")]

from llama_source import SourceError, patch_key, prepare  # noqa: E402
from vulkan_headers import prepare as vulkan_headers  # noqa: E402

from darwin_neg_cpp.files.cache_folder import cache_root  # noqa: E402

LIBRARY = "libggml-vulkan.so"
OPTIONS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", "-DDARWIN_NEG_BUILD_PYTHON=OFF"),
    *("-DDARWIN_NEG_PLUGINS=ON", "-DGGML_VULKAN=ON"),
)
# what of llama.cpp's tree and of this one decides what the library is
SOURCES = ("ggml/src/ggml-vulkan/**/*", "ggml/src/*.h", "ggml/include/*.h", "ggml/CMakeLists.txt", "ggml/src/*.txt")
OURS = ("CMakeLists.txt", "cmake/LlamaCpp.cmake", "cmake/vulkan_pin.json")


def version_of(program: str) -> bytes:
    if shutil.which(program) is None:
        raise SourceError(f"{program} is missing; `make vulkan-device` installs what a build for Vulkan needs")
    return subprocess.run([program, "--version"], capture_output=True, check=True).stdout


def key_of(tree: Path, headers: Path) -> str:
    """Names a plug-in by everything that it is made from."""
    digest = hashlib.sha256()
    compilers = [os.environ.get("CC", "cc"), os.environ.get("CXX", "c++"), "glslc"]
    for part in (*map(version_of, compilers), *map(str.encode, OPTIONS)):
        digest.update(part)
    for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS"):
        digest.update(os.environ.get(name, "").encode() + b"\0")
    roots = [(tree, SOURCES), (headers, ("vulkan/*", "vk_video/*")), (ROOT, OURS)]
    for root, patterns in roots:
        for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def run(log: Path, *command: object) -> None:
    with log.open("a") as file:
        result = subprocess.run(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, check=False)
    if result.returncode != 0:
        print("\n".join(log.read_text("utf-8", errors="replace").splitlines()[-50:]))
        raise SourceError(f"the Vulkan plug-in could not be built; all of the output is in {log}")


def build(folder: Path, headers: Path) -> Path:
    log = folder / "build.log"
    log.write_text("")
    options = [*OPTIONS, f"-DPython_EXECUTABLE={sys.executable}", f"-DDARWIN_NEG_VULKAN_HEADERS={headers}"]
    run(log, "cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, *options)
    run(log, "cmake", "--build", folder, "--target", "ggml-vulkan")
    (library,) = folder.glob(f"**/{LIBRARY}")
    return library


def copy(source: Path, target: Path) -> None:
    """Under the final name only when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    shutil.copy2(source, temp)
    temp.replace(target)


def write_package(folder: Path, library: Path) -> None:
    """The package that darwin_neg_cpp looks for."""
    package = folder / "darwin_neg_cpp_vulkan"
    copy(library, package / LIBRARY)
    version = re.search(r"project\(darwin_neg_cpp VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text("utf-8"))
    assert version is not None
    build_info = {"version": version[1], "patch_key": patch_key()}
    lines = [
        "from pathlib import Path\n",
        f"LIBRARY = Path(__file__).with_name({LIBRARY!r})",
        f"BUILD = {json.dumps(build_info)}\n",
    ]
    (package / "__init__.py").write_text("\n".join(lines), "utf-8")


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        headers = vulkan_headers()
        kept = cache_root() / "vulkan" / key_of(prepare(), headers) / LIBRARY
        if not kept.is_file():
            copy(build(folder, headers), kept)
    except (SourceError, OSError) as error:
        print(f"darwin-neg-cpp: {error}", file=sys.stderr)
        return 1
    write_package(folder / "package", kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
