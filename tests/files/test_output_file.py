"""Files that appear under their name when they are complete."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys

import pytest

from darwin_neg_cpp.errors import OutputError
from darwin_neg_cpp.files import output_file
from darwin_neg_cpp.files.output_file import check_output, copy_range, os_errors_about, replacing, temporary

LEAVE = """
import os, sys
from pathlib import Path
from darwin_neg_cpp.files.output_file import temporary
with temporary(Path(sys.argv[1])) as (file, path):
    print(path.name, flush=True)
    os._exit(1)
"""


def test_leftovers_of_killed_processes_are_removed_but_not_those_of_another_machine(tmp_path, monkeypatch):
    out = tmp_path / "model.gguf"
    left = subprocess.run([sys.executable, "-c", LEAVE, str(out)], capture_output=True, text=True, check=False)
    dead = tmp_path / left.stdout.strip()
    assert dead.exists()
    # the same process id, on another machine that shares the folder
    monkeypatch.setattr(output_file.platform, "node", lambda: "elsewhere")
    with temporary(out):
        assert dead.exists(), "a file that another machine may still be writing was removed"
    monkeypatch.undo()
    with temporary(out) as (_, first), temporary(out) as (_, second):
        assert not dead.exists()
        assert first.exists() and second.exists() and first != second
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_still_leaves_room_for_that_of_the_temporary_file(tmp_path):
    out = tmp_path / ("x" * 250 + ".gguf")
    with replacing(out) as (file, temp):
        assert len(os.fsencode(temp.name)) <= 255
        file.write(b"data")
    assert out.read_bytes() == b"data"


def test_a_full_disk_ends_a_copy_at_once_by_the_name_of_its_error(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(1000))
    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        calls = []

        def fail(*_: object, number: int = number, calls: list[int] = calls) -> int:
            calls.append(number)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "copy_file_range", fail, raising=False)
        with source.open("rb") as reader, target.open("wb") as writer, pytest.raises(OSError) as caught:
            copy_range(reader, writer, 0, 1000)
        assert caught.value.errno == number and len(calls) == 1
    # any other error means that this way of copying does not work here
    monkeypatch.setattr(os, "copy_file_range", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "no")))
    with source.open("rb") as reader, target.open("wb") as writer:
        copy_range(reader, writer, 0, 1000)
    assert target.read_bytes() == bytes(1000)


def test_a_full_quota_has_the_number_that_this_system_gives_it(monkeypatch):
    monkeypatch.setattr(errno, "EDQUOT", 69)  # as on macOS
    spec = importlib.util.spec_from_file_location("darwin_neg_cpp.files.read_again", output_file.__file__)
    assert spec is not None and spec.loader is not None
    read_again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(read_again)
    assert {errno.ENOSPC, errno.EFBIG, 69} == read_again.FULL


def test_an_error_of_the_system_names_the_output_and_the_remedy(tmp_path):
    for number, help_text in (
        (errno.EIO, "check the disk$"),
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "make its folder writable"),
        (errno.ENOENT, "choose a folder that exists"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
        (errno.EBUSY, "try again, or choose another folder"),
    ):
        message = rf"out\.gguf: cannot be written \({os.strerror(number)}\); {help_text}"
        with pytest.raises(OutputError, match=message) as caught, os_errors_about(tmp_path / "out.gguf"):
            raise OSError(number, os.strerror(number))
        assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == number
        assert ("disk" in str(caught.value)) == (number == errno.EIO), "the disk is named for its own faults alone"


def test_an_existing_output_names_the_argument_that_replaces_it(tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists already; choose another name, or pass force=True to replace it"):
        check_output(out, [], force=False)
    check_output(out, [], force=True)
