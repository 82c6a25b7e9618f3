"""Calibration of a head on one file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import SmolLM2
from darwin_neg_cpp import DarwinNEG, demo_model
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format
from darwin_neg_cpp.trace.agreement import measure_agreement
from darwin_neg_cpp.training import corpus
from training_runs import run, write_texts


@pytest.mark.slow
def test_calibrate_finds_the_threshold_and_writes_it_only_when_told_to(smollm2: SmolLM2, tmp_path: Path) -> None:
    texts = [str(path) for path in write_texts(tmp_path, 6, words=80)]
    _, demo_head = demo_model.model_and_head()
    side_car = tmp_path / "head.gguf"
    shutil.copyfile(demo_head, side_car)
    before = side_car.read_bytes()
    args = ["calibrate", "-m", str(smollm2.base), "--side-car", str(side_car), "--text", *texts, "--target-rate", "0.2"]
    out = run(*args, "--json")
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert side_car.read_bytes() == before
    out = run(*args, "--json", "-o", str(tmp_path / "new.gguf"))
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == found and "new.gguf: written" in out.stderr
    assert neg_format.read_head(tmp_path / "new.gguf").threshold == pytest.approx(found["new_threshold"])
    again = run(*[str(tmp_path / "new.gguf") if word == str(side_car) else word for word in args], "--json")
    assert json.loads(again.stdout)["activation_rate"] == pytest.approx(0.2, abs=0.005)
    neg_files.attach(smollm2.base, side_car, tmp_path / "inside.gguf")
    args = ["calibrate", "-m", str(tmp_path / "inside.gguf"), "--text", *texts, "--target-rate", "0.2"]
    assert run(*args, "-o", str(tmp_path / "moved.gguf")).returncode == 0
    assert neg_format.read_head(tmp_path / "moved.gguf").threshold == pytest.approx(found["new_threshold"])


@pytest.mark.slow
def test_calibrate_compares_with_the_reference(smollm2: SmolLM2, tmp_path: Path) -> None:
    paths = write_texts(tmp_path, 6)
    args = ["calibrate", "-m", str(smollm2.model), "--text", *map(str, paths), "--max-tokens", "1000", "--json"]
    out = run(*args, "--reference", str(smollm2.f32))
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    predicted, true = [], []
    for path in (smollm2.model, smollm2.f32):
        with DarwinNEG(path, n_ctx=512, n_parallel=1) as llm:
            documents = corpus.read(paths, least_part=8000)
            ids = corpus.cut_sequences(llm.session, corpus.limit(corpus.tokenize(llm.session, documents), 1000, 0), 512)
            seen = list(llm.score_many(ids))
            threshold = llm.neg["threshold"]
        predicted.append(np.concatenate([scored.neg.entropy for scored in seen]))
        true.append(np.concatenate([scored.entropy for scored in seen]))
    other = found["reference"]
    assert other["model"] == "f32.gguf" and other["mean_difference"] > 0
    assert other["mean_difference"] == pytest.approx(float(np.abs(predicted[0] - predicted[1]).mean()), rel=0.02)
    assert other["mae"] == pytest.approx(measure_agreement(predicted[1], true[1], threshold).mae, rel=0.01)
    assert other["mae"] != found["mae"]
    moved = ((predicted[0] > threshold) != (predicted[1] > threshold)).mean()
    assert other["gate_differs"] == pytest.approx(float(moved), abs=0.005)
