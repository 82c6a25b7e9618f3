"""The benchmark scripts run with small settings; of what they print only the presence of figures is checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from tiny_hybrid import write_tiny_hybrid


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "figure"),
    [
        ("decode.py", ["--rounds", "1", "--tokens", "4", "--batches", "1"],
         r"engine, NEG on +[\d.]+ tokens/s +[\d.]+ of stock"),
        ("versions.py", [sys.executable, sys.executable, "--rounds", "1", "--tokens", "4"],
         r"tokens/s, batch 16 +[\d.]+ +[\d.]+ +[\d.]+"),
        ("capture.py", ["--rounds", "1", "--tokens", "512"], r"capture +[\d.]+ tokens/s +[\d.]+ of it"),
        ("true_entropy.py", ["--rounds", "1", "--tokens", "4", "--batches", "1"],
         r"both +[\d.]+ tokens/s, [\d.]+ .* +[\d.]+ ms of CPU time a token, [\d.]+"),
        ("gate_effect.py", ["--prompts", "2", "--tokens", "8", "--temperatures", "1"], r"mask: 2 of 2 answers equal"),
        ("modes.py", ["--rounds", "1", "--questions", "1", "--max-tokens", "4"],
         r"mode 3 +[\d.]+ s +[\d.]+x one greedy answer"),
        ("peers.py", ["--peers", "ours", "--works", "decode,sample,chat,document", "--rounds", "1", "--tokens", "4",
                      "--turns", "2", "--samples", "2", "--document", "64"],
         r"first token, turn 2, s +[\d.]+\n(.*\n)*document, question 3, s +[\d.]+"),
        ("drafts.py", ["HYBRID", "--rounds", "1", "--tokens", "8"],
         r" 1\.0 +[\d.]+ +[\d.]+ +[\d.]+  \d\.\d\d \d\.\d\d"),
        ("serve.py", ["--rounds", "1", "--tokens", "4", "--requests", "1", "--clients", "1,2"],
         r" 1 clients  tokens/s( +[\d.]+){3}\n(.*\n)* 2 clients  first token p95, s( +[\d.]+){3}"),
        ("convert.py", ["--shapes", "small", "--rounds", "1"], r"ours +[\d.]+ s"),
        ("attach.py", ["--gigabytes", "0.05", "--rounds", "1"], r"neg attach / cp \+ fsync: [\d.]+"),
        ("busy.py", ["--busy", "1", "--rounds", "1", "--seconds", "1"],
         r"1 busy: this package's waiting: [\d.]+ tokens/s"),
        ("cluster.py", ["--tiny", "--rounds", "1", "--prompts", "4", "--tokens", "4", "--cheap", "20"],
         r"2 workers of 1 thread / 1 worker of 2 threads: [\d.]+\n(.*\n)*driver, 20 answers .* ms busy"),
        # on the CPU it shows nothing about a GPU, but that the one command for it works
        ("gpu.py", ["--device", "CPU"], r"gate +248320 tokens, with ties: 0 of 8 rows wrong"),
    ],
)  # fmt: skip
def test_the_script_runs(script: str, options: list[str], figure: str, tmp_path: Path) -> None:
    if "HYBRID" in options:
        options = [str(write_tiny_hybrid(tmp_path / "hybrid.gguf")), *options[1:]]
    command = [sys.executable, str(ROOT / "benchmarks" / script), *options]
    out = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    assert re.search(figure, out.stdout), out.stdout
