"""Bounded memory whatever the model's size, work on several cores, a bar that only advances, checksums of the bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from darwin_neg_cpp.convert import convert, rows, write
from oracles import tiny_tokenizer

SCRIPT = str(ROOT / "convert" / "convert_to_gguf.py")
# a small process in between: what is measured of a process includes the one that it was split off from
PEAK = """
import os, resource, sys
code = os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""


def checkpoint(base: Path, n_ff: int, **options: object) -> Path:
    return tiny_tokenizer.write_checkpoint(
        base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), hidden=256, n_ff=n_ff, **options
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("tiny"), 2048)


def peak_memory(folder: Path, out: Path, outtype: str) -> int:
    command = [sys.executable, SCRIPT, str(folder), "-o", str(out), "--outtype", outtype, "--threads", "2"]
    result = subprocess.run([sys.executable, "-S", "-c", PEAK, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("outtype", ["bf16", "q8_0"])
def test_memory_does_not_grow_with_the_model(tmp_path, outtype):
    peaks, sizes = [], []
    for n_ff in (4_000 - 4_000 % 32, 40_000):
        folder = checkpoint(tmp_path / str(n_ff), n_ff)
        out = tmp_path / f"{n_ff}.gguf"
        peaks.append(peak_memory(folder, out, outtype))
        sizes.append(sum(path.stat().st_size for path in folder.glob("*.safetensors")))
        out.unlink()
    assert sizes[1] > 8 * sizes[0] and sizes[1] - sizes[0] > 200 << 20
    assert peaks[1] - peaks[0] < 60 << 20, peaks


def test_two_pieces_are_converted_at_the_same_time(tiny, tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=60)
    honest = write.convert_rows
    calls = iter(range(10**9))

    def meeting(inputs: rows.Inputs, chunk: rows.Chunk) -> write.Bytes:
        if next(calls) < 2:
            both.wait()  # passes only with another one in here
        return honest(inputs, chunk)

    monkeypatch.setattr(write, "convert_rows", meeting)
    write.write(convert.plan(convert.Source(tiny, None)), tmp_path / "out.gguf", threads=2)


def test_reading_back_begins_while_pieces_are_converted(tiny, tmp_path, monkeypatch):
    """The last piece waits until the first is read back, and one is written while another is converted."""
    monkeypatch.setattr(write, "FLUSH_SECONDS", 0.01)
    convert_rows, write_at, read_at = write.convert_rows, write.write_at, write.read_at
    converting, read_back = threading.Event(), threading.Event()
    plan = convert.plan(convert.Source(tiny, None))
    pieces = sum(1 for placed in plan.tensors for _ in write.chunks_of(placed, 0))
    numbers = iter(range(10**9))
    waited: list[str] = []

    def slow_convert(inputs: rows.Inputs, chunk: rows.Chunk) -> write.Bytes:
        number = next(numbers)
        if number > 0:
            converting.set()
        if number == pieces - 1:
            assert read_back.wait(60), "nothing was read back before everything was converted"
            waited.append("read back")
        return convert_rows(inputs, chunk)

    def slow_write(file: object, data: bytes | write.Bytes, offset: int) -> None:
        if offset > 0 and "written" not in waited:
            assert converting.wait(60), "a piece was written before the next one was begun"
            waited.append("written")
        write_at(file, data, offset)  # type: ignore[arg-type]

    def noted_read(file: object, target: write.Bytes, offset: int, name: str) -> None:
        read_at(file, target, offset, name)  # type: ignore[arg-type]
        if ".tmp-" in name:
            read_back.set()

    monkeypatch.setattr(write, "convert_rows", slow_convert)
    monkeypatch.setattr(write, "write_at", slow_write)
    for module in (rows, write):
        monkeypatch.setattr(module, "read_at", noted_read)
    write.write(plan, tmp_path / "out.gguf", threads=2)
    assert set(waited) == {"written", "read back"}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("kind", ["f16", "q4_k_m"])
def test_progress_goes_forward_and_ends_at_its_total(tiny, tmp_path, kind, verify):
    seen: list[tuple[int, int]] = []
    plan = convert.plan(convert.Source(tiny, None), outtype=kind)
    convert.write_any(
        plan, tmp_path / "out.gguf", kind, verify=verify, progress=lambda done, total: seen.append((done, total))
    )
    assert len(seen) > 3
    assert len({total for _, total in seen}) == 1, "the whole changes on the way"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert 0 <= seen[0][0] < seen[0][1] == seen[-1][0]
    assert seen[-1][1] >= plan.data_size * 0.9, "bytes, with which the bar tells rate and time left"


# --- the checksum


def random_bytes(size: int, seed: int = 3) -> np.ndarray:
    return np.frombuffer(random.Random(seed).randbytes(size), np.uint8).copy()


@pytest.mark.parametrize("size", [*range(1, 24), 4095, 4096, 4097, 8192 + 5])
def test_each_flipped_bit_changes_the_checksum(size):
    data = random_bytes(size)
    before = write._checksum(data)
    assert write._checksum(data.copy()) == before
    places = range(size) if size < 100 else [0, 7, 8, 4088, size // 2, size - 9, size - 8, size - 7, size - 1]
    for byte in places:
        for bit in range(8):
            data[byte] ^= 1 << bit
            assert write._checksum(data) != before, (byte, bit)
            data[byte] ^= 1 << bit


def test_pages_that_change_places_change_the_checksum():
    data = random_bytes(16 * 4096 + 3)
    before = write._checksum(data)
    for first, second in ((0, 1), (0, 15), (7, 8), (3, 12)):
        other = data.copy()
        pages = other[: 16 * 4096].reshape(16, 4096)
        pages[[first, second]] = pages[[second, first]]
        assert write._checksum(other) != before, (first, second)


def test_zeros_in_the_place_of_a_page_change_the_checksum():
    data = random_bytes(8 * 4096)
    before = write._checksum(data)
    for page in range(8):
        other = data.copy()
        other[page * 4096 : (page + 1) * 4096] = 0
        assert write._checksum(other) != before


def test_lengths_are_told_apart_by_their_tails():
    assert write._checksum(np.zeros(0, np.uint8)) == write._checksum(np.zeros(0, np.uint8))
    for size in (3, 8, 4096):
        data = random_bytes(size + 7)
        assert len({write._checksum(data[: size + more]) for more in range(1, 8)}) == 7
