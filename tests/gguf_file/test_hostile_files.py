"""What attach, detach and inspect promise for files of every make, beyond neg/test_files.py; gguf-py is the witness."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.errors import DarwinNegError, ModelFileError, NegHeadError
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format
from darwin_neg_cpp.neg import info as gguf_info
from darwin_neg_cpp.neg.head import random_head
from engine_child import Load, Outcome, outcomes
from handmade import good_side_car, released_entries, with_head, write_gguf, write_safetensors
from hostile_files import HOSTILE, Hostile, not_aligned
from tiny_gguf import HIDDEN, write_tiny_llama


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("neg") / "model.gguf")


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("neg") / "neg_modules.safetensors", released_entries(HIDDEN))


def large_model(path: Path, megabytes: int) -> Path:
    """A model whose copy takes long enough to be interrupted."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(HIDDEN)
    for i in range(megabytes):
        writer.add_tensor(f"blk.{i}.ffn_up.weight", np.full((1 << 20) // 4, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(path: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, list[int], bytes]]]:
    """Keys and tensors as gguf-py reads them."""
    reader = gguf.GGUFReader(path)
    keys = {k: (f.types, f.contents()) for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    return keys, {t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}


def without_neg(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if not name.startswith("neg.")}


def in_child(work: Callable[[], object]) -> int:
    """Process id of a fork that does `work` and exits: 0, or 1 after an exception."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            result = work()
            code = result if isinstance(result, int) else 0
        os._exit(code)
    return pid


# --- round trips


def test_head_survives_side_car_and_model_unchanged(model: Path, modules: Path, tmp_path: Path) -> None:
    neg_files.write_side_car(modules, model, tmp_path / "side.gguf")
    neg_files.attach(model, tmp_path / "side.gguf", tmp_path / "a.gguf")
    neg_files.detach(tmp_path / "a.gguf", tmp_path / "b.gguf", side_car=tmp_path / "side2.gguf")
    neg_files.attach(model, tmp_path / "a.gguf", tmp_path / "c.gguf")
    assert (tmp_path / "side2.gguf").read_bytes() == (tmp_path / "side.gguf").read_bytes()
    assert (tmp_path / "c.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_side_car_names_its_backbone(model: Path, modules: Path, tmp_path: Path) -> None:
    neg_files.write_side_car(modules, model, tmp_path / "side.gguf")
    keys, tensors = contents(tmp_path / "side.gguf")
    norm = next(t for t in gguf.GGUFReader(model).tensors if t.name == "output_norm.weight").data
    assert keys["general.architecture"][1] == "neg"
    assert keys["neg.n_embd"][1] == HIDDEN
    assert keys["neg.base_arch"][1] == "llama"
    assert keys["neg.base_norm_sha256"][1] == hashlib.sha256(norm.astype("<f4").tobytes()).hexdigest()
    assert set(tensors) == set(neg_format.TENSORS)


KEY_VALUES = st.one_of(
    st.tuples(st.just(gguf.GGUFValueType.STRING), st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)),
    st.tuples(st.just(gguf.GGUFValueType.UINT64), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(gguf.GGUFValueType.INT8), st.integers(-128, 127)),
    st.tuples(st.just(gguf.GGUFValueType.BOOL), st.booleans()),
    st.tuples(st.just(gguf.GGUFValueType.FLOAT64), st.floats(allow_nan=False)),
    st.tuples(
        st.just(gguf.GGUFValueType.ARRAY),
        st.lists(st.text(st.characters(codec="utf-8"), max_size=9), min_size=1, max_size=9),
    ),
    st.tuples(st.just(gguf.GGUFValueType.ARRAY), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9)),
)
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
TYPES = [
    gguf.GGMLQuantizationType.F32,
    gguf.GGMLQuantizationType.F16,
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.Q4_0,
]


@settings(max_examples=60, deadline=None)
@given(
    keys=st.dictionaries(NAMES.map("x.{}".format), KEY_VALUES, max_size=6),
    shapes=st.dictionaries(NAMES, st.tuples(st.integers(1, 5), st.sampled_from(TYPES)), min_size=1, max_size=6),
    alignment=st.sampled_from([None, 8, 32, 64, 4096]),
    seed=st.integers(0, 99),
)
def test_any_model_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    keys: dict[str, Any],
    shapes: dict[str, Any],
    alignment: int | None,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    writer = gguf.GGUFWriter(folder / "in.gguf", "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_embedding_length(HIDDEN)
    for key, (kind, value) in keys.items():
        sub = None
        if kind == gguf.GGUFValueType.ARRAY:
            sub = gguf.GGUFValueType.STRING if isinstance(value[0], str) else gguf.GGUFValueType.INT32
        writer.add_key_value(key, value, kind, sub)
    rng = np.random.default_rng(seed)
    for name, (rows, kind) in shapes.items():
        data = rng.standard_normal((rows, 32)).astype(np.float32)
        writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    neg_files.attach(folder / "in.gguf", random_head(HIDDEN, seed), folder / "with.gguf")
    before, after = contents(folder / "in.gguf"), contents(folder / "with.gguf")
    assert (without_neg(after[0]), without_neg(after[1])) == before
    neg_files.detach(folder / "with.gguf", folder / "out.gguf")
    assert (folder / "out.gguf").read_bytes() == (folder / "in.gguf").read_bytes()


def test_copy_without_kernel_help_gives_the_same_file(
    model: Path, modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neg_files.attach(model, modules, tmp_path / "kernel.gguf")

    def refuse(*_args: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    neg_files.attach(model, modules, tmp_path / "plain.gguf")
    assert (tmp_path / "plain.gguf").read_bytes() == (tmp_path / "kernel.gguf").read_bytes()


def test_progress_ends_at_the_total_and_never_goes_back(model: Path, modules: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    neg_files.attach(model, modules, tmp_path / "out.gguf", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] > 0


# --- the released layout


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_released_layout_is_read_in_every_float_type(tmp_path: Path, dtype: str) -> None:
    entries = released_entries(HIDDEN)
    if dtype == "F16":
        entries = {name: array.astype(np.float16) for name, array in entries.items()}
    path = write_safetensors(tmp_path / "m.safetensors", entries)
    if dtype == "BF16":
        # the upper half of a float32, written by hand
        halves = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in entries.items()}
        text = path.read_bytes()
        header = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
        at = 0
        for name, array in halves.items():
            header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
            at += array.nbytes
        raw = json.dumps(header).encode()
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(a.tobytes() for a in halves.values()))
        entries = {name: (a.astype(np.uint32) << 16).view(np.float32) for name, a in halves.items()}
    head = neg_format.read_safetensors(str(path))
    for array, name in (
        (head.down_w, "head.proj_down.weight"),
        (head.down_b, "head.proj_down.bias"),
        (head.out_b, "head.proj_out.bias"),
    ):
        assert array.dtype == np.float32
        assert np.array_equal(array, entries[name].astype(np.float32))
    assert np.array_equal(head.out_w, entries["head.proj_out.weight"].astype(np.float32)[0])
    assert (head.threshold, head.temp_scale) == (float(entries["gate.threshold"]), float(entries["gate.temp_scale"]))
    assert (head.top_k, head.temp_enabled) == (20, False)


def test_scalars_may_have_one_dimension_and_temp_scale_may_be_absent(tmp_path: Path) -> None:
    entries = released_entries(HIDDEN)
    entries["gate.threshold"] = entries["gate.threshold"].reshape(1)
    del entries["gate.temp_scale"]
    head = neg_format.read_safetensors(str(write_safetensors(tmp_path / "m.safetensors", entries)))
    assert head.threshold == pytest.approx(1.175187349319458)
    assert head.temp_scale == 1.0


def test_a_shard_of_a_model_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00004.safetensors"
    text = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [1 << 32], "data_offsets": [0, 1 << 34]}}).encode()
    with path.open("wb") as file:  # 16 GiB, of which the disk holds nothing
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + (1 << 34))
    started = time.monotonic()
    with pytest.raises(NegHeadError, match="lm_head"):
        neg_format.read_safetensors(str(path))
    assert time.monotonic() - started < 5


# --- refusals


@pytest.mark.parametrize("row", [row for row in HOSTILE if row.kind != "runtime"], ids=lambda row: row.name)
def test_hostile_file_gives_one_line_and_no_output(
    row: Hostile, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = row.make(tmp_path, model)
    side_car = good_side_car(tmp_path / "good-side-car.gguf", model)
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.gguf"
    as_model: list[Callable[[], object]] = [
        lambda: neg_files.attach(bad, side_car, out),
        lambda: neg_files.detach(bad, out),
        lambda: gguf_info.info(bad),
    ]
    as_head: list[Callable[[], object]] = [
        lambda: neg_files.attach(model, bad, out),
        lambda: neg_files.write_side_car(bad, model, out),
    ]
    if not row.only_with_model:
        as_head.append(lambda: neg_files.inspect(bad))
    for calls, error in ((as_model if row.kind == "model" else [], ModelFileError), (as_head, NegHeadError)):
        for call in calls:
            with pytest.raises(error) as caught:
                call()
            check_message(str(caught.value), bad, row.words)
    if not row.only_with_model:
        assert main(["neg", "inspect", str(bad)]) == 2
        said = capfd.readouterr().err
        assert said.startswith("darwin-neg: error: ") and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def loaded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, Outcome]]:
    """By row and use ("model" or "neg"): the bad file, and what the engine made of it."""
    folder = tmp_path_factory.mktemp("loaded")
    loads: dict[tuple[str, str], Load] = {}
    for i, row in enumerate(HOSTILE):
        (folder / str(i)).mkdir()
        bad = row.make(folder / str(i), model)
        if not row.a_model:
            loads[row.name, "model"] = Load(bad)
        if row.kind != "runtime":
            loads[row.name, "neg"] = Load(model, bad)
    found = outcomes(list(loads.values()), folder)
    return {key: (load.neg or load.model, outcome) for (key, load), outcome in zip(loads.items(), found, strict=True)}


def rows_for(use: str) -> list[Any]:
    skipped = {"model": lambda row: row.a_model, "neg": lambda row: row.kind == "runtime"}[use]
    return [pytest.param(row, id=row.name) for row in HOSTILE if not skipped(row)]


@pytest.mark.parametrize("row", rows_for("model"))
def test_engine_refuses_a_hostile_model_without_abort(
    row: Hostile, loaded: dict[tuple[str, str], tuple[Path, Outcome]]
) -> None:
    bad, outcome = loaded[row.name, "model"]
    assert outcome.error == ("NegHeadError" if row.kind == "head" else "ModelFileError"), outcome
    check_message(outcome.message, bad, row.words if row.kind in ("model", "runtime", "head") else ())


def test_the_quantizer_never_aborts(model: Path, tmp_path: Path) -> None:
    rows = [row for row in HOSTILE if row.kind in ("model", "runtime", "head") and not row.a_model]
    loads = []
    for i, row in enumerate(rows):
        (tmp_path / str(i)).mkdir()
        loads.append(Load(row.make(tmp_path / str(i), model), quantize=True))
    found = dict(zip((row.name for row in rows), outcomes(loads, tmp_path), strict=True))
    strange = {name: one for name, one in found.items() if one.error not in ("", "ModelFileError", "NegHeadError")}
    assert strange == {}
    # nothing of these stands in the way of other weights
    assert {name for name, one in found.items() if not one.error} == {"data aligned to 8 bytes", "a token twice"}


@pytest.mark.parametrize("row", rows_for("neg"))
def test_engine_refuses_a_hostile_head_without_abort(
    row: Hostile, loaded: dict[tuple[str, str], tuple[Path, Outcome]]
) -> None:
    bad, outcome = loaded[row.name, "neg"]
    # a file of a different type, or none at all, is not a head either way
    assert outcome.error == "NegHeadError" or (
        outcome.error == "ModelFileError" and row.kind in ("model", "safetensors")
    )
    check_message(outcome.message, bad, row.words if row.kind in ("head", "side-car") else ())


def test_data_that_is_not_aligned_loads_without_mmap(model: Path, tmp_path: Path) -> None:
    bad = not_aligned(tmp_path, model)
    with (
        DarwinNEG(bad, n_ctx=64, n_parallel=1, use_mmap=False) as llm,
        DarwinNEG(model, n_ctx=64, n_parallel=1) as good,
    ):
        assert [m.generate("abc", max_tokens=8, temperature=0).token_ids.tolist() for m in (llm, good)].count(
            good.generate("abc", max_tokens=8, temperature=0).token_ids.tolist()
        ) == 2


def test_text_that_the_log_cuts_within_a_character_is_no_error(model: Path, tmp_path: Path) -> None:
    name = "模型" * 20  # llama.cpp prints 37 bytes of it
    keys = {"general.name": (gguf.GGUFValueType.STRING, name)}
    path = write_gguf(tmp_path / "named.gguf", "llama", keys, {}, gguf.GGUFReader(model))
    with DarwinNEG(path, n_ctx=64, n_parallel=1) as llm:
        assert llm.metadata["general.name"] == name


def check_message(message: str, path: Path, words: tuple[str, ...]) -> None:
    assert str(path) in message
    assert message.isprintable(), repr(message)
    assert len(message) < 600
    for word in words:
        assert word in message


def test_the_same_backbone_in_half_precision_is_accepted(model: Path, modules: Path, tmp_path: Path) -> None:
    norm = np.ones(HIDDEN, np.float32)
    keys = {"llama.embedding_length": (gguf.GGUFValueType.UINT32, HIDDEN)}
    full = write_gguf(tmp_path / "f32.gguf", "llama", keys, {"output_norm.weight": norm})
    half = write_gguf(tmp_path / "f16.gguf", "llama", keys, {"output_norm.weight": norm.astype(np.float16)})
    neg_files.write_side_car(modules, full, tmp_path / "side.gguf")
    neg_files.attach(half, tmp_path / "side.gguf", tmp_path / "out.gguf")
    assert neg_files.inspect(tmp_path / "out.gguf").form == "model"


def test_a_second_head_needs_replace(model: Path, modules: Path, tmp_path: Path) -> None:
    neg_files.attach(model, modules, tmp_path / "one.gguf")
    with pytest.raises(NegHeadError, match="replace=True"):
        neg_files.attach(tmp_path / "one.gguf", random_head(HIDDEN, 3), tmp_path / "two.gguf")
    neg_files.attach(tmp_path / "one.gguf", random_head(HIDDEN, 3), tmp_path / "two.gguf", replace=True)
    neg_files.attach(model, random_head(HIDDEN, 3), tmp_path / "direct.gguf")
    assert (tmp_path / "two.gguf").read_bytes() == (tmp_path / "direct.gguf").read_bytes()


def test_split_side_car_and_projector_are_refused_as_models(model: Path, modules: Path, tmp_path: Path) -> None:
    u16, u32 = gguf.GGUFValueType.UINT16, gguf.GGUFValueType.UINT32
    embedding = {"llama.embedding_length": (u32, HIDDEN)}
    split = write_gguf(tmp_path / "split.gguf", "llama", {**embedding, "split.count": (u16, 2)}, {})
    with pytest.raises(ModelFileError, match="gguf-split --merge"):
        neg_files.attach(split, modules, tmp_path / "out.gguf")
    projector = write_gguf(tmp_path / "mmproj.gguf", "clip", {"clip.vision.embedding_length": (u32, HIDDEN)}, {})
    with pytest.raises(ModelFileError, match="language model"):
        neg_files.attach(projector, modules, tmp_path / "out.gguf")
    side_car = good_side_car(tmp_path / "side.gguf", model)
    for call in (
        lambda: neg_files.attach(side_car, modules, tmp_path / "out.gguf"),
        lambda: neg_files.detach(side_car, tmp_path / "out.gguf"),
    ):
        with pytest.raises(ModelFileError, match="side-car"):
            call()
    with pytest.raises(NegHeadError, match="nothing to detach"):
        neg_files.detach(model, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_existing_output_is_kept_unless_forced(model: Path, modules: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    for call in (lambda: neg_files.attach(model, modules, out), lambda: neg_files.write_side_car(modules, model, out)):
        with pytest.raises(DarwinNegError, match="force=True"):
            call()
    assert out.read_bytes() == b"precious"
    neg_files.attach(model, modules, out, force=True)
    assert neg_files.inspect(out).form == "model"


def test_pipes_are_refused_and_do_not_block(model: Path, modules: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def refused(call: Callable[[], object]) -> Callable[[], int]:
        def work() -> int:
            signal.alarm(5)  # a blocked open ends the child
            with pytest.raises(DarwinNegError):
                call()
            return 0

        return work

    out = tmp_path / "out.gguf"
    calls = (
        lambda: neg_files.attach(pipe, modules, out),
        lambda: neg_files.attach(model, pipe, out),
        lambda: neg_files.attach(model, modules, pipe, force=True),
        lambda: gguf_info.info(pipe),
    )
    for call in calls:
        assert os.waitpid(in_child(refused(call)), 0)[1] == 0


@pytest.mark.parametrize("name", ["a\0b.gguf", "x" * 300 + ".gguf", "no/such/folder/m.gguf"])
def test_impossible_names_are_one_line(model: Path, modules: Path, tmp_path: Path, name: str) -> None:
    bad = f"{tmp_path}/{name}"
    for call in (
        lambda: neg_files.attach(bad, modules, tmp_path / "out.gguf"),
        lambda: neg_files.attach(model, bad, tmp_path / "out.gguf"),
        lambda: neg_files.attach(model, modules, bad),
    ):
        with pytest.raises((DarwinNegError, OSError)) as caught:
            call()
        assert isinstance(caught.value, DarwinNegError) and "\n" not in str(caught.value)


# --- interruptions


def test_a_living_writer_keeps_its_temporary_file(modules: Path, tmp_path: Path) -> None:
    model = large_model(tmp_path / "large.gguf", 8)
    out = tmp_path / "out.gguf"
    entered = False

    def second_run(_done: int, _total: int) -> None:
        nonlocal entered
        if not entered:
            entered = True
            assert os.waitpid(in_child(lambda: neg_files.attach(model, modules, out, force=True)), 0)[1] == 0

    neg_files.attach(model, modules, out, force=True, progress=second_run)
    assert entered
    assert neg_files.inspect(out).head.n_embd == HIDDEN
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.gguf", "out.gguf"]


def test_an_interrupt_removes_the_temporary_file(model: Path, modules: Path, tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        neg_files.attach(model, modules, tmp_path / "out.gguf", progress=stop)
    assert list(tmp_path.iterdir()) == []


# --- hostile bytes at random


@pytest.mark.slow
def test_2000_mutated_headers_give_our_errors_quickly_and_in_bounded_memory(
    model: Path, modules: Path, tmp_path: Path
) -> None:
    neg_files.attach(model, modules, tmp_path / "with.gguf")
    good = (tmp_path / "with.gguf").read_bytes()
    header = read_header(tmp_path / "with.gguf").data_start
    path = tmp_path / "mutated.gguf"

    def fuzz() -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), used + (256 << 20)))
        rng = random.Random(1)
        refused = 0
        for _ in range(2000):
            bad = bytearray(good)
            for _ in range(rng.randint(1, 8)):
                at = rng.randrange(header)
                bad[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256), bad[at] ^ (1 << rng.randrange(8))])
            path.write_bytes(bad)
            started = time.monotonic()
            for call in (gguf_info.info, neg_files.inspect):
                try:
                    call(path)
                except DarwinNegError as error:
                    refused += 1
                    if not str(error).isprintable():
                        return 3
            if time.monotonic() - started > 2:
                return 4
        return 0 if refused > 200 else 5

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(fuzz), 0)[1]) == 0


@pytest.mark.slow
def test_200_mutated_models_give_our_errors_from_the_engine_too(model: Path, tmp_path: Path) -> None:
    """As above, with fewer wrong bytes in a file: more of them reach llama.cpp's loader, and some get through it."""
    good = with_head(tmp_path / "with.gguf", model)
    header = read_header(good)
    # two tokens made equal are a row of the table
    tokens = header.keys["tokenizer.ggml.tokens"]
    places = [at for at in range(24, header.data_start) if not tokens.begin <= at < tokens.end]
    rng = random.Random(3)
    loads = []
    for i in range(200):
        bad = bytearray(good.read_bytes())
        for _ in range(rng.randint(1, 2)):
            bad[rng.choice(places)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(bad)
        loads.append(Load(path, generate=True))
    found = outcomes(loads, tmp_path)
    strange = [
        (load.model.name, outcome)
        for load, outcome in zip(loads, found, strict=True)
        if outcome.error not in ("", "ModelFileError", "NegHeadError") or not outcome.message.isprintable()
    ]
    assert strange == []
    refused = sum(outcome.error != "" for outcome in found)
    assert 20 < refused < 180, "too few got through, or none: the test proves little"


@pytest.mark.slow
def test_2000_mutated_safetensors_give_our_errors_only(modules: Path, tmp_path: Path) -> None:
    good = modules.read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    path = tmp_path / "mutated.safetensors"
    rng = random.Random(2)
    refused = 0
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(end)] = rng.choice([0, 0xFF, ord("9"), ord('"'), ord("{"), rng.randrange(256)])
        path.write_bytes(bad)
        try:
            neg_format.read_safetensors(str(path))
        except NegHeadError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > 500


# --- the command line


def test_cli_attach_detach_inspect(
    model: Path, modules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "m.Q4_K_M.gguf"
    source.write_bytes(model.read_bytes())
    assert main(["neg", "attach", str(source), str(modules)]) == 0
    attached = tmp_path / "m.Q4_K_M-neg.gguf"
    assert (
        main(["neg", "detach", str(attached), "-o", str(tmp_path / "d.gguf"), "--side-car", str(tmp_path / "s.gguf")])
        == 0
    )
    assert (tmp_path / "d.gguf").read_bytes() == source.read_bytes()
    capsys.readouterr()
    for path, form in ((attached, "model"), (tmp_path / "s.gguf", "side-car"), (modules, "safetensors")):
        assert main(["neg", "inspect", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["form"], found["top_k"]) == (form, 20)
        assert digest(modules) in found["source"]


def test_cli_bad_input_is_exit_code_2_and_one_line(
    model: Path, modules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for argv in (
        ["neg", "attach", str(tmp_path / "none.gguf"), str(modules)],
        ["neg", "attach", str(modules), str(model), "-o", str(tmp_path / "x.gguf")],
        ["neg", "attach", str(model), str(modules), "-o", str(model)],
        ["neg", "attach", str(model)],
        ["neg", "inspect", str(model)],
        ["neg", "detach", str(model), "-o", str(tmp_path / "x.gguf")],
    ):
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_cli_random_head_says_that_it_is_random(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in ("a.gguf", "b.gguf"):
        assert main(["neg", "attach", str(model), "--random", "7", "-o", str(tmp_path / out)]) == 0
        assert "RANDOM" in capsys.readouterr().err
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert "random" in neg_files.inspect(tmp_path / "a.gguf").head.source.lower()
