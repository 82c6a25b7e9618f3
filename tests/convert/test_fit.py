"""What fits in a memory: sizes are those of files that llama.cpp's quantizer writes and of memory that it allocates."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from command_line import refusal
from conftest import ROOT, TinyQwen
from darwin_neg_cpp import DarwinNEG, demo_model
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, fit, quantize, released, write
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg.head import random_head
from handmade import write_matrix
from oracles import qwen_vocabulary, stock, tiny_tokenizer
from tiny_gguf import HIDDEN, write_tiny_llama
from tiny_hybrid import write_tiny_hybrid

GB = 10**9
SIZES = "4GB,6GB,8GB,12GB,16GB"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every row is a multiple of the largest block, and llama.cpp runs it."""
    base = tmp_path_factory.mktemp("checkpoint")
    heads = {"linear_num_value_heads": 4, "linear_value_head_dim": 64, "linear_key_head_dim": 64}
    tokenizer = tiny_tokenizer.write(base / "tokenizer")
    shape = {"head_dim": 64, **heads}
    return tiny_tokenizer.write_checkpoint(base / "checkpoint", tokenizer, hidden=256, n_ff=256, text=shape)


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In BF16, with its head and a block that predicts further tokens."""
    out = tmp_path_factory.mktemp("model") / "model.gguf"
    write.write(convert.plan(convert.Source(checkpoint, None), outtype="bf16"), out)
    return out


def whole(path: Path | None, *, sizes: tuple[int, ...] = (GB,), **options: Any) -> fit.Report:
    return fit.fit(path, sizes, **options)


# --- sizes of files


@pytest.mark.parametrize("kind", [kind for kind in fit.LADDER if kind not in convert.NEED_IMATRIX])
def test_a_file_has_the_size_that_llama_quantize_gives_it(model: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out.gguf"
    command = [stock.binaries()["llama-quantize"], str(model), str(out), kind.upper()]
    subprocess.run(command, check=True, capture_output=True)
    (row,) = (row for row in whole(model).memory[0].fits if row.type == kind)
    assert row.file == out.stat().st_size
    assert not row.needs_imatrix
    types = quantize.dry_run(model, kind)
    written = read_header(out).tensors
    for name, info in read_header(model).tensors.items():
        assert types.get(name, info.type) == written[name].type, name


@pytest.mark.parametrize("write_model", [write_tiny_llama, write_tiny_hybrid])
def test_sizes_hold_for_shapes_that_no_large_block_divides(tmp_path: Path, write_model: Any) -> None:
    """Where the quantizer falls back to other types, and for keys that the file does not have yet."""
    model = write_model(tmp_path / "model.gguf")
    found = {row.type: row.file for row in whole(model).memory[0].fits}
    for kind in ("q8_0", "q4_k_m", "iq4_xs", "q2_k"):
        quantize.quantize(model, tmp_path / f"{kind}.gguf", kind)
        assert found[kind] == (tmp_path / f"{kind}.gguf").stat().st_size, kind
    assert found["f32"] == model.stat().st_size


def test_a_split_model_is_sized_as_the_one_file_that_is_made_of_it(tmp_path: Path) -> None:
    first = write_tiny_llama(tmp_path / "model.gguf", split=5)
    found = {row.type: row.file for row in whole(first).memory[0].fits}
    quantize.quantize(first, tmp_path / "out.gguf", "q8_0")
    assert found["q8_0"] == (tmp_path / "out.gguf").stat().st_size
    assert found["f32"] == sum(path.stat().st_size for path in tmp_path.glob("model-*.gguf"))


@pytest.mark.slow
def test_types_that_need_a_matrix_are_sized_with_one_and_marked(model: Path, tmp_path: Path) -> None:
    rows = {row.type: row for row in whole(model).memory[0].fits if row.needs_imatrix}
    assert rows.keys() == {"iq3_xxs", "iq2_m", "iq2_xxs"}
    matrix = write_matrix(tmp_path / "matrix.gguf", model)
    quantize.quantize(model, tmp_path / "out.gguf", "iq2_m", imatrix=matrix)
    assert rows["iq2_m"].file == (tmp_path / "out.gguf").stat().st_size


def test_a_checkpoint_is_sized_like_the_file_that_is_made_of_it(checkpoint: Path, model: Path) -> None:
    assert whole(checkpoint).memory == whole(model).memory
    assert whole(checkpoint).model.contexts == whole(model).model.contexts


def test_a_quantized_file_is_taken_as_it_is(model: Path, tmp_path: Path) -> None:
    quantize.quantize(model, tmp_path / "q4.gguf", "q4_k_m")
    report = whole(tmp_path / "q4.gguf")
    assert not report.model.can_be_quantized
    (row,) = report.memory[0].fits
    assert (row.type, row.file) == ("q4_k_m", (tmp_path / "q4.gguf").stat().st_size)
    as_planned = next(row for row in whole(model).memory[0].fits if row.type == "q4_k_m")
    assert row == as_planned
    gpu = report.memory[0].gpu
    assert gpu is not None and gpu.type == "q4_k_m"


# --- memory, as llama.cpp reports it when it has allocated it


def loadable(kind: str, folder: Path, request: pytest.FixtureRequest) -> Path:
    if kind == "llama":
        return write_tiny_llama(folder / "llama.gguf")
    if kind == "hybrid":
        return write_tiny_hybrid(folder / "hybrid.gguf")
    if kind == "qwen":
        tiny_qwen: TinyQwen = request.getfixturevalue("tiny_qwen")
        return tiny_qwen.model
    return demo_model.model_path()


@pytest.mark.parametrize(
    ("kind", "n_ctx", "n_parallel"),
    [("llama", 256, 1), ("llama", 512, 8), ("hybrid", 256, 1), ("hybrid", 512, 8), ("qwen", 512, 8), ("demo", 512, 3)],
)
def test_caches_and_buffers_are_those_of_the_log(
    kind: str,
    n_ctx: int,
    n_parallel: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = loadable(kind, tmp_path, request)
    caplog.set_level(logging.DEBUG, "darwin_neg_cpp.llama")
    # a file that is mapped counts as a whole
    with DarwinNEG(model, n_ctx=n_ctx, n_parallel=n_parallel, n_gpu_layers=0, use_mmap=False):
        logged = "\n".join(record.getMessage() for record in caplog.records)

    def mib(what: str) -> float:
        return sum(float(size) for size in re.findall(rf"{what} buffer size = +([0-9.]+) MiB", logged))

    report = whole(model, n_ctx=n_ctx, n_parallel=n_parallel)
    context = report.model.contexts[0]
    assert mib("KV") > 0 and mib("compute") > 0
    assert context.kv_cache / 2**20 == pytest.approx(mib("KV"), abs=0.006)
    assert context.recurrent / 2**20 == pytest.approx(mib("RS"), abs=0.006)
    assert context.compute / 2**20 == pytest.approx(mib("compute"), abs=0.006)
    assert (context.recurrent > 0) == (read_header(model).value("general.architecture") == "qwen35")
    # of what is read into memory, the block that predicts further tokens is no part
    (row,) = (row for row in report.memory[0].fits if row.file == model.stat().st_size)
    assert (row.without_gpu - context.total) / 2**20 == pytest.approx(mib("model"), rel=0.002, abs=0.011)


# --- the released model


def released_config() -> dict[str, Any]:
    return dict(json.loads(released.RELEASED.read_text("utf-8"))["config"])


def test_the_released_shape_is_that_of_transformers() -> None:
    """The released config.json is what Qwen3_5Config has by default, and the shards hold that many parameters."""
    from transformers import Qwen3_5TextConfig

    defaults = Qwen3_5TextConfig()
    own = released_config()
    for key in own.keys() - {"architectures", "rope_parameters", "max_position_embeddings", "full_attention_interval"}:
        assert getattr(defaults, key) == own[key], key
    every = own["full_attention_interval"]
    kinds = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(own["num_hidden_layers"])]
    assert defaults.layer_types == kinds


def test_the_outline_has_every_tensor_of_a_model_that_transformers_builds() -> None:
    import torch
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    with torch.device("meta"):
        built = Qwen3_5ForCausalLM(Qwen3_5TextConfig())
    theirs = sorted(tuple(d for d in parameter.shape[::-1] if d != 1) for parameter in built.parameters())
    with released.released_outline() as outline:
        tensors = read_header(outline.path).tensors
    ours = [info for name, info in tensors.items() if not name.startswith(("neg.", "blk.32."))]
    assert sorted(tuple(d for d in info.shape if d != 1) for info in ours) == theirs
    ahead = sum(info.n_elements for name, info in tensors.items() if name.startswith("blk.32."))
    # the shards' sizes, all but their headers two bytes a parameter; the vision tower has 0.46 B of them
    shards = 5_276_436_216 + 5_335_161_512 + 5_368_717_440 + 3_325_988_568
    vision = shards / 2 - sum(info.n_elements for info in ours) - ahead
    assert vision == pytest.approx(0.456e9, rel=0.01)


def test_the_vocabulary_takes_about_what_is_added_for_it() -> None:
    ranks = qwen_vocabulary.ranks("qwen3_6")
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    # a byte is stored as a character of one byte or two; a token has length, text and type, a merge both its halves
    texts = [sum(1 if byte in kept and byte < 0x80 else 2 for byte in token) for token in ranks]
    merges = sum(8 + size + 1 for token, size in zip(ranks, texts, strict=True) if len(token) > 1)
    about = sum(8 + size + 4 for size in texts) + merges
    assert json.loads(released.RELEASED.read_text("utf-8"))["vocabulary_bytes"] == pytest.approx(about, rel=0.05)


@pytest.fixture(scope="module")
def nine() -> fit.Report:
    """What fits of the 9B in 1 to 24 GB, in steps of half a GB."""
    return whole(None, sizes=tuple(range(GB, 24 * GB + 1, GB // 2)))


def test_caches_of_the_9b_by_hand(nine: fit.Report) -> None:
    shortest, *_, longest = nine.model.contexts
    assert (shortest.n_ctx, longest.n_ctx) == (8192, 262144)
    # 8 attention layers, 4 KV heads of 256, keys and values in two bytes
    assert shortest.kv_cache == 8 * 4 * (256 + 256) * 2 * 8192
    assert longest.kv_cache == 8 * 4 * (256 + 256) * 2 * 262144
    # 24 layers of Gated DeltaNet; 8 sequences, one that holds a prompt, 4 kept prefixes
    state = 3 * (32 * 128 + 2 * 16 * 128) + 32 * 128 * 128
    assert {context.recurrent for context in nine.model.contexts} == {13 * 24 * 4 * state}
    assert nine.model.n_layers == 34  # 32, the block that predicts further tokens, the output layer


def test_more_memory_is_never_worse(nine: fit.Report) -> None:
    order = {row.type: -row.file for row in nine.memory[0].fits}
    before = None
    for memory in nine.memory:
        assert [row.type for row in memory.fits] == sorted(order, key=lambda kind: order[kind])
        now = {row.type: (row.n_ctx, row.n_gpu_layers) for row in memory.fits}
        gpu = (0, 0, 0) if memory.gpu is None else _rank(order, memory.gpu, memory.gpu.n_gpu_layers or 0)
        cpu = (0, 0, 0) if memory.cpu is None else _rank(order, memory.cpu, 0)
        if before is not None:
            assert all(now[kind][i] >= before[0][kind][i] for kind in now for i in (0, 1))
            assert gpu >= before[1] and cpu >= before[2]
        before = now, gpu, cpu


def _rank(order: dict[str, int], proposal: fit.Proposal, layers: int) -> tuple[int, int, int]:
    """Better proposals are greater: a larger type first, then more layers, then a longer context."""
    return -order[proposal.type], layers, proposal.n_ctx


def test_proposals_fit_and_the_next_step_does_not(nine: fit.Report) -> None:
    contexts = [context.n_ctx for context in nine.model.contexts]
    for memory in nine.memory:
        room = memory.size - memory.reserved
        rows = {row.type: row for row in memory.fits}
        for row in memory.fits:
            assert (row.n_ctx > 0) == (row.all_layers <= room) == (row.n_gpu_layers == nine.model.n_layers)
        if memory.gpu is None:
            assert memory.size < 4 * GB and rows["q4_k_m"].n_gpu_layers == 0
            continue
        assert memory.gpu.on_device <= room
        assert memory.gpu.n_ctx in contexts
        better = [kind for kind in fit.PROPOSED if rows[kind].file > memory.gpu.file]
        assert all(rows[kind].n_ctx == 0 for kind in better)
        if memory.gpu.n_gpu_layers == nine.model.n_layers:
            assert memory.gpu.n_ctx == rows[memory.gpu.type].n_ctx
        else:
            assert (memory.gpu.type, memory.gpu.n_ctx) == ("q4_k_m", contexts[0])
            assert memory.gpu.n_gpu_layers == rows["q4_k_m"].n_gpu_layers
        if memory.cpu is not None:
            assert memory.cpu.on_device <= room


def test_layers_are_counted_from_the_output_as_llama_cpp_does(tmp_path: Path) -> None:
    """A GPU with room for one more byte than n layers need gets n of them: the output first, then the last blocks."""
    model = write_tiny_hybrid(tmp_path / "model.gguf")  # one recurrent layer, one of attention, one that predicts ahead
    report = whole(model)
    sizes = {name: info.size for name, info in read_header(model).tensors.items()}

    def part(*starts: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(starts))

    (context, *_), (row, *_) = report.model.contexts, report.memory[0].fits
    output = part("output", "neg.") + context.compute
    attention = part("blk.1.") + context.kv_cache
    recurrent = part("blk.0.") + context.recurrent
    assert row.all_layers == output + attention + recurrent
    # the embedding stays in main memory; the block that predicts ahead is counted, but not loaded
    assert row.without_gpu == row.all_layers + part("token_embd")
    steps = {output: 2, output + attention: 3, output + attention + recurrent: 4}
    for needed, layers in steps.items():
        for size, expected in ((needed, layers), (needed - 1, None)):
            memory = -(-size * 8 // 7)  # an eighth is left free
            while memory - memory // 8 > size:
                memory -= 1
            (found,) = (f for f in whole(model, sizes=(memory,)).memory[0].fits if f.type == "f32")
            assert expected is None or found.n_gpu_layers == expected
            assert expected is not None or found.n_gpu_layers < layers


# --- the command


def fit_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["info", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_gb_and_gib_are_told_apart(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_json(capsys, str(model), "--fit", "8GB,8GiB, 7.5 gib,8192MiB,0.008TB")
    assert [memory["size"] for memory in found["memory"]] == [
        8_000_000_000, 8_589_934_592, 8_053_063_680, 8_589_934_592, 8_000_000_000,
    ]  # fmt: skip
    assert main(["info", str(model), "--fit", "8GB"]) == 0
    said = capsys.readouterr().out
    assert "8.00 GB (7.45 GiB)" in said and "1 GiB is 1,073,741,824" in said


@pytest.mark.parametrize(
    "size",
    [
        "8",
        "8G",
        "GB",
        "-8GB",
        "8GB,",
        "8 G B",
        "1e3GB",
        "nanGB",
        "0GB",
        "0.5MB",
        "2000TB",
        "8KB",
        "",
        "٨GB",
        "9" * 99 + "GB",
    ],
)
def test_a_bad_size_is_one_line(model: Path, capsys: pytest.CaptureFixture[str], size: str) -> None:
    said = refusal(capsys, "info", str(model), f"--fit={size}")
    assert "--fit must be" in said and ("8GiB" in said or "1MB" in said) and len(said) < 250


def test_what_nothing_fits_can_be_said_of_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    neg_files.write_side_car(random_head(HIDDEN, 5), write_tiny_llama(tmp_path / "m.gguf"), tmp_path / "side.gguf")
    (tmp_path / "text").write_text("no model")
    (tmp_path / "folder").mkdir()
    for arguments, words in (
        ([str(tmp_path / "none.gguf")], "no such file"),
        ([str(tmp_path / "text")], "not a GGUF file"),
        ([str(tmp_path / "folder")], "config.json"),
        ([str(tmp_path / "side.gguf")], "side-car"),
        ([str(model), "-c", "0"], "--n-ctx must be"),
        ([str(model), "-c", "999999999"], "--n-ctx must be between"),
        (["-c", "262145"], "--n-ctx must be at most 262144"),
        ([str(model), "--n-parallel", "0"], "--n-parallel must be"),
    ):
        assert words in refusal(capsys, "info", "--fit", "8GB", *arguments)
    assert "--fit SIZE" in refusal(capsys, "info")


def test_a_context_that_is_asked_for_is_the_shortest(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_json(capsys, "--fit", "8GB", "-c", "100000", "--n-parallel", "1")
    assert [context["n_ctx"] for context in found["model"]["contexts"]] == [100000, 131072, 262144]
    assert found["memory"][0]["gpu"]["n_ctx"] >= 100000
    fewer = fit_json(capsys, "--fit", "8GB", "--n-parallel", "1")["model"]["contexts"][0]["recurrent"]
    more = fit_json(capsys, "--fit", "8GB")["model"]["contexts"][0]["recurrent"]
    assert fewer / 6 == more / 13  # the sequence, one that holds a prompt, 4 kept prefixes


def test_tiny_memory_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    (memory,) = fit_json(capsys, "--fit", "1MB")["memory"]
    assert memory["gpu"] is None and memory["cpu"] is None
    assert main(["info", "--fit", "1MB"]) == 0
    assert "too little memory" in capsys.readouterr().out


def test_the_table_of_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", "--fit", SIZES]) == 0
    said = capsys.readouterr().out
    page = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    (shown,) = re.findall(rf"```text\n\$ darwin-neg info --fit {re.escape(SIZES)}\n(.*?)```", page, re.DOTALL)
    assert shown == said, "run the command and put its output into docs/gpu.md"
