"""Split models, as gguf-py writes them: every reader takes all parts, and names the one that is missing or wrong."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert.quantize import quantize
from darwin_neg_cpp.errors import ModelFileError, NegHeadError
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg.head import random_head
from darwin_neg_cpp.neg.info import info
from darwin_neg_cpp.training import calibrate
from tiny_gguf import HIDDEN, write_tiny_llama

PARTS = 4  # of the 21 tensors, six to a part; the output norm is in the last one
Damage = Callable[[list[Path]], object]


def parts_of(first: Path) -> list[Path]:
    return sorted(first.parent.glob(first.name.replace("-00001-of-", "-*-of-")))


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """The parts of a tiny model, the first of which it is opened by."""
    (tmp_path / "split").mkdir()
    paths = parts_of(write_tiny_llama(tmp_path / "split" / "tiny.gguf", split=6))
    assert len(paths) == PARTS
    return paths


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "whole.gguf")


@pytest.fixture
def split_with_head(tmp_path: Path, whole: Path) -> Path:
    """The first part of a model that carries a head."""
    neg_files.attach(whole, random_head(HIDDEN, 3), tmp_path / "head.gguf")
    reader = gguf.GGUFReader(tmp_path / "head.gguf")
    writer = gguf.GGUFWriter(tmp_path / "h.gguf", "llama", split_max_tensors=10)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "h-00001-of-00003.gguf"


def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    return {t.name: (int(t.tensor_type), t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def patch(path: Path, old: bytes, new: bytes) -> None:
    """Changes a value in place."""
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def key(name: str, kind: str, number: int, *, written_as: str | None = None) -> bytes:
    types = {"u16": (2, "<H"), "i16": (3, "<h"), "i32": (5, "<i")}
    text = name.encode()
    return (
        struct.pack("<Q", len(text))
        + text
        + struct.pack("<I", types[written_as or kind][0])
        + struct.pack(types[kind][1], number)
    )


# --- whole


@pytest.mark.parametrize("first_without_tensors", [False, True])
def test_quantize_reads_all_parts(tmp_path: Path, whole: Path, first_without_tensors: bool) -> None:
    first = write_tiny_llama(tmp_path / "s.gguf", split=6, first_without_tensors=first_without_tensors)
    quantize(first, tmp_path / "of-parts.gguf", "q8_0")
    quantize(whole, tmp_path / "of-one.gguf", "q8_0")
    assert tensors(tmp_path / "of-parts.gguf") == tensors(tmp_path / "of-one.gguf")
    assert "split.count" not in gguf.GGUFReader(tmp_path / "of-parts.gguf").fields


def test_a_split_model_with_a_head_is_quantized_and_loaded_with_it(split_with_head: Path, tmp_path: Path) -> None:
    first = split_with_head
    quantize(first, tmp_path / "q.gguf", "q8_0")
    meant = neg_files.inspect(tmp_path / "head.gguf").head
    for path in (first, tmp_path / "q.gguf"):
        found = neg_files.inspect(path).head
        assert found.tensors().keys() == meant.tensors().keys()
        assert all((data == meant.tensors()[name]).all() for name, data in found.tensors().items())
        with DarwinNEG(path, n_ctx=64, n_parallel=1) as llm:
            assert llm.neg is not None and llm.neg["threshold"] == pytest.approx(meant.threshold)


def test_info_describes_all_parts_whichever_is_given(split: list[Path], whole: Path, capsys) -> None:
    one = info(whole)
    for path in split:
        found = info(path)
        assert found.part_error is None and found.split_count == PARTS
        assert found.size_bytes == sum(part.stat().st_size for part in split)
        for name in ("n_params", "n_tensors", "tensor_types", "memory", "n_layer", "n_vocab", "architecture"):
            assert getattr(found, name) == getattr(one, name), name
    assert main(["info", str(split[2])]) == 0
    assert f"all {PARTS} parts" in capsys.readouterr().out


def test_info_says_that_it_describes_a_part(split: list[Path], capsys) -> None:
    split[2].unlink()
    found = info(split[0])
    assert found.n_tensors == 6 and found.size_bytes == split[0].stat().st_size
    assert found.part_error is not None and split[2].name in found.part_error
    assert main(["info", str(split[0])]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("split"))
    assert "this part of 4 only" in row and split[2].name in row
    # no other part says what the model is
    with pytest.raises(ModelFileError, match=rf"{split[1].name}: is a part of a split model.*{split[2].name}"):
        info(split[1])


def test_a_side_car_is_bound_to_the_norm_in_any_part(split: list[Path], whole: Path, tmp_path: Path) -> None:
    assert "output_norm.weight" not in tensors(split[0])
    neg_files.write_side_car(random_head(HIDDEN, 3), split[0], tmp_path / "split.neg.gguf")
    neg_files.write_side_car(random_head(HIDDEN, 3), whole, tmp_path / "whole.neg.gguf")
    assert (tmp_path / "split.neg.gguf").read_bytes() == (tmp_path / "whole.neg.gguf").read_bytes()
    with DarwinNEG(split[0], tmp_path / "split.neg.gguf", n_ctx=64, n_parallel=1) as llm:
        assert llm.neg is not None
    other = write_tiny_llama(tmp_path / "other.gguf", seed=9)
    with pytest.raises(NegHeadError, match="another backbone"):
        DarwinNEG(other, tmp_path / "split.neg.gguf", n_ctx=64, n_parallel=1)
    with pytest.raises(NegHeadError, match="another backbone"):
        neg_files.write_side_car(
            tmp_path / "split.neg.gguf", write_tiny_llama(tmp_path / "o.gguf", seed=9, split=6), tmp_path / "x.gguf"
        )


def test_a_head_is_not_written_into_a_part(split: list[Path], tmp_path: Path) -> None:
    for work in (
        lambda path: neg_files.attach(path, random_head(HIDDEN, 3), tmp_path / "out.gguf"),
        lambda path: neg_files.detach(path, tmp_path / "out.gguf", side_car=tmp_path / "side.gguf"),
    ):
        for path in split:
            with pytest.raises(ModelFileError, match=rf"{path.name}: is part \d of 4.*--merge.*--side-car"):
                work(path)
    assert not (tmp_path / "out.gguf").exists() and not (tmp_path / "side.gguf").exists()


def test_calibrating_refuses_to_write_into_a_part_before_it_measures(split_with_head: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is part 1 of 3"):
        calibrate.check(str(split_with_head), None, tmp_path / "out.gguf", [], reference=None, force=False)


def test_an_output_that_is_any_part_is_refused(split: list[Path]) -> None:
    before = [path.read_bytes() for path in split]
    for path in split:
        assert main(["quantize", str(split[0]), str(path), "q8_0", "--force"]) == 2
        assert main(["neg", "attach", str(split[0]), "--random", "1", "--side-car", str(path), "--force"]) == 2
    assert [path.read_bytes() for path in split] == before


# --- wrong or missing parts


def other_model(parts: list[Path]) -> None:
    """The third part of a model that was cut at other places."""
    other = parts_of(write_tiny_llama(parts[0].parent / "other.gguf", split=7))
    shutil.copy(other[2], parts[2])
    for path in other:
        path.unlink()


def other_count(parts: list[Path]) -> None:
    other = parts_of(write_tiny_llama(parts[0].parent / "other.gguf", split=4))
    shutil.copy(other[2], parts[2])
    for path in other:
        path.unlink()


def swapped(parts: list[Path]) -> None:
    content = [part.read_bytes() for part in parts]
    parts[1].write_bytes(content[2])
    parts[2].write_bytes(content[1])


def number_of_another_type(parts: list[Path]) -> None:
    patch(parts[2], key("split.no", "u16", 2), key("split.no", "u16", 2, written_as="i16"))


def tensors_of_an_earlier_part(parts: list[Path]) -> None:
    shutil.copy(parts[1], parts[2])
    patch(parts[2], key("split.no", "u16", 1), key("split.no", "u16", 2))


def more_tensors_announced(parts: list[Path]) -> None:
    patch(parts[0], key("split.tensors.count", "i32", 21), key("split.tensors.count", "i32", 22))


def renamed(name: str) -> Damage:
    def damage(parts: list[Path]) -> None:
        parts[0] = parts[0].rename(parts[0].with_name(name))

    return damage


# what is done, the number of the file that is opened, that of the file which the error names, and what it says
WRONG: dict[str, tuple[Damage, int, int, str]] = {
    "missing": (lambda p: p[2].unlink(), 0, 2, "no such file, but tiny-00001-of-00004.gguf is the first of 4 parts"),
    "last missing": (lambda p: p[3].unlink(), 0, 3, "put all parts into one folder"),
    "dangling": (lambda p: (p[2].unlink(), p[2].symlink_to("nowhere")), 0, 2, "no such file"),
    "a folder": (lambda p: (p[2].unlink(), p[2].mkdir()), 0, 2, "is a folder"),
    "empty": (lambda p: p[2].write_bytes(b""), 0, 2, "empty"),
    "cut": (lambda p: os.truncate(p[2], p[2].stat().st_size - 5000), 0, 2, "past the end"),
    "a web page": (lambda p: p[2].write_bytes(b"<html>" * 99), 0, 2, "not a GGUF file"),
    "an earlier one again": (lambda p: shutil.copy(p[1], p[2]), 0, 2, "is part 2 of its model"),
    "swapped": (swapped, 0, 1, "is part 3 of its model"),
    "the first again": (lambda p: shutil.copy(p[0], p[2]), 0, 2, "is part 1 of its model"),
    "of a model in more parts": (other_count, 0, 2, "is one of 6 parts of its model"),
    "of a model cut elsewhere": (other_model, 0, 2, "is one of 3 parts of its model"),
    "a whole model": (lambda p: write_tiny_llama(p[2]), 0, 2, "split.no is missing"),
    "number of another type": (number_of_another_type, 0, 2, "split.no is of type INT16"),
    "tensors of an earlier part": (tensors_of_an_earlier_part, 0, 2, "is in an earlier part"),
    "fewer tensors": (more_tensors_announced, 0, 0, "hold 21 tensors, split.tensors.count is 22"),
    "another part is given": (
        lambda _: None,
        1,
        1,
        "is part 2 of the 4 of a split model; give the first part, tiny-00001",
    ),
    "renamed": (renamed("m.gguf"), 0, 0, "-00001-of-00004.gguf"),
    "renamed as of another model": (renamed("tiny-00001-of-00003.gguf"), 0, 0, "-00001-of-00004.gguf"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_or_missing_part_is_named(split: list[Path], tmp_path: Path, kind: str) -> None:
    damage, opened, named, says = WRONG[kind]
    damage(split)
    path = split[opened]
    for work in (
        lambda: DarwinNEG(path, n_ctx=64, n_parallel=1),
        lambda: quantize(path, tmp_path / "out.gguf", "q8_0"),
        lambda: neg_files.write_side_car(random_head(HIDDEN, 3), path, tmp_path / "out.gguf"),
    ):
        with pytest.raises(ModelFileError) as caught:
            work()
        assert str(caught.value).startswith(f"{split[named]}: ") and says in str(caught.value), caught.value
        assert "\n" not in str(caught.value) and ";" in str(caught.value)
    assert not (tmp_path / "out.gguf").exists()
