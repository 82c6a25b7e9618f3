"""Bad checkpoints, random damage, kills and full disks: one clear line, the right exit code, and never half a file."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from darwin_neg_cpp.cli.main import main
from hostile_checkpoints import KINDS, SHARDS, Kind
from oracles import tiny_tokenizer

SCRIPT = str(ROOT / "convert" / "convert_to_gguf.py")
MUTATIONS = 2000


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("good")
    folder = tiny_tokenizer.write_checkpoint(base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"))
    (folder / "README.md").write_text("# nothing\n", "utf-8")
    assert main(["convert", str(folder), "-o", str(base / "good.gguf")]) == 0
    return folder


def fresh(good: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    return folder


def leftovers(*folders: Path) -> list[str]:
    return [path.name for folder in folders if folder.is_dir() for path in folder.rglob("*") if ".tmp-" in path.name]


def check_refused(kind: Kind, said: str, code: int, seconds: float) -> None:
    assert code == 2, said
    lines = said.splitlines()
    assert len(lines) == 1 and lines[0].startswith("darwin-neg: error: "), said
    for word in kind.words:
        assert word in lines[0]
    assert seconds < 5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_input_is_one_clear_line(kind, good, tmp_path, capsys):
    for i in range(5):
        folder = fresh(good, tmp_path)
        out = tmp_path / "out.gguf"
        arguments = kind.spoil(folder, i)
        here = {path.name for path in tmp_path.rglob("*")}
        if not arguments or "-o" not in arguments:
            arguments = [*(arguments or []), "-o", str(out)]
        capsys.readouterr()
        begin = time.monotonic()
        code = main(["convert", str(folder), *arguments])
        seconds = time.monotonic() - begin
        check_refused(kind, capsys.readouterr().err, code, seconds)
        # nothing new, and nothing run out of a pickle
        assert {path.name for path in tmp_path.rglob("*")} == here
        assert "pwned" not in here


@pytest.mark.parametrize("kind", KINDS[:: len(KINDS) // 10], ids=lambda kind: kind.name)
def test_bad_input_from_a_shell(kind, good, tmp_path):
    folder = fresh(good, tmp_path)
    arguments = kind.spoil(folder, 1) or []
    if "-o" not in arguments:
        arguments = [*arguments, "-o", str(tmp_path / "out.gguf")]
    begin = time.monotonic()
    result = subprocess.run(
        [sys.executable, SCRIPT, str(folder), *arguments], capture_output=True, text=True, check=False
    )
    check_refused(kind, result.stderr, result.returncode, time.monotonic() - begin)
    assert result.stdout == "" and not (tmp_path / "out.gguf").exists()


def test_there_are_enough_kinds():
    assert len(KINDS) >= 48 and len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.slow
def test_random_damage_never_gets_further_than_one_line(good, tmp_path, capsys):
    rng = random.Random(9)
    files = [
        *SHARDS,
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "neg_modules.safetensors",
    ]
    originals = {name: (good / name).read_bytes() for name in files}
    folder, out = fresh(good, tmp_path), tmp_path / "out.gguf"
    codes: dict[int, int] = {}
    for round_ in range(MUTATIONS):
        name = files[round_ % len(files)]
        data = bytearray(originals[name])
        # mostly where the structure is
        reach = min(len(data), 4000 if rng.random() < 0.8 else len(data))
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            at = rng.randrange(reach)
            match rng.randrange(5):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at] = rng.randrange(256)
                case 2:
                    del data[at : at + rng.randrange(1, 9)]
                case 3:
                    data[at:at] = rng.randbytes(rng.randrange(1, 9))
                case 4:
                    data[at : at + 1] = rng.choice([b"9", b"-", b"null", b"[", b"}", b'"', b"1e999", b"\\u0000"])
            reach = min(reach, len(data))
        (folder / name).write_bytes(bytes(data))
        code = main(["convert", str(folder), "-o", str(out), "--no-verify"])
        said = capsys.readouterr().err
        codes[code] = codes.get(code, 0) + 1
        assert code in (0, 2), (round_, name, said)
        assert out.exists() == (code == 0)
        if code == 2:
            assert said.count("\n") == 1 and said.startswith("darwin-neg: error: "), said
        out.unlink(missing_ok=True)
        (folder / name).write_bytes(originals[name])
    assert leftovers(tmp_path) == []
    assert codes[2] > MUTATIONS // 2, "damage that nobody notices proves little"


# --- the machine's faults


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, bytes, float]:
    """(a checkpoint of some tens of MB, what it converts to, seconds that this takes)."""
    base = tmp_path_factory.mktemp("large")
    folder = tiny_tokenizer.write_checkpoint(base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), n_ff=40_000)
    out = base / "whole.gguf"
    begin = time.monotonic()
    subprocess.run([sys.executable, SCRIPT, str(folder), "-o", str(out)], check=True, capture_output=True)
    return folder, out.read_bytes(), time.monotonic() - begin


@pytest.mark.slow
def test_killed_at_any_moment_the_name_is_absent_or_whole(large, tmp_path):
    folder, whole, seconds = large
    rng = random.Random(5)
    out = tmp_path / "out.gguf"
    killed = finished = 0
    for round_ in range(50):
        old = b"what stood there before" if round_ % 2 else None
        out.unlink(missing_ok=True)
        if old:
            out.write_bytes(old)
        process = subprocess.Popen(
            [sys.executable, SCRIPT, str(folder), "-o", str(out), "--force"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(0.2, 1.1) * seconds)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            finished += 1
        else:
            killed += 1
        assert (out.read_bytes() if out.exists() else None) in (old, whole)
    assert killed >= 20, (killed, finished)
    subprocess.run([sys.executable, SCRIPT, str(folder), "-o", str(out), "--force"], check=True, capture_output=True)
    assert out.read_bytes() == whole
    assert leftovers(tmp_path) == [], "what the killed ones left is removed by the next run"


@pytest.mark.slow
@pytest.mark.parametrize("tenth", range(10))
def test_full_disk_leaves_what_was_there(large, tmp_path, tenth):
    folder, whole, _ = large
    out = tmp_path / "out.gguf"
    out.write_bytes(b"before")
    limit = len(whole) * tenth // 10 + tenth

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = subprocess.run(
        [sys.executable, SCRIPT, str(folder), "-o", str(out), "--force"],
        capture_output=True, text=True, check=False, preexec_fn=limited,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("darwin-neg: error: ")
    assert out.read_bytes() == b"before"
    assert leftovers(tmp_path) == []
