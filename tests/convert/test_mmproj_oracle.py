"""Projector files against llama.cpp's own converter, of the pinned tree: the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers

from conftest import PIN, TESTS, made
from darwin_neg_cpp.cli.main import main
from oracles import llama_converter, vision_variants
from oracles.vision_variants import VARIANTS

CASES = [(variant, outtype) for variant in VARIANTS for outtype in variant.types]


@dataclass(frozen=True)
class Converted:
    """Checkpoints, and the SHA-256 of what llama.cpp's converter makes of each, by variant and type."""

    checkpoints: Path
    theirs: dict[str, str]


@pytest.fixture(scope="module")
def converted(llama_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    base = tmp_path_factory.mktemp("towers")
    for seed, variant in enumerate(VARIANTS):
        vision_variants.write(variant, base / variant.name, seed)

    def make(folder: Path) -> None:
        jobs: list[llama_converter.Job] = []
        for variant, t in CASES:
            jobs.append((base / variant.name, base / f"{variant.name}-{t}.gguf", ["--mmproj", "--outtype", t]))
        llama_converter.convert_all(llama_tree, jobs)
        digests = {out.stem: hashlib.sha256(out.read_bytes()).hexdigest() for _, out, _ in jobs}
        (folder / "theirs.json").write_text(json.dumps(digests), "utf-8")

    oracles = TESTS / "oracles"
    sources = [oracles / name for name in ("vision_variants.py", "variants.py", "llama_converter.py")]
    cached = made("llama-mmproj", make, *sources, PIN, versions=[torch.__version__, transformers.__version__])
    yield Converted(base, json.loads((cached / "theirs.json").read_text("utf-8")))
    shutil.rmtree(base)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "outtype"), CASES, ids=[f"{variant.name}-{t}" for variant, t in CASES])
def test_the_file_is_byte_for_byte_llama_cpps(converted, variant, outtype, tmp_path, capsys):
    out = tmp_path / "mmproj.gguf"
    assert main(["convert", str(converted.checkpoints / variant.name), "--mmproj", str(out), "--outtype", outtype]) == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == converted.theirs[f"{variant.name}-{outtype}"]
    assert capsys.readouterr().err == ""
    assert os.listdir(tmp_path) == [out.name]
