"""A head trained once for the tests of what a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import SmolLM2
from training_runs import run, write_texts


@pytest.fixture(scope="session")
def trained(smollm2: SmolLM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of a small run, head.* among them."""
    folder = tmp_path_factory.mktemp("trained")
    texts = write_texts(folder, 60)
    args = [
        "--text",
        *map(str, texts),
        "--self-generate",
        "12",
        "--self-tokens",
        "48",
        "--reduced",
        "32",
        "--epochs",
        "8",
    ]
    out = run("train-head", "-m", str(smollm2.base), *args, "-o", str(folder / "head.gguf"))
    assert out.returncode == 0, out.stderr
    assert "R²" in out.stdout and "Traceback" not in out.stderr
    return folder
