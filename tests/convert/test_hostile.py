"""Bad checkpoints and random damage: one clear line, the right exit code, and never half a file."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from conftest import ROOT
from darwin_neg_cpp.cli.main import main
from hostile_checkpoints import KINDS, SHARDS, Kind
from oracles import tiny_tokenizer

SCRIPT = str(ROOT / "convert" / "convert_to_gguf.py")
MUTATIONS = 2000
SECONDS = 5  # for one of them


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("good")
    folder = tiny_tokenizer.write_checkpoint(base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), card=True)
    assert main(["convert", str(folder), "-o", str(base / "good.gguf")]) == 0
    return folder


def fresh(good: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    return folder


def leftovers(*folders: Path) -> list[str]:
    return [path.name for folder in folders if folder.is_dir() for path in folder.rglob("*") if ".tmp-" in path.name]


def everything_in(folder: Path) -> dict[str, str]:
    """What lies in a folder: names, kinds and contents."""

    def contents(path: Path) -> str:
        if path.is_symlink():
            return f"link to {path.readlink()}"
        return "folder" if path.is_dir() else sha256(path.read_bytes()).hexdigest()

    return {str(path.relative_to(folder)): contents(path) for path in sorted(folder.rglob("*"))}


def expected_words(kind: Kind, folder: Path, i: int) -> list[str]:
    """What must stand in the message about variant i; asked before the checkpoint is damaged."""
    words = [word if isinstance(word, str) else word[i] for word in kind.words]
    if kind.tensor is not None:
        words.append(kind.tensor(folder, i))
        words += [SHARDS[i % 2]] if kind.in_shard else []
    return words


def check_refused(words: list[str], said: str, code: int, seconds: float) -> None:
    assert code == 2, said
    lines = said.splitlines()
    assert len(lines) == 1 and lines[0].startswith("darwin-neg: error: "), said
    for word in words:
        assert word in lines[0]
    assert seconds < 5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_bad_input_is_one_clear_line(kind, good, tmp_path, capsys):
    for i in range(5):
        folder = fresh(good, tmp_path)
        words = expected_words(kind, folder, i)
        out = tmp_path / "out.gguf"
        arguments = kind.spoil(folder, i)
        before = everything_in(tmp_path)
        if not arguments or "-o" not in arguments:
            arguments = [*(arguments or []), "-o", str(out)]
        capsys.readouterr()
        begin = time.monotonic()
        code = main(["convert", str(folder), *arguments])
        seconds = time.monotonic() - begin
        check_refused(words, capsys.readouterr().err, code, seconds)
        # nothing new, nothing changed, and nothing run out of a pickle
        assert everything_in(tmp_path) == before
        assert not any("pwned" in name for name in before)
        for path in list(tmp_path.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("kind", KINDS[:: len(KINDS) // 10], ids=lambda kind: kind.name)
def test_bad_input_from_a_shell(kind, good, tmp_path):
    folder = fresh(good, tmp_path)
    words = expected_words(kind, folder, 1)
    arguments = kind.spoil(folder, 1) or []
    if "-o" not in arguments:
        arguments = [*arguments, "-o", str(tmp_path / "out.gguf")]
    begin = time.monotonic()
    result = subprocess.run(
        [sys.executable, SCRIPT, str(folder), *arguments], capture_output=True, text=True, check=False
    )
    check_refused(words, result.stderr, result.returncode, time.monotonic() - begin)
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
        "generation_config.json",
        "README.md",
        "chat_template.jinja",
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
        begin = time.monotonic()
        code = main(["convert", str(folder), "-o", str(out), "--no-verify"])
        seconds = time.monotonic() - begin
        said = capsys.readouterr().err
        codes[code] = codes.get(code, 0) + 1
        assert seconds < SECONDS, (round_, name, seconds)
        assert code in (0, 2), (round_, name, said)
        assert out.exists() == (code == 0)
        if code == 2:
            assert said.count("\n") == 1 and said.startswith("darwin-neg: error: "), said
        else:
            assert all(line.startswith("darwin-neg: note: ") for line in said.splitlines()), said
        out.unlink(missing_ok=True)
        (folder / name).write_bytes(originals[name])
    assert leftovers(tmp_path) == []
    assert codes[2] > MUTATIONS // 3, "damage that nobody notices proves little"
