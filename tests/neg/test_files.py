"""attach, detach, inspect: what is written is right, and nothing is lost on the way."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.errors import NegHeadError, OutputError
from darwin_neg_cpp.gguf_file import edit as gguf_edit
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format
from handmade import write_gguf
from oracles import neg_reference
from tiny_gguf import HIDDEN, write_tiny_llama

THRESHOLD = 1.175187349319458
RELEASED = ("neg.proj_down.w", "neg.proj_down.b", "neg.proj_out.w", "neg.proj_out.b")


@pytest.fixture
def released(tmp_path) -> Path:
    """neg_modules.safetensors in the released layout for the tiny model."""
    path = tmp_path / "neg_modules.safetensors"
    neg_reference.random_released_head(path, HIDDEN, 3, THRESHOLD)
    return path


@pytest.fixture
def with_head(tiny_llama, released, tmp_path) -> Path:
    out = tmp_path / "with-head.gguf"
    neg_files.attach(tiny_llama, released, out)
    return out


def test_attach_keeps_every_key_and_tensor_and_adds_the_head_bit_for_bit(tiny_llama, released, with_head):
    before, after = gguf.GGUFReader(tiny_llama), gguf.GGUFReader(with_head)
    for key, field in before.fields.items():
        if not key.startswith("GGUF."):
            assert after.fields[key].contents() == field.contents()
            assert after.fields[key].types == field.types
    new = {tensor.name: tensor for tensor in after.tensors}
    for tensor in before.tensors:
        assert new[tensor.name].data.tobytes() == tensor.data.tobytes()
        assert (new[tensor.name].tensor_type, list(new[tensor.name].shape)) == (tensor.tensor_type, list(tensor.shape))
    source = load_file(released)
    for name, theirs in zip(
        RELEASED, ("proj_down.weight", "proj_down.bias", "proj_out.weight", "proj_out.bias"), strict=True
    ):
        assert new[name].tensor_type == gguf.GGMLQuantizationType.F32
        assert new[name].data.tobytes() == source[f"head.{theirs}"].tobytes()
    keys = {key: after.fields[key].contents() for key in after.fields if key.startswith("neg.")}
    assert keys.pop("neg.source").startswith("neg_modules.safetensors sha256:")
    assert keys == {
        "neg.version": 1,
        "neg.threshold": np.float32(THRESHOLD),
        "neg.top_k": 20,
        "neg.temp_scale": np.float32(0.5983633399009705),
        "neg.temp_enabled": False,
    }


def test_detach_gives_back_the_original_bytes_and_the_head(tiny_llama, with_head, tmp_path):
    neg_files.detach(with_head, tmp_path / "bare.gguf", side_car=tmp_path / "side.gguf")
    bare, original = gguf.GGUFReader(tmp_path / "bare.gguf"), gguf.GGUFReader(tiny_llama)
    assert [(t.name, t.data.tobytes()) for t in bare.tensors] == [(t.name, t.data.tobytes()) for t in original.tensors]
    assert not any(key.startswith("neg.") for key in bare.fields)
    one, other = neg_format.read_head(with_head), neg_format.read_head(tmp_path / "side.gguf")
    assert all(
        a.tobytes() == b.tobytes() for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True)
    )
    assert other.base_arch == "llama" and len(other.base_norm_sha256) == 64
    neg_files.attach(tiny_llama, tmp_path / "side.gguf", tmp_path / "again.gguf")
    assert {t.name for t in gguf.GGUFReader(tmp_path / "again.gguf").tensors} == {
        t.name for t in gguf.GGUFReader(with_head).tensors
    }


def test_attached_head_predicts_what_the_reference_predicts(with_head, released):
    with DarwinNEG(with_head, n_ctx=64, n_parallel=1) as llm:
        out = llm.session.engine.score([llm.tokenize("hello there")], hidden=True)
        np.testing.assert_allclose(
            out["predicted_entropy"], neg_reference.head_entropy(load_file(released), out["hidden"]), atol=1e-4
        )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reduced=st.integers(1, 40),
    threshold=st.floats(0, 100, width=32),
    scale=st.floats(0.015625, 8, width=32),
    seed=st.integers(0, 9),
)
def test_any_head_survives_the_round_trip(tiny_llama, tmp_path, reduced, threshold, scale, seed):
    path = tmp_path / "head.safetensors"
    tensors = neg_reference.random_released_head(path, HIDDEN, seed, threshold, reduced=reduced)
    save_file(tensors | {"gate.temp_scale": np.array([scale], np.float32)}, path)
    neg_files.attach(tiny_llama, path, tmp_path / "round.gguf", force=True)
    head = neg_format.read_head(tmp_path / "round.gguf")
    assert head.down_w.tobytes() == tensors["head.proj_down.weight"].tobytes()
    assert (head.threshold, head.temp_scale, head.n_reduced) == (threshold, scale, reduced)


def test_side_car_of_another_backbone_is_refused_everywhere(with_head, tmp_path):
    neg_files.write_side_car(with_head, with_head, tmp_path / "side.gguf")
    other = write_tiny_llama(tmp_path / "other.gguf", seed=1)
    with pytest.raises(NegHeadError, match="another backbone"):
        neg_files.attach(other, tmp_path / "side.gguf", tmp_path / "out.gguf")
    with pytest.raises(NegHeadError, match="another backbone"):
        DarwinNEG(other, tmp_path / "side.gguf", n_ctx=64, n_parallel=1)
    keys = {"neg.base_arch": (gguf.GGUFValueType.STRING, "qwen35")}
    arch = write_gguf(tmp_path / "arch.gguf", "neg", keys, {}, gguf.GGUFReader(tmp_path / "side.gguf"))
    with pytest.raises(NegHeadError, match="architecture"):
        DarwinNEG(other, arch, n_ctx=64, n_parallel=1)
    wide = tmp_path / "wide.safetensors"
    neg_reference.random_released_head(wide, 4096, 0, 1.0, reduced=4)
    with pytest.raises(NegHeadError, match="hidden size 4096"):
        neg_files.attach(other, wide, tmp_path / "out.gguf")


def test_output_equal_to_input_is_refused_also_through_links(tiny_llama, released, with_head, tmp_path):
    before = tiny_llama.read_bytes()
    (tmp_path / "link.gguf").symlink_to(tiny_llama)
    os.link(tiny_llama, tmp_path / "hard.gguf")
    for out in (tiny_llama, tmp_path / "link.gguf", tmp_path / "hard.gguf"):
        with pytest.raises(OutputError, match="same file"):
            neg_files.attach(tiny_llama, released, out, force=True)
    assert main(["neg", "attach", str(tiny_llama), str(released), "-o", str(tiny_llama), "--force"]) == 2
    assert tiny_llama.read_bytes() == before
    with pytest.raises(NegHeadError, match="already"):
        neg_files.attach(with_head, released, tmp_path / "twice.gguf")
    kept = with_head.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        neg_files.attach(tiny_llama, released, with_head)
    assert with_head.read_bytes() == kept


# says when the first bytes are copied: what comes before, the start of Python mostly, is not worth a kill
ATTACH = """
import sys
from darwin_neg_cpp.neg import files as neg_files
neg_files.attach(*sys.argv[1:4], force=True, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_leaves_the_name_absent_or_whole(smollm2, tmp_path):
    out = tmp_path / "killed.gguf"
    rng = random.Random(1)
    whole = smollm2.model.read_bytes()
    command = [sys.executable, "-c", ATTACH, str(smollm2.base), str(smollm2.head), str(out)]

    def started() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline().strip().isdigit()
        return process

    with started() as process:
        begin = time.monotonic()
        assert process.wait() == 0
        took = time.monotonic() - begin
    assert out.read_bytes() == whole
    outcomes, torn = [], 0
    for i in range(30):
        if i % 2:
            out.write_bytes(b"old")
        else:
            out.unlink(missing_ok=True)
        with started() as process:
            time.sleep(took * rng.uniform(0, 1.1))
            process.send_signal(signal.SIGKILL)
        torn += len(list(tmp_path.glob(".killed.gguf.tmp-*")))
        state = out.read_bytes() if out.exists() else b"absent"
        assert state == whole or state == (b"old" if i % 2 else b"absent"), i
        outcomes.append(state == whole)
    assert torn > 0 and not all(outcomes), "no run was interrupted while it wrote: the test proves nothing"
    neg_files.attach(smollm2.base, smollm2.head, out, force=True)
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["killed.gguf"], "stale temporary files must be gone"


def test_what_is_written_is_compared_with_what_was_meant(tiny_llama, released, tmp_path, monkeypatch):
    out = tmp_path / "out.gguf"
    encode, copy = gguf_edit.gguf_encode.key, gguf_edit.copy_range

    def key(wrong):
        return lambda name, kind, value: (
            wrong(name, kind, value) if name.startswith("neg.") else encode(name, kind, value)
        )

    def another_byte(source, target, offset, size, tell):
        copy(source, target, offset, size, tell)
        end = target.tell()
        target.seek(end - size)
        target.write(b"\x55" if source.read(1) != b"\x55" else b"\xaa")
        target.seek(end)

    def another_place(source, target, offset, size, tell):
        copy(source, target, offset + 4096, size - 4096, tell)
        target.write(bytes(4096))

    f32 = gguf.GGUFValueType.FLOAT32
    for target, wrong, says in (
        (
            "key",
            key(lambda name, kind, value: encode(name, kind, value + 1 if name == "neg.threshold" else value)),
            "key neg.threshold",
        ),
        (
            "key",
            key(lambda name, kind, value: encode(name, kind, value[1:] if name == "neg.source" else value)),
            "key neg.source",
        ),
        (
            "key",
            key(lambda name, kind, value: encode(name, f32 if name == "neg.top_k" else kind, value)),
            "key neg.top_k",
        ),
        ("key", key(lambda name, kind, value: encode(name.replace("top_k", "top_l"), kind, value)), "keys are missing"),
        ("copy", another_byte, "copy at byte"),
        ("copy", another_place, "copy at byte"),
    ):
        with monkeypatch.context() as patch:
            if target == "key":
                patch.setattr(gguf_edit.gguf_encode, "key", wrong)
            else:
                patch.setattr(gguf_edit, "copy_range", wrong)
            with pytest.raises(OutputError, match=says):
                neg_files.attach(tiny_llama, released, out)
            if target == "key":
                # a side-car's keys are compared too
                with pytest.raises(OutputError, match=says):
                    neg_files.write_side_car(released, tiny_llama, out)
        assert not out.exists() and not list(tmp_path.glob(".out*"))
    neg_files.attach(tiny_llama, released, out)


def test_full_disk_leaves_the_old_output_and_no_leftovers(with_head, tiny_llama, released, tmp_path):
    out = tmp_path / "full.gguf"
    out.write_bytes(b"old")
    for share in (0.1, 0.5, 0.95):
        limit = int(with_head.stat().st_size * share)

        def shrink(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = [
            sys.executable,
            "-m",
            "darwin_neg_cpp",
            "neg",
            "attach",
            str(tiny_llama),
            str(released),
            "-o",
            str(out),
            "--force",
        ]
        result = subprocess.run(command, preexec_fn=shrink, capture_output=True, text=True, check=False)
        assert result.returncode == 3, result.stderr
        assert result.stderr.count("\n") == 1
        assert out.read_bytes() == b"old"
        assert not list(tmp_path.glob(".full*"))


def test_info_agrees_with_the_gguf_package(with_head, smollm2):
    from darwin_neg_cpp.neg.info import info

    for path in (with_head, smollm2.model):
        reader = gguf.GGUFReader(path)
        found = info(path, n_ctx=1000, n_parallel=2)
        assert found.n_tensors == len(reader.tensors)
        assert found.n_params == sum(int(tensor.n_elements) for tensor in reader.tensors)
        assert found.memory.weights == sum(int(tensor.n_bytes) for tensor in reader.tensors)
        assert found.n_vocab == len(reader.fields["tokenizer.ggml.tokens"].data)
        assert found.architecture == "llama" and found.neg["n_embd"] == found.n_embd
    # 30 layers x 3 KV heads x (64 + 64) x 1000 tokens x 2 bytes
    assert found.memory.kv_cache == 30 * 3 * 128 * 1000 * 2
    assert found.quantization == "Q4_1"
