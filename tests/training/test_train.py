"""Whole runs with a tiny model: stopped, resumed, refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from darwin_neg_cpp import ModelFileError, SamplingParams
from darwin_neg_cpp.engine.session import Session
from darwin_neg_cpp.errors import OutputError
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format
from darwin_neg_cpp.trace.agreement import measure_agreement
from darwin_neg_cpp.training import train as command
from darwin_neg_cpp.training import work_folder
from darwin_neg_cpp.training.capture import Captured
from oracles import neg_reference
from training_runs import OUTPUTS, Stopped, go, settings, stop_at, write_texts, written


def test_a_run_stopped_anywhere_goes_on_without_doing_anything_twice(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    run, score = Session.run, Session.score

    def counted_run(self: Session, prompts: list[list[int]], params: SamplingParams) -> object:
        calls.append(("generate", params.n * len(prompts)))
        return run(self, prompts, params)

    def counted_score(self: Session, texts: list[list[int]], **options: object) -> object:
        calls.append(("evaluate", sum(map(len, texts))))
        return score(self, texts, **options)

    monkeypatch.setattr(Session, "run", counted_run)
    monkeypatch.setattr(Session, "score", counted_score)
    texts = write_texts(tmp_path, 40)
    (whole := tmp_path / "whole").mkdir()
    (part := tmp_path / "part").mkdir()
    report = go(tiny_llama, settings(whole, texts))
    once, calls[:] = list(calls), []
    assert sum(count for kind, count in once if kind == "generate") == 40
    for step in ("generate", "capture train", "capture test"):
        with pytest.raises(Stopped):
            go(tiny_llama, settings(part, texts), stop_at(step))
        assert written(part) == ["head.work"]
    resumed = go(tiny_llama, settings(part, texts))
    assert calls == once and resumed == report
    assert written(part) == OUTPUTS
    for name in OUTPUTS:
        assert (part / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize("damage", ["model", "hidden", "entropy", "index", "texts"])
def test_a_resume_trusts_nothing_that_does_not_belong_to_it(tiny_llama: Path, tmp_path: Path, damage: str) -> None:
    with pytest.raises(Stopped):
        go(tiny_llama, settings(tmp_path), stop_at("train"))
    work = tmp_path / "head.work"
    if damage == "model":  # another one of the same name and size
        from tiny_gguf import write_tiny_llama

        size = tiny_llama.stat().st_size
        write_tiny_llama(tiny_llama, seed=1)
        assert tiny_llama.stat().st_size == size
    elif damage == "index":
        (work / "train.json").write_text("[3]")
        (work / "test.json").write_text('{"key": 3}')
    elif damage == "texts":
        (work / "own-texts.jsonl").write_text("3\n4")
    else:
        path = work / f"train.{damage}"
        os.truncate(path, path.stat().st_size // 2 + 1)
    resumed = go(tiny_llama, settings(tmp_path))
    (clean := tmp_path / "clean").mkdir()
    assert go(tiny_llama, settings(clean)) == resumed
    assert (clean / "head.gguf").read_bytes() == (tmp_path / "head.gguf").read_bytes()


def test_a_folder_of_the_users_is_refused_and_left_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    work = tmp_path / "head.work"
    work.mkdir()
    thesis = work / "train.json"  # even under a name that we use ourselves
    thesis.write_text("mine")
    with pytest.raises(OutputError, match=r"head\.work: holds files .* give another name with out="):
        go(tiny_llama, settings(tmp_path))
    assert thesis.read_text() == "mine" and written(tmp_path) == ["head.work"]
    thesis.unlink()
    (text,) = write_texts(work, 1)
    (work / work_folder.MARK).touch()
    with pytest.raises(OutputError, match=r"text-0\.txt: lies in the folder"):
        go(tiny_llama, settings(tmp_path, [text]))
    # what somebody puts beside our files stays, and so the folder
    assert go(tiny_llama, settings(tmp_path))
    assert os.listdir(work) == ["text-0.txt"]


def test_a_disk_that_fills_up_at_the_very_end_costs_nothing(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(neg_files, "write_side_car", full)
        with pytest.raises(OutputError, match=r"head\.gguf: .*No space left"):
            go(tiny_llama, settings(tmp_path))
    assert written(tmp_path) == ["head.work"]
    # and a process that is killed when only the head is not yet in its place
    move = os.replace

    def killed(source: Path, target: Path) -> None:
        if target == tmp_path / "head.gguf":
            raise Stopped
        move(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Stopped):
            go(tiny_llama, settings(tmp_path))
    assert written(tmp_path) == sorted({*OUTPUTS, "head.work"} - {"head.gguf"})
    go(tiny_llama, settings(tmp_path))
    assert written(tmp_path) == OUTPUTS
    with pytest.raises(OutputError, match="exists already"):
        go(tiny_llama, settings(tmp_path))


def test_thresholds_and_baselines_are_what_the_report_says(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: dict[str, tuple[list[int], Captured]] = {}
    real = command.capture

    def kept(
        session: Session, sequences: list[list[int]], folder: Path, name: str, *args: object, **more: object
    ) -> object:
        got = real(session, sequences, folder, name, *args, **more)
        data[name] = [len(sequence) for sequence in sequences], Captured(np.array(got.hidden), got.entropy, got.starts)
        return got

    monkeypatch.setattr(command, "capture", kept)
    report = go(tiny_llama, settings(tmp_path, target_rate=0.2))
    head = neg_format.read_head(tmp_path / "head.gguf")
    tensors = load_file(tmp_path / "head.neg_modules.safetensors")
    rates = {
        name: float((neg_reference.head_entropy(tensors, one.hidden) > head.threshold).mean())
        for name, (_, one) in data.items()
    }
    assert rates["validation"] == pytest.approx(0.2, abs=2 / len(data["validation"][1].entropy))
    assert rates["test"] == pytest.approx(report["test"]["head"]["activation_rate"], abs=0.005)
    # the previous token's entropy, sequence by sequence
    lengths, test = data["test"]
    mean = float(data["train"][1].entropy.mean())
    previous: list[float] = []
    for true in np.split(test.entropy, np.cumsum(lengths)[:-1]):
        previous += [mean, *true[:-1].tolist()]
    expected = measure_agreement(np.array(previous), test.entropy, head.threshold).as_dict()
    assert report["test"]["previous"] == pytest.approx(expected, abs=1e-5)
    for given in (0.0, 4.5):
        report = go(tiny_llama, settings(tmp_path, threshold=given, force=True))
        assert report["head"]["threshold"] == given and report["threshold_from"] == "given"
        assert neg_format.read_head(tmp_path / "head.gguf").threshold == given
        assert load_file(tmp_path / "head.neg_modules.safetensors")["gate.threshold"] == given


def test_a_model_without_logits_is_refused(tmp_path: Path) -> None:
    import gguf

    from tiny_gguf import byte_tokens

    path, width = tmp_path / "encoder.gguf", 64
    tokens = [*byte_tokens(), "<s>", "</s>"]
    writer = gguf.GGUFWriter(path, "bert")
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
        getattr(writer, f"add_{key}")({"block_count": 1, "head_count": 4}.get(key, width))
    writer.add_token_type_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["h e"])
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    shapes = {"token_embd": (len(tokens), width), "position_embd": (width, width), "token_types": (2, width)}
    shapes |= {f"blk.0.{name}": (width, width) for name in square}
    vectors = [*shapes, "token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"][3:]
    for name, shape in [*shapes.items(), *((name, (width,)) for name in vectors if name not in shapes)]:
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    for name in vectors:
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match=r"architecture 'bert' .*; give a language model"):
        go(path, settings(tmp_path))
    assert written(tmp_path) == []
