"""Brings the pinned llama.cpp source, patched, into the cache and prints where it is.

    python cmake/llama_source.py [--llama-dir CHECKOUT | --tarball FILE] [--pristine] [--with-tests]
    python cmake/llama_source.py --check-against CHECKOUT      what of the patch does not fit another version
    python cmake/llama_source.py --extract NAME --into FOLDER  one file that the unpacked tree leaves out

It looks for the source in this order: --llama-dir, --tarball, the cache, PyPI (through pip). Whatever is downloaded is
checked against the SHA-256 in llama_pin.json. A tree gets its final name only when it is complete, so an interrupted
run leaves nothing that a later one would trust. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from apply_patch import patched_texts

ROOT = Path(__file__).resolve().parent.parent
PIN = json.loads((ROOT / "cmake" / "llama_pin.json").read_text("utf-8"))
PATCHES = sorted((ROOT / "patches").glob("*.patch"))
LAYOUT_VERSION = "2"  # of the unpacked tree; raise it when what is unpacked changes
MARKER = ".darwin-neg.json"

# Not needed to build; together more than half of the tree. `.git` is a dangling pointer that breaks git commands in the
# tree.
SKIPPED = (".git", "docs", "media", "benches", "models", "app", "ci", "examples", "tools/ui", "tests", "pocs")
# What the build of the HTTP server reads of a skipped folder, the web interface's: it makes an empty one.
KEPT = ("tools/ui/CMakeLists.txt", "tools/ui/ui.cpp.in", "tools/ui/ui.h.in")
# Test-time oracles of this project: llama.cpp's own converter, a real vocabulary and chat templates.
TEST_EXTRAS = ("models/ggml-vocab-qwen35.gguf", "models/templates")
# What the build reads of a checkout; the rest may change without another copy of it.
BUILT = ("CMakeLists.txt", "cmake", "common", "ggml", "include", "src", "tools", "vendor")
CONVERTER = ("conversion", "convert_hf_to_gguf.py", "gguf-py")


class SourceError(Exception):
    """The source cannot be had; one line with a remedy."""


def cache_root() -> Path:
    """Where everything rebuildable lives, outside the checkout."""
    if value := os.environ.get("DARWIN_NEG_CACHE"):
        return Path(value)
    if value := os.environ.get("XDG_CACHE_HOME"):
        return Path(value) / "darwin-neg-cpp"
    if sys.platform == "win32" and (value := os.environ.get("LOCALAPPDATA")):
        return Path(value) / "darwin-neg-cpp"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "darwin-neg-cpp"
    return Path.home() / ".cache" / "darwin-neg-cpp"


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def patch_key() -> str:
    """Names a patched tree: changes with the pin, the patches and the layout, not with our own sources."""
    digest = hashlib.sha256(f"{PIN['sha256']} {LAYOUT_VERSION}".encode())
    for patch in PATCHES:
        digest.update(patch.read_bytes())
    digest.update((ROOT / "cmake" / "apply_patch.py").read_bytes())
    return digest.hexdigest()[:16]


def check_tarball(path: Path) -> Path:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; give the sdist of {PIN['package']} {PIN['version']}")
    if (found := sha256_file(path)) != PIN["sha256"]:
        raise SourceError(f"{path}: SHA-256 is {found}, expected {PIN['sha256']}; delete the file and try again")
    return path


def download_with_pip(folder: Path) -> Path:
    """Fetches the sdist with pip, which knows the user's index, proxy and certificates."""
    requirement = f"{PIN['package']}=={PIN['version']} --hash=sha256:{PIN['sha256']}\n"
    (folder / "requirements.txt").write_text(requirement, "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [
        "--no-binary",
        PIN["package"],
        "--require-hashes",
        "-r",
        str(folder / "requirements.txt"),
        "-d",
        str(folder),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tar.gz"))
    if result.returncode != 0 or not found:
        messages = [line for line in result.stderr.splitlines() if line.strip() and "WARNING" not in line]
        detail = messages[-1].strip() if messages else f"pip exited with {result.returncode}"
        raise SourceError(
            f"the llama.cpp source could not be downloaded: {detail}; check the network and that pip works, or give "
            f"-DDARWIN_NEG_LLAMA_TARBALL=/path/to/{PIN['package'].replace('-', '_')}-{PIN['version']}.tar.gz"
        )
    return check_tarball(found[0])


def find_tarball(given: Path | None) -> Path:
    if given is not None:
        return check_tarball(given)
    folder = cache_root() / "downloads"
    kept = folder / f"llama-source-{PIN['sha256'][:16]}.tar.gz"
    if kept.is_file() and sha256_file(kept) == PIN["sha256"]:
        return kept
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as temp:
        os.replace(download_with_pip(Path(temp)), kept)
    return kept


def wanted(name: str, with_tests: bool) -> bool:
    inside = [name == skipped or name.startswith(skipped + "/") for skipped in SKIPPED]
    if any(inside):
        return name in KEPT or (with_tests and any(name.startswith(extra) for extra in TEST_EXTRAS))
    return with_tests or not any(name == part or name.startswith(part + "/") for part in CONVERTER)


def unpack(tarball: Path, target: Path, with_tests: bool) -> None:
    prefix = f"{PIN['subfolder']}/"
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            inner = member.name.split("/", 1)[-1]  # without the sdist's own top folder
            if not inner.startswith(prefix) or not member.isfile():
                continue
            name = inner[len(prefix) :]
            if not wanted(name, with_tests):
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            with path.open("wb") as file:
                shutil.copyfileobj(source, file)
            if member.mode & 0o100:
                path.chmod(0o755)
    if not (target / "CMakeLists.txt").is_file():
        raise SourceError(
            f"{tarball}: holds no {PIN['subfolder']}; give the sdist of {PIN['package']} {PIN['version']}"
        )


def extract(name: str, folder: Path, checkout: Path | None = None, tarball: Path | None = None) -> Path:
    """Puts one file of the pinned source into a folder and returns its path."""
    if checkout is not None:
        if not (checkout / name).is_file():
            raise SourceError(f"{checkout}: has no {name}; give a whole checkout")
        content = (checkout / name).read_bytes()
    else:
        source = find_tarball(tarball)
        with tarfile.open(source, "r:gz") as archive:
            member = next((m for m in archive if m.name.split("/", 1)[-1] == f"{PIN['subfolder']}/{name}"), None)
            file = archive.extractfile(member) if member is not None else None
            if file is None:
                raise SourceError(f"{source}: has no {name}; give the sdist of {PIN['package']} {PIN['version']}")
            content = file.read()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.rsplit("/", 1)[-1]
    if not path.is_file() or path.read_bytes() != content:  # else what was compiled from it stays valid
        path.write_bytes(content)
    return path


def copy_checkout(checkout: Path, target: Path) -> None:
    """A user's checkout is copied, never written to."""
    if not (checkout / "src" / "llama-model.cpp").is_file():
        raise SourceError(
            f"{checkout}: not a llama.cpp checkout (src/llama-model.cpp is missing); correct DARWIN_NEG_LLAMA_DIR"
        )
    skipped = {checkout / part for part in SKIPPED} | {checkout / "build"}

    def ignore(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) / name in skipped]

    shutil.copytree(checkout, target, ignore=ignore, dirs_exist_ok=True)
    for name in KEPT:
        if (checkout / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, target / name)


def is_patched(tree: Path) -> bool:
    try:
        return bool(json.loads((tree / MARKER).read_text("utf-8")).get("patch_key") == patch_key())
    except (OSError, ValueError):
        return False


def apply_patches(tree: Path) -> None:
    texts, problems = patched_texts(tree, PATCHES)
    if problems:
        raise SourceError(
            f"the patch does not fit this llama.cpp tree ({len(problems)} places, first: {problems[0]}); "
            f"use commit {PIN['commit']}"
        )
    for path, text in texts.items():
        (tree / path).write_bytes(text.encode("utf-8"))
    (tree / MARKER).write_text(json.dumps({"patch_key": patch_key(), "commit": PIN["commit"]}), "utf-8")


def strangers(checkout: Path) -> list[str]:
    """Lists the touched files that differ from the pinned commit's: the patch may fit them and yet be wrong there."""
    touched = json.loads((ROOT / "patches" / "touched.json").read_text("utf-8"))

    def differs(name: str) -> bool:
        path = checkout / name
        # a checkout on Windows may have CRLF
        text = path.read_bytes().replace(b"\r\n", b"\n") if path.is_file() else b""
        return hashlib.sha256(text).hexdigest() != touched[name]["before"]

    return [name for name in touched if differs(name)]


def warn_of_strangers(checkout: Path) -> None:
    if names := strangers(checkout):
        print(
            f"darwin-neg-cpp: warning: {checkout}: {len(names)} of the files that the patch changes are not those of "
            f"commit {PIN['commit']} (first: {names[0]}); the patch fits, but nobody has tested it there",
            file=sys.stderr,
        )


def remove_stale(folder: Path, prefix: str) -> None:
    """Leftovers of runs that were killed; those of running processes are left alone."""
    for path in folder.glob(f"{prefix}.tmp-*"):
        pid = path.name.rsplit("-", 1)[1]
        if not pid.isdigit() or not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end the process there; a stale folder only takes space
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def make_whole(final: Path, fill: Callable[[Path], None]) -> Path:
    """Makes a folder that has its name only once it is complete. fill: makes its content under another name."""
    folder, name = final.parent, final.name
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale(folder, name)
    temp = folder / f"{name}.tmp-{os.getpid()}"
    shutil.rmtree(temp, ignore_errors=True)
    try:
        fill(temp)
        try:
            temp.rename(final)
        except OSError:
            if not final.is_dir():  # else another configure was faster, with the same result
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return final


def tree_name(checkout: Path | None, pristine: bool, with_tests: bool) -> str:
    key = f"pristine-{PIN['sha256'][:16]}-{LAYOUT_VERSION}" if pristine else patch_key()
    if checkout is not None:
        # changes when the checkout's sources do, so that editing them is seen at the next configure
        stamp = hashlib.sha256(str(checkout.resolve()).encode())
        for path in (path for part in BUILT for path in [checkout / part, *sorted((checkout / part).rglob("*"))]):
            if path.is_file():
                stamp.update(f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}".encode())
        key += f"-dir-{stamp.hexdigest()[:16]}"
    return key + ("-tests" if with_tests else "")


def prepare(
    checkout: Path | None = None, tarball: Path | None = None, pristine: bool = False, with_tests: bool = False
) -> Path:
    """Path of a complete tree. The second call does no work and touches no network."""
    if checkout is not None and not pristine and is_patched(checkout):
        return checkout
    final = cache_root() / "llama.cpp" / tree_name(checkout, pristine, with_tests)
    if final.is_dir():
        if checkout is not None and not pristine:
            warn_of_strangers(checkout)
        return final

    def fill(temp: Path) -> None:
        if checkout is not None:
            copy_checkout(checkout, temp)
        else:
            unpack(find_tarball(tarball), temp, with_tests)
        if not pristine:
            apply_patches(temp)
            if checkout is not None:
                warn_of_strangers(checkout)

    return make_whole(final, fill)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama-dir", type=Path, help="a checkout of the same commit instead of the download")
    parser.add_argument("--tarball", type=Path, help="the sdist, already downloaded")
    parser.add_argument("--pristine", action="store_true", help="without the patch")
    parser.add_argument(
        "--with-tests", action="store_true", help="with llama.cpp's converter and the files that tests use"
    )
    parser.add_argument(
        "--check-against", type=Path, metavar="CHECKOUT", help="only report what of the patch does not fit there"
    )
    parser.add_argument("--extract", metavar="NAME", help="only put this file of the source into the folder of --into")
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="see --extract")
    parser.add_argument("--key", action="store_true", help="only print the key of the patched tree")
    args = parser.parse_args(argv)
    try:
        if args.key:
            print(patch_key())
        elif args.extract is not None:
            print(extract(args.extract, args.into, args.llama_dir, args.tarball).as_posix())
        elif args.check_against is not None:
            _, problems = patched_texts(args.check_against, PATCHES)
            print("\n".join(problems) or "every hunk fits")
            return 1 if problems else 0
        else:
            print(prepare(args.llama_dir, args.tarball, args.pristine, args.with_tests).as_posix())
    except (SourceError, OSError, tarfile.TarError) as error:
        print(f"darwin-neg-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
