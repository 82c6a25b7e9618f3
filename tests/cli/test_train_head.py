"""`darwin-neg train-head` and `calibrate`: interruptions and bad input."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import SmolLM2
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.training import train as command
from training_runs import OUTPUTS, run, write_texts, written


def refused(out: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert out.returncode == code, out.stderr
    (line,) = out.stderr.splitlines()
    assert line.startswith("darwin-neg: error: ") and all(word in line for word in words), line


def test_ctrl_c_in_the_training_is_told(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = command.train

    def interrupt(epoch: int, *_: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "train", lambda *args, on_epoch, **more: real(*args, on_epoch=interrupt, **more))
    args = ["train-head", "-m", str(tiny_llama), "--self-generate", "40", "--self-tokens", "60", "--epochs", "9"]
    assert main([*args, "-o", str(tmp_path / "head.gguf")]) == 0
    said = capsys.readouterr()
    assert said.err == "darwin-neg: interrupted; the best head so far, of epoch 2, is written\n"
    report = json.loads((tmp_path / "head.report.json").read_text("utf-8"))
    assert report["training"]["interrupted"] and report["training"]["epochs"] == 2
    assert "interrupted" in (tmp_path / "head.report.md").read_text("utf-8") and written(tmp_path) == OUTPUTS


def test_without_torch_training_says_what_to_install(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    args = ["train-head", "-m", str(tiny_llama), "--self-generate", "40", "-o", str(tmp_path / "head.gguf")]
    assert main(args) == 1
    assert capsys.readouterr().err == (
        "darwin-neg: error: training needs PyTorch; install it with `pip install 'darwin-neg-cpp[train]'`\n"
    )
    assert written(tmp_path) == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(smollm2: SmolLM2, tmp_path: Path) -> None:
    texts = map(str, write_texts(tmp_path, 40, words=50))
    args = ["train-head", "-m", str(smollm2.base), "--text", *texts, "--reduced", "16", "--epochs", "12", "-o"]
    assert run(*args, str(tmp_path / "whole.gguf")).returncode == 0
    # a command line that notes what the model is asked
    asked = tmp_path / "asked.txt"
    noting = [
        sys.executable,
        "-c",
        f"""
import sys
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.engine.session import Session
score = Session.score
def noted(self, texts, **options):
    with open({str(asked)!r}, "a") as file:
        print(sum(map(len, texts)), file=file)
    return score(self, texts, **options)
Session.score = noted
sys.exit(main(sys.argv[1:]))
""",
    ]
    part = tmp_path / "part.gguf"
    for wait in ("train.json", "training.pt"):
        process = subprocess.Popen([*noting, *args, str(part)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "part.work" / wait).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not part.exists() and (tmp_path / "part.work").is_dir()
    assert asked.read_text().split()
    asked.unlink()
    assert subprocess.run([*noting, *args, str(part)], timeout=900, check=False).returncode == 0
    assert not asked.exists()  # everything had been captured
    assert part.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    reports = [json.loads((tmp_path / f"{name}.report.json").read_text("utf-8")) for name in ("part", "whole")]
    assert [report.pop("command") for report in reports] and reports[0] == reports[1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("part")) == [
        "part.gguf",
        "part.neg_modules.safetensors",
        "part.report.json",
        "part.report.md",
        "part.report.svg",
    ]


def test_bad_input_is_one_line_and_leaves_nothing(smollm2: SmolLM2, tmp_path: Path) -> None:
    texts = [str(path) for path in write_texts(tmp_path, 40)]
    for name, content in (
        ("empty.txt", b" \n"),
        ("binary.txt", b"a\0b"),
        ("latin.txt", b"caf\xe9"),
        ("short.txt", b"a few words only"),
        ("broken.jsonl", b'{"text": "x"}\n{"tex'),
        ("no-text.jsonl", b'{"words": 3}\n'),
        ("deep.jsonl", b"[" * 200_000),
    ):
        (tmp_path / name).write_bytes(content)
    linked = str(tmp_path / "reference.gguf")
    os.link(shutil.copy(smollm2.model, tmp_path / "copy.gguf"), linked)
    before = sorted(os.listdir(tmp_path))
    base, out = str(smollm2.base), str(tmp_path / "head.gguf")
    calibrate = ["calibrate", "-m", str(smollm2.model), "--text", *texts]
    train_head = ["train-head", "-m", base, "-o", out]
    for args, words in (
        ([*train_head, "--text", str(tmp_path / "empty.txt")], ("empty.txt", "no text")),
        ([*train_head, "--text", str(tmp_path / "binary.txt")], ("binary.txt", "binary")),
        ([*train_head, "--text", str(tmp_path / "latin.txt")], ("latin.txt", "UTF-8", "byte 3")),
        ([*train_head, "--text", str(tmp_path / "missing.txt")], ("missing.txt", "no such file")),
        ([*train_head, "--text", str(tmp_path)], (str(tmp_path),)),
        ([*train_head, "--text", str(tmp_path / "broken.jsonl")], ("broken.jsonl:2", "JSON")),
        ([*train_head, "--text", str(tmp_path / "no-text.jsonl")], ("no-text.jsonl:1", '"text"')),
        ([*train_head, "--text", str(tmp_path / "deep.jsonl")], ("deep.jsonl:1", "JSON")),
        ([*train_head, "--text", str(tmp_path / "short.txt")], ("4 tokens", "--self-generate")),
        (train_head, ("--text", "--self-generate")),
        ([*train_head, "--text", *texts, "--epochs", "0"], ("--epochs",)),
        ([*train_head, "--text", *texts, "--threshold", "nan"], ("--threshold",)),
        ([*train_head, "--text", *texts, "--threshold", "1e39"], ("--threshold", "float32")),
        ([*train_head, "--self-generate", "9", "--self-temperature", "nan"], ("--self-temperature",)),
        ([*train_head, "--text", *texts, "--target-rate", "1"], ("--target-rate",)),
        ([*train_head, "--text", *texts, "--learning-rate", "0"], ("--learning-rate",)),
        (["train-head", "-m", texts[0], "-o", out, "--text", *texts], ("text-0.txt", "GGUF")),
        (["train-head", "-m", base, "-o", texts[0], "--text", *texts], ("text-0.txt", "same file")),
        (["train-head", "-m", base, "-o", str(tmp_path / "no" / "head.gguf"), "--text", *texts], ("no such folder",)),
        (["calibrate", "-m", base, "--text", *texts], ("no NEG head",)),
        (["calibrate", "-m", str(smollm2.model), "--text", str(tmp_path / "short.txt")], ("tokens",)),
        ([*calibrate, "--reference", str(tmp_path / "missing.gguf")], ("missing.gguf", "no such file")),
        ([*calibrate, "--reference", base], ("SmolLM2", "NEG head")),
        ([*calibrate, "--reference", linked, "-o", linked, "--force"], ("same file",)),
    ):
        refused(run(*args), 2, *words)
        assert sorted(os.listdir(tmp_path)) == before, args


def test_a_full_disk_is_the_machines_fault_and_leaves_no_head(tiny_llama: Path, tmp_path: Path) -> None:
    texts = [str(path) for path in write_texts(tmp_path, 40)]
    out = run(
        "train-head", "-m", str(tiny_llama), "-o", str(tmp_path / "head.gguf"), "--text", *texts, "--epochs", "2",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    refused(out, 3, "head.work", "disk")
    assert not list(tmp_path.glob("head.*gguf")) and not list(tmp_path.glob("head.report*"))
