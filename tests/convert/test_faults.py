"""The machine's faults: kills, full disks, disks that fail or lie. A file under the output's name stays as it was."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, rows, write
from darwin_neg_cpp.errors import ModelFileError, OutputError
from oracles import tiny_tokenizer

# installed, because the quantized types need the compiled engine
CONVERT = [sys.executable, "-m", "darwin_neg_cpp", "convert"]
OLD = b"what stood there before"
# (type, rounds): those of the quantizer have two files to leave behind
KILLED = (("auto", 50), ("q4_k_m", 15))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("tiny")
    return tiny_tokenizer.write_checkpoint(
        base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), hidden=256, n_ff=256
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A checkpoint of some tens of MB, of a shape that the quantizer takes."""
    base = tmp_path_factory.mktemp("large")
    return tiny_tokenizer.write_checkpoint(
        base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), hidden=256, n_ff=8192
    )


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [*CONVERT, str(folder), "-o", str(out), "--force", *more]


def hidden(folder: Path) -> list[Path]:
    """The temporary files in a folder."""
    return [path for path in folder.iterdir() if ".tmp-" in path.name]


def one_line(said: str) -> None:
    assert said.count("\n") == 1 and said.startswith("darwin-neg: error: "), said


# --- killed


def size_of(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed meanwhile
            continue
    return total


def kill_when(process: subprocess.Popen[bytes], folder: Path, size: int, wait: float) -> bool:
    """Kills the process `wait` seconds after its temporary files reach `size` bytes; False if it ended before that."""
    while process.poll() is None:
        if size_of(hidden(folder)) >= size:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    return process.wait() != 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rounds"), KILLED)
def test_killed_at_any_moment_the_name_is_absent_or_whole(large, tmp_path, kind, rounds):
    once = tmp_path / "once.gguf"
    subprocess.run(command(large, once, "--outtype", kind), check=True, capture_output=True)
    whole = once.read_bytes()
    quantized = kind in convert.QUANTIZED
    all_bytes = len(whole) + (convert.plan(convert.Source(large, None), outtype=kind).file_size if quantized else 0)
    folder = tmp_path / "output"
    folder.mkdir()
    out = folder / "out.gguf"
    rng = random.Random(5)
    killed = left = both = 0
    for round_ in range(rounds):
        old = OLD if round_ % 2 else None
        out.unlink(missing_ok=True)
        if old:
            out.write_bytes(old)
        for path in hidden(folder):
            path.unlink()
        process = subprocess.Popen(
            command(large, out, "--outtype", kind), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # anywhere from the first byte to after the last, where syncing and renaming are left
        killed += kill_when(process, folder, 1 + int(rng.random() * all_bytes), rng.random() * 0.1)
        left += bool(hidden(folder))
        both += len(hidden(folder)) > 1
        assert (out.read_bytes() if out.exists() else None) in (old, whole)
    assert killed > rounds // 2 and left > rounds // 3 and (both > 0) == quantized, (killed, left, both)
    # a last one for sure, in the middle of it
    process = subprocess.Popen(
        command(large, out, "--outtype", kind), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert kill_when(process, folder, 1, 0) and hidden(folder)
    # whatever type comes next, it clears up
    for next_kind in ("auto", kind):
        subprocess.run(command(large, out, "--outtype", next_kind), check=True, capture_output=True)
        assert hidden(folder) == [], "what the killed ones left is removed by the next run"
    assert out.read_bytes() == whole


# --- full disks

COUNTING = """
import atexit, os, runpy, sys
written = 0
honest = os.pwrite
def counted(file, data, offset):
    global written
    done = honest(file, data, offset)
    written += done
    return done
os.pwrite = counted
atexit.register(lambda: print("written", written))
runpy.run_module("darwin_neg_cpp", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("tenth", range(10))
def test_full_disk_leaves_what_was_there(large, tmp_path, tenth):
    out = tmp_path / "out.gguf"
    plan = convert.plan(convert.Source(large, None))
    out.write_bytes(OLD)
    limit = plan.file_size * (2 * tenth + 1) // 20

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = [sys.executable, "-c", COUNTING, *command(large, out)[3:]]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, preexec_fn=limited)
    assert result.returncode == 3, result.stderr
    one_line(result.stderr)
    # it got as far as there was room: a few pieces may have been under way
    written = int(result.stdout.split()[-1])
    assert limit - 8 * (2 * rows.CHUNK) <= written <= limit
    assert written > 0
    assert out.read_bytes() == OLD
    assert hidden(tmp_path) == []


def test_a_full_disk_stops_the_quantizer_too(large, tmp_path):
    full, out = tmp_path / "full.gguf", tmp_path / "out.gguf"
    write.write(convert.plan(convert.Source(large, None)), full)
    out.write_bytes(OLD)
    code = "from darwin_neg_cpp.cli.main import main; import sys; sys.exit(main(['quantize', *sys.argv[1:]]))"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))

    result = subprocess.run(
        [sys.executable, "-c", code, str(full), str(out), "q4_k_m", "--force"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )
    assert result.returncode == 3, result.stderr
    one_line(result.stderr)
    assert out.read_bytes() == OLD and hidden(tmp_path) == []


def test_what_the_disk_has_no_room_for_is_not_started(tiny, tmp_path, monkeypatch, capsys):
    class Little:
        free = 1000

    monkeypatch.setattr(write.shutil, "disk_usage", lambda _folder: Little)
    for kind in ("f16", "q4_k_m"):
        assert main(["convert", str(tiny), "-o", str(tmp_path / "out.gguf"), "--outtype", kind]) == 3
        said = capsys.readouterr().err
        one_line(said)
        assert "has 0 MiB free" in said
    assert list(tmp_path.iterdir()) == []


# --- disks that fail


def failing(monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[[int], bool], number: int = errno.EIO) -> None:
    """Has the call number n of os.`name` fail where when(n)."""
    honest = getattr(os, name)
    calls = 0

    def call(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if when(calls):
            raise OSError(number, os.strerror(number))
        return honest(*arguments)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("kind", ["auto", "q4_k_m"])
@pytest.mark.parametrize("after", [1, 7, 30])
@pytest.mark.parametrize("name", ["preadv", "pwrite", "fsync"])
def test_an_io_error_is_one_line_and_the_old_file_stays(tiny, tmp_path, monkeypatch, capsys, name, after, kind):
    out = tmp_path / "out.gguf"
    out.write_bytes(OLD)
    # files are synced only now and then
    failing(monkeypatch, name, lambda n: n >= (after if name != "fsync" else 1))
    assert main(["convert", str(tiny), "-o", str(out), "--force", "--outtype", kind]) == 3
    said = capsys.readouterr().err
    one_line(said)
    assert os.strerror(errno.EIO) in said
    assert (".safetensors" if name == "preadv" else ".gguf") in said
    assert out.read_bytes() == OLD and hidden(tmp_path) == []


def test_an_io_error_in_reading_back_is_one_line(tiny, tmp_path, monkeypatch, capsys):
    honest = write.read_at

    def broken(file: object, target: write.Bytes, offset: int, name: str) -> None:
        if ".tmp-" in name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        honest(file, target, offset, name)  # type: ignore[arg-type]

    for module in (rows, write):
        monkeypatch.setattr(module, "read_at", broken)
    out = tmp_path / "out.gguf"
    out.write_bytes(OLD)
    assert main(["convert", str(tiny), "-o", str(out), "--force"]) == 3
    said = capsys.readouterr().err
    one_line(said)
    assert str(out) in said and os.strerror(errno.EIO) in said
    assert out.read_bytes() == OLD and hidden(tmp_path) == []


def test_an_io_error_in_a_header_or_a_text_names_the_file(tiny, tmp_path, monkeypatch, capsys):
    from darwin_neg_cpp.convert import checkpoint
    from darwin_neg_cpp.files import safetensors_header

    class Failing:
        def __init__(self, file: object) -> None:
            self._file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()  # type: ignore[attr-defined]

        def read(self, *_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    for module, name in ((checkpoint, "config.json"), (safetensors_header, "model-00001-of-00002.safetensors")):
        with monkeypatch.context() as patch:
            honest = module.open_input
            patch.setattr(module, "open_input", lambda path, error, honest=honest: Failing(honest(path, error)))
            assert main(["convert", str(tiny), "-o", str(tmp_path / "out.gguf")]) == 3
            said = capsys.readouterr().err
            one_line(said)
            assert name in said and os.strerror(errno.EIO) in said
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_one_thread_ends_all_of_them(large, tmp_path, monkeypatch):
    honest = write.convert_rows
    calls = 0

    def broken(inputs: rows.Inputs, chunk: rows.Chunk) -> write.Bytes:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise MemoryError
        return honest(inputs, chunk)

    monkeypatch.setattr(write, "convert_rows", broken)
    plan = convert.plan(convert.Source(large, None))
    with pytest.raises(MemoryError):
        write.write(plan, tmp_path / "out.gguf", threads=2)
    assert calls < 20 < sum(1 for placed in plan.tensors for _ in write.chunks_of(placed, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_goes_away_meanwhile_is_named(tiny, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    plan = convert.plan(convert.Source(folder, None))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model-00002-of-00002\.safetensors: cannot be read"):
        write.write(plan, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists() and hidden(tmp_path) == []


# --- disks that lie


def lying(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Has one write store other bytes than it was given; returns a list that gets an entry for each write."""
    honest = write.write_at
    calls: list[int] = []

    def lie(file: object, data: bytes | write.Bytes, offset: int) -> None:
        calls.append(offset)
        honest(file, data if len(calls) != at else bytes(len(data)), offset)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "write_at", lie)
    return calls


def test_a_disk_that_returns_other_bytes_is_noticed(tiny, tmp_path, monkeypatch):
    lying(monkeypatch, 20)
    plan = convert.plan(convert.Source(tiny, None), outtype="bf16")
    with pytest.raises(OutputError, match="differs when read back"):
        write.write(plan, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_lie_ends_the_conversion_early(large, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "FLUSH_SECONDS", 0.01)
    calls = lying(monkeypatch, 3)
    honest = write.convert_rows

    def slowly(inputs: rows.Inputs, chunk: rows.Chunk) -> write.Bytes:
        time.sleep(0.05)
        return honest(inputs, chunk)

    monkeypatch.setattr(write, "convert_rows", slowly)
    plan = convert.plan(convert.Source(large, None))
    with pytest.raises(OutputError, match="differs when read back"):
        write.write(plan, tmp_path / "out.gguf", threads=2)
    pieces = sum(1 for placed in plan.tensors for _ in write.chunks_of(placed, 0))
    assert len(calls) < pieces // 2, "it went on although nothing could come of it"


def test_without_verifying_nothing_is_read_back(tiny, tmp_path, monkeypatch, capsys):
    lying(monkeypatch, 20)
    read = []
    honest = write.read_at

    def reading(file: object, target: write.Bytes, offset: int, name: str) -> None:
        read.append(name)
        honest(file, target, offset, name)  # type: ignore[arg-type]

    for module in (rows, write):
        monkeypatch.setattr(module, "read_at", reading)
    out = tmp_path / "out.gguf"
    assert main(["convert", str(tiny), "-o", str(out), "--no-verify"]) == 0, capsys.readouterr().err
    assert out.exists() and read and all(name.endswith(".safetensors") for name in read)
    assert main(["convert", str(tiny), "-o", str(out), "--force"]) == 0  # the 20th write is long past
    assert not all(name.endswith(".safetensors") for name in read)


# --- folders that cannot be written to


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_bad_input(tiny, tmp_path, monkeypatch, capsys, number):
    honest = Path.open

    def refusing(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if "w" in mode and self.parent == tmp_path:
            raise OSError(number, os.strerror(number), str(self))
        return honest(self, mode, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refusing)
    assert main(["convert", str(tiny), "-o", str(tmp_path / "out.gguf")]) == 2
    said = capsys.readouterr().err
    one_line(said)
    assert str(tmp_path) in said and os.strerror(number) in said


def test_a_folder_without_write_permission(tiny, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)

    def without_privileges() -> None:
        # root may write everywhere; without the capability to override permissions it is like everybody
        if os.geteuid() == 0:
            pr_capbset_drop, cap_dac_override = 24, 1
            assert ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0) == 0

    probe = [sys.executable, "-c", f"open({str(folder / 'probe')!r}, 'w')"]
    if subprocess.run(probe, capture_output=True, check=False, preexec_fn=without_privileges).returncode == 0:
        pytest.skip("this system lets every process write everywhere")
    result = subprocess.run(
        command(tiny, folder / "out.gguf"), capture_output=True, text=True, check=False, preexec_fn=without_privileges
    )
    assert result.returncode == 2, result.stderr
    one_line(result.stderr)
    assert str(folder) in result.stderr and os.strerror(errno.EACCES) in result.stderr
    assert list(folder.iterdir()) == []
