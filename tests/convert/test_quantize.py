"""`darwin-neg quantize` and quantizing on the way of a conversion."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from command_line import refusal
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, quantize, source, write
from darwin_neg_cpp.errors import DarwinNegError, ModelFileError, OutputError, RequestError
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import formats as neg_format
from handmade import write_gguf, write_matrix
from oracles import tiny_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_tokenizer.write_quantizable(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory) -> Path:
    """In BF16, with its head."""
    out = tmp_path_factory.mktemp("model") / "model.gguf"
    write.write(convert.plan(convert.Source(checkpoint, None), outtype="bf16"), out)
    return out


@pytest.fixture(scope="module")
def matrix(model, tmp_path_factory) -> Path:
    """An importance matrix with values for every matrix of the model."""
    return write_matrix(tmp_path_factory.mktemp("matrix") / "matrix.gguf", model)


def test_quantize_writes_a_smaller_file_and_keeps_the_head(model, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(out), "Q4_K_M"]) == 0
    assert f"{out}: Q4_K_M" in capsys.readouterr().out
    assert out.stat().st_size < model.stat().st_size * 0.45
    header = read_header(out)
    assert header.value("general.file_type") == quantize.TYPES["q4_k_m"]
    assert {info.type.name for info in header.tensors.values()} >= {"Q4_K", "Q6_K", "F32"}
    before, after = neg_format.read_head(model), neg_format.read_head(out)
    for name, data in before.tensors().items():
        assert data.tobytes() == after.tensors()[name].tobytes()
    assert (before.threshold, before.temp_scale, before.top_k) == (after.threshold, after.temp_scale, after.top_k)
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    return refusal(capsys, "quantize", *arguments, code=code)


def test_what_cannot_be_quantized_is_one_line(model, matrix, tmp_path, capsys):
    out = str(tmp_path / "out.gguf")
    assert "type must be one of" in refused(capsys, str(model), out, "q9_k")
    assert "no such file" in refused(capsys, str(tmp_path / "nothing.gguf"), out, "q4_k_m")
    assert "no such file" in refused(capsys, str(model), out, "q4_k_m", "--imatrix", str(tmp_path / "nothing"))
    assert "importance matrix" in refused(capsys, str(model), out, "q4_k_m", "--imatrix", str(model))
    assert "threads" in refused(capsys, str(model), out, "q4_k_m", "--threads", "-1")
    assert "same file" in refused(capsys, str(model), str(model), "q4_k_m", "--force")
    before = matrix.read_bytes()
    assert "same file" in refused(capsys, str(model), str(matrix), "q4_k_m", "--imatrix", str(matrix), "--force")
    assert matrix.read_bytes() == before
    (tmp_path / "text").write_text("no model")
    refused(capsys, str(tmp_path / "text"), out, "q4_k_m")
    assert "iq2_xs" not in refused(capsys, str(model), out, "iq2_xs")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    Path(out).write_bytes(b"old")
    assert "--force" in refused(capsys, str(model), out, "q4_k_m")
    assert Path(out).read_bytes() == b"old"


def test_an_importance_matrix_is_used(model, matrix, tmp_path, capsys):
    plain, weighed = tmp_path / "plain.gguf", tmp_path / "weighed.gguf"
    assert main(["quantize", str(model), str(plain), "q4_k_m"]) == 0
    assert main(["quantize", str(model), str(weighed), "q4_k_m", "--imatrix", str(matrix)]) == 0
    assert plain.read_bytes() != weighed.read_bytes()
    low = tmp_path / "low.gguf"
    assert "imatrix" in refused(capsys, str(model), str(low), "iq2_xs")
    assert main(["quantize", str(model), str(low), "iq2_xs", "--imatrix", str(matrix)]) == 0
    assert low.stat().st_size < plain.stat().st_size


MTP = "blk.4."  # the model has four blocks, and this one
TRUNK_TENSORS = ("blk.1.ffn_up.weight", "blk.1.ffn_down.weight")
# what the matrix has values for, the type, and what the error says beside the matrix's name; None where it is used
COVERAGE: dict[str, tuple[Callable[[str], bool], int, str, tuple[str, ...] | None]] = {
    "all but the block ahead, low": (lambda n: MTP not in n, 1, "iq2_xs", ("blk.4.", "more tensors", "--no-mtp")),
    "all but the block ahead, q2_k_s": (lambda n: MTP not in n, 1, "q2_k_s", ("blk.4.", "--no-mtp", "q4_k_m")),
    "all but the block ahead": (lambda n: MTP not in n, 1, "q4_k_m", None),
    "all but the embeddings": (lambda n: n not in ("token_embd.weight", "output.weight"), 1, "iq2_xs", None),
    "all but two tensors, low": (lambda n: n not in TRUNK_TENSORS, 1, "iq2_xxs", (*TRUNK_TENSORS, "llama-imatrix")),
    "all but two tensors": (lambda n: n not in TRUNK_TENSORS, 1, "q4_k_m", None),
    "not one block": (lambda n: "blk.2." not in n, 1, "q4_k_m", ("blk.2.", "is not an importance matrix of")),
    "only the output": (lambda n: n == "output.weight", 1, "q4_k_m", ("blk.0.", "is not an importance matrix of")),
    "of a wider model": (lambda n: True, 2, "q4_k_m", ("512 values", "256 columns", "is not an importance matrix of")),
}


@pytest.mark.parametrize("kind", COVERAGE)
def test_a_matrix_must_cover_the_model(model, checkpoint, tmp_path, capsys, caplog, monkeypatch, kind):
    keep, wider, outtype, words = COVERAGE[kind]
    some = write_matrix(tmp_path / "some.gguf", model, keep, wider)
    out = tmp_path / "out.gguf"
    monkeypatch.setattr(quantize, "replacing", None)  # nothing is written, not even under another name
    monkeypatch.setattr(convert, "temporary", None)
    convert_it = ["convert", str(checkpoint), "-o", str(out), "--outtype", outtype, "--imatrix", str(some)]
    if words is None:
        monkeypatch.undo()
        assert main(["quantize", str(model), str(out), outtype, "--imatrix", str(some)]) == 0
        lacking = [name for name in read_header(model).tensors if name.startswith("blk.") and not keep(name)]
        warned = [record.getMessage() for record in caplog.records if record.name.endswith("imatrix")]
        assert len(warned) == bool(lacking)
        assert all(str(some) in line and lacking[0][:6] in line for line in warned)
        assert main([*convert_it, "--dry-run"]) == 0
        return
    for arguments in (
        ["quantize", str(model), str(out), outtype, "--imatrix", str(some)],
        convert_it,
        [*convert_it, "--dry-run"],
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith(f"darwin-neg: error: {some}: "), said
        assert all(word in said for word in words), said
    assert [path.name for path in tmp_path.iterdir()] == ["some.gguf"]


def test_a_matrix_of_a_deeper_model_is_refused(model, tmp_path, capsys):
    some = write_matrix(tmp_path / "some.gguf", model)
    some.write_bytes(some.read_bytes().replace(b"blk.3.", b"blk.9."))
    said = refused(capsys, str(model), str(tmp_path / "out.gguf"), "q4_k_m", "--imatrix", str(some))
    assert "blk.9." in said and "the model has 5 blocks" in said


def test_the_block_ahead_left_out_gives_the_type_that_was_refused(checkpoint, model, tmp_path):
    some = write_matrix(tmp_path / "some.gguf", model, lambda name: MTP not in name)
    out = tmp_path / "out.gguf"
    convert_it = ["convert", str(checkpoint), "-o", str(out), "--outtype", "iq2_xs", "--imatrix", str(some)]
    assert main([*convert_it, "--no-mtp"]) == 0
    assert "IQ2_XS" in {info.type.name for info in read_header(out).tensors.values()}


def test_a_file_that_is_no_matrix_is_one_line(model, tmp_path, capsys):
    def as_u64(path: Path) -> None:
        write_matrix(path, model)
        old, new = (struct.pack("<I", kind) + struct.pack("<I", 10) for kind in (4, 5))
        data = path.read_bytes()
        assert data.count(b"imatrix.chunk_count" + old) == 1
        path.write_bytes(data.replace(b"imatrix.chunk_count" + old, b"imatrix.chunk_count" + new))

    path = tmp_path / "matrix"
    for make, says in (
        (lambda: path.write_text("a few words of text, which are no matrix\n" * 9), "is not an importance matrix"),
        (lambda: path.write_bytes(struct.pack("<iii", 1, -5, 3) + bytes(99)), "is not an importance matrix"),
        (lambda: path.write_bytes(struct.pack("<ii", 1, 2**31 - 1) + bytes(99)), "is not an importance matrix"),
        (lambda: path.write_bytes(b""), "is not an importance matrix"),
        (lambda: path.write_bytes(write_matrix(path, model).read_bytes()[:5000]), "past the end"),
        (lambda: as_u64(path), "imatrix.chunk_count"),
    ):
        make()
        said = refused(capsys, str(model), str(tmp_path / "out.gguf"), "q4_k_m", "--imatrix", str(path))
        assert f"{path}: " in said and says in said


def test_requantizing_is_asked_for(model, tmp_path, capsys):
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    assert main(["quantize", str(model), str(first), "q4_k_m"]) == 0
    assert "--allow-requantize" in refused(capsys, str(first), str(second), "q3_k_m")
    assert main(["quantize", str(first), str(second), "q3_k_m", "--allow-requantize"]) == 0
    assert {info.type.name for info in read_header(second).tensors.values()} >= {"Q3_K"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({*quantize.TYPES, *quantize.ALIASES}))
def test_every_type_gives_a_file_or_one_line(model, matrix, tmp_path, capsys, kind):
    """Without a matrix, and with it: then every type comes out that llama.cpp can make of a dense model."""
    made = []
    for more in ([], ["--imatrix", str(matrix)]):
        out = tmp_path / f"{len(more)}.gguf"
        code = main(["quantize", str(model), str(out), kind, *more])
        said = capsys.readouterr().err
        assert code in (0, 2), said
        if not more:  # which types need a matrix is for the quantizer to say
            assert (code == 2) == (kind in convert.NEED_IMATRIX), said
        if code == 2:
            assert said.count("\n") == 1 and said.startswith("darwin-neg: error: "), said
            assert not out.exists()
            continue
        made.append(out)
        neg_format.read_head(out)
        types = quantize.dry_run(model, kind, with_imatrix=bool(more))
        _, file_size = quantize.quantized_bytes(read_header(model), types)
        assert out.stat().st_size == file_size
    assert made, "neither with nor without a matrix"


def test_types_that_need_a_matrix_are_refused_before_anything_is_written(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(write, "write_into", lambda *_, **__: pytest.fail("it began to write"))
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "a.gguf"), "--outtype", "iq2_xs"]) == 2
    assert "importance matrix" in capsys.readouterr().err


def test_conversion_refuses_early_what_cannot_end_well(checkpoint, tmp_path, monkeypatch, capsys):
    """Before a checkpoint is so much as looked for."""
    monkeypatch.setattr(source, "find", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "there.gguf").write_bytes(b"old")
    folder, there, new = str(checkpoint), str(tmp_path / "there.gguf"), str(tmp_path / "new.gguf")
    nothing = str(tmp_path / "nothing")
    for arguments, word in (
        (["--outtype", "q9_k"], "q9_k"),
        (["--outtype", "q4_k_m", "--imatrix", nothing], "no such file"),
        (["--imatrix", nothing], "importance matrix"),
        (["-o", there], "--force"),
        (["-o", new, "--side-car", there], "--force"),
        (["-o", nothing + "/x.gguf"], "no such folder"),
        (["-o", new, "--side-car", nothing + "/x.gguf"], "no such folder"),
        (["-o", new, "--side-car", new], "two names"),
        (["-o", new, "--head", nothing], "no such file"),
    ):
        assert main(["convert", folder, *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and word in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.gguf"]


def test_without_the_engine_a_quantized_type_is_refused_early(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "darwin_neg_cpp._core", None)
    monkeypatch.delattr("darwin_neg_cpp._core", raising=False)
    monkeypatch.setattr(source, "find", lambda *_, **__: pytest.fail("it began"))
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "a.gguf"), "--outtype", "q4_k_m"]) == 1
    assert "needs the compiled engine" in capsys.readouterr().err


def test_an_error_of_the_quantizer_about_what_it_reads_names_the_checkpoint(checkpoint, tmp_path, monkeypatch):
    def broken(model: str, temp: str, *_: object, **__: object) -> None:
        raise DarwinNegError(f"{model}: cannot be quantized")

    monkeypatch.setattr(convert, "quantize", broken)
    out = tmp_path / "out.gguf"
    plan = convert.plan(convert.Source(checkpoint, None), outtype="q4_k_m")
    with pytest.raises(DarwinNegError, match=f"^{checkpoint}: cannot be quantized$"):
        convert.write_quantized(plan, out, "q4_k_m")
    assert list(tmp_path.iterdir()) == []


def test_what_the_quantizer_leaves_out_is_not_blamed_on_the_disk(model, tmp_path, monkeypatch):
    out = tmp_path / "out.gguf"

    def leaves_out(core: object, path: str, temp: Path, *_: object) -> None:
        header = read_header(path)
        keys, names = {}, list(header.tensors)[1:]
        tensors = {name: np.zeros(header.tensors[name].shape[::-1], np.float32) for name in names}
        write_gguf(temp, "llama", keys, tensors)

    monkeypatch.setattr(quantize, "_run", leaves_out)
    first = next(iter(read_header(model).tensors))
    with pytest.raises(ModelFileError) as raised:
        quantize.quantize(model, out, "q8_0")
    assert re.match(
        f"{model}: llama.cpp's quantizer writes other tensors than the model has .*{first}", str(raised.value)
    )
    assert "disk" not in str(raised.value) and list(tmp_path.iterdir()) == []


def test_what_the_quantizer_has_written_and_cannot_be_read_is_not_blamed_on_the_model(model, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "_run", lambda core, path, temp, *_: temp.write_bytes(b"GGUF" + bytes(8)))
    with pytest.raises(
        OutputError, match=rf"out\.gguf: what llama.cpp's quantizer made of {model} cannot be read \(.+\)"
    ):
        quantize.quantize(model, tmp_path / "out.gguf", "q8_0")


@pytest.mark.parametrize("threads", ["2", 1.5, True, 2**70, -1])
def test_a_number_of_threads_that_is_none_is_refused(model, tmp_path, threads):
    with pytest.raises(RequestError, match=r"^threads must be"):
        quantize.quantize(model, tmp_path / "out.gguf", "q8_0", threads=threads)


def test_only_one_file_is_in_between_and_it_is_open_when_it_is_written(checkpoint, tmp_path, monkeypatch):
    """Windows cannot replace an open file, and a hidden file beside a hidden file would never be cleared up."""
    seen: list[str] = []
    honest = quantize.quantize

    def looking(model: Path, *arguments: object, **options: object) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        assert model.name in seen
        honest(model, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "quantize", looking)
    out = tmp_path / "out.gguf"
    convert.write_quantized(convert.plan(convert.Source(checkpoint, None), outtype="q4_k_m"), out, "q4_k_m")
    assert len(seen) == 1 and seen[0].startswith(".out.gguf.tmp-")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
