"""Capture, training of heads, calibration: against torch, NumPy and known functions, and what bad input gets."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from conftest import SmolLM2, TinyQwen
from darwin_neg_cpp import DarwinNEG, DarwinNegError, ModelFileError, RequestError, demo_model
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.engine import scoring
from darwin_neg_cpp.files.output_file import OutputError
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format
from darwin_neg_cpp.trace.agreement import agreement, ranks, threshold_for
from darwin_neg_cpp.training import corpus, work_folder
from darwin_neg_cpp.training import train as command
from darwin_neg_cpp.training.capture import Captured
from darwin_neg_cpp.training.head import Recipe, predict, train
from oracles import neg_reference

CLI = [sys.executable, "-m", "darwin_neg_cpp"]
# prose of many lengths, in several languages, all of it written for this test
SENTENCES = [
    "The committee met on Tuesday and decided, after a long discussion, to postpone the vote.",
    "Water boils at a lower temperature on a mountain because the air pressure is lower there.",
    "def area(radius): return 3.14159 * radius ** 2  # of a circle",
    "Der Zug nach Hamburg fährt heute von Gleis sieben ab und hält nicht in Lüneburg.",
    "She opened the old box and found a letter, a key, and a photograph of a lighthouse.",
    "오늘은 날씨가 맑고 바람이 조금 불어서 산책하기에 좋습니다.",
    "In 1969 three astronauts flew to the Moon; two of them walked on its surface.",
    "Mix the flour with two eggs, add milk slowly, and let the dough rest for an hour.",
    "The function returns None when the key is missing, so callers must check for it.",
    "If all cats are mammals and all mammals are animals, then all cats are animals.",
]


def write_texts(folder: Path, count: int, words: int = 160) -> list[Path]:
    rng = np.random.default_rng(5)
    paths = []
    for k in range(count):
        text = ""
        while len(text.split()) < words:
            text += SENTENCES[rng.integers(len(SENTENCES))] + (" " if rng.random() < 0.8 else "\n\n")
        paths.append(folder / f"text-{k}.txt")
        paths[-1].write_text(text, "utf-8")
    return paths


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *args], capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload, no-any-return]


# --- capture


@pytest.mark.filterwarnings("ignore")
def test_capture_equals_torch_on_the_tiny_checkpoint(tiny_qwen: TinyQwen) -> None:
    from transformers import Qwen3_5ForConditionalGeneration

    model = Qwen3_5ForConditionalGeneration.from_pretrained(
        tiny_qwen.checkpoint, dtype="float32", attn_implementation="eager"
    ).eval()
    hidden: list[torch.Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _module, args: hidden.append(args[0][0].float()))
    with DarwinNEG(tiny_qwen.model, n_ctx=512, n_parallel=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        texts = [llm.tokenize(text) for text in SENTENCES]
        for text, got in zip(texts, llm.score_many(texts, hidden=True, top=4), strict=True):
            hidden.clear()
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([text])).logits[0].double().numpy()
            np.testing.assert_allclose(got.hidden, hidden[0].numpy(), atol=1e-3)
            np.testing.assert_allclose(got.entropy, neg_reference.entropy_of(logits), atol=1e-4)
            logprobs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            logprobs -= logits.max(1, keepdims=True)
            following = [logprobs[i, token] for i, token in enumerate(text[1:])]
            np.testing.assert_allclose(got.logprobs[:-1], following, atol=1e-3)
            assert math.isnan(got.logprobs[-1])
            best = np.sort(logprobs, axis=1)[:, ::-1][:, :4]
            np.testing.assert_allclose(got.top_logprobs, best, atol=1e-3)
            np.testing.assert_allclose(np.take_along_axis(logprobs, got.top_ids, 1), best, atol=1e-3)


def test_capture_equals_a_slow_pass_over_logits_on_smollm2(smollm2: SmolLM2, smol: DarwinNEG) -> None:
    head = load_file(smollm2.head)
    for text in SENTENCES[:3]:
        tokens = smol.tokenize(text)
        logits = smol.session.engine.score([tokens], logits=True)["logits"]
        got = smol.score(tokens, hidden=True)
        np.testing.assert_allclose(got.entropy, neg_reference.entropy_of(logits), atol=1e-4)
        np.testing.assert_allclose(got.neg.entropy, neg_reference.head_entropy(head, got.hidden), atol=1e-4)
        assert (got.neg.active == (got.neg.entropy > np.float32(smol.neg["threshold"]))).all()


def test_texts_in_a_batch_get_what_each_gets_alone(smollm2: SmolLM2, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several calls into the engine, each of several batches. In float32: where weights are quantized, the number of rows
    # decides how they are multiplied, and entropies move by some 0.05 nats with it.
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 600)
    with DarwinNEG(smollm2.f32, n_ctx=512, n_parallel=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        texts = [llm.tokenize(one) for one in SENTENCES[:6]]
        alone = [llm.score(one) for one in texts]
        many = list(llm.score_many(texts * 4))
    assert [one.token_ids.tolist() for one in many] == texts * 4
    for got, expected in zip(many, alone * 4, strict=True):
        np.testing.assert_allclose(got.entropy, expected.entropy, atol=1e-3)
        np.testing.assert_allclose(got.neg.entropy, expected.neg.entropy, atol=1e-3)
        np.testing.assert_allclose(got.logprobs, expected.logprobs, atol=1e-3)


def test_what_cannot_be_evaluated_is_refused(smol: DarwinNEG) -> None:
    for call, message in (
        (lambda: smol.score([]), "no tokens"),
        (lambda: list(smol.score_many([[1, 2], []])), "no tokens"),
        (lambda: smol.score([10**6]), "outside the vocabulary"),
        (lambda: smol.score("hello", top=-1), "top must be"),
        (lambda: smol.score([5] * 5000), "context holds"),
    ):
        with pytest.raises(Exception, match=message) as error:
            call()
        assert "\n" not in str(error.value)


# --- figures of merit


def test_figures_of_merit_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    true = rng.gamma(1.0, 1.5, 500)
    true[::7] = true[1]  # ties
    predicted = true * 0.8 + rng.normal(0, 0.3, 500)
    got = agreement(predicted, true, 1.2)
    assert got.pearson == pytest.approx(np.corrcoef(predicted, true)[0, 1])
    assert got.r2 == pytest.approx(1 - ((predicted - true) ** 2).mean() / true.var())
    slow = np.array([(true < x).sum() + ((true == x).sum() - 1) / 2 for x in true])
    assert (ranks(true) == slow).all()
    assert got.spearman == pytest.approx(np.corrcoef(ranks(predicted), slow)[0, 1])
    hits = sum(p > 1.2 and t > 1.2 for p, t in zip(predicted, true, strict=True))
    assert got.precision == pytest.approx(hits / sum(predicted > 1.2))
    assert got.recall == pytest.approx(hits / sum(true > 1.2))
    constant = agreement(np.full(500, true.mean()), true, 1.2)
    assert (constant.pearson, constant.spearman) == (0, 0) and abs(constant.r2) < 1e-9
    assert abs(float((predicted > threshold_for(predicted, 0.05)).mean()) - 0.05) < 0.005


# --- corpus


def test_a_document_is_in_one_part_only_and_the_models_own_texts_follow_theirs(tmp_path: Path) -> None:
    documents = corpus.read(write_texts(tmp_path, 40))
    documents = [corpus.replace(one, tokens=tuple(range(len(one.text.split())))) for one in documents]
    parts = corpus.split(documents, 3)
    assert sorted(one.origin for one in parts) == sorted(one.origin for one in documents)
    sizes = {name: sum(len(one.tokens) for one in parts if one.split == name) for name in corpus.SPLITS}
    assert 0.08 < sizes["test"] / sum(sizes.values()) < 0.15 and 0.08 < sizes["validation"] / sum(sizes.values()) < 0.15
    of = {one.origin: one.split for one in parts}
    starts = corpus.openings(parts, 60, 1)
    assert {one.split for one in starts} == set(corpus.SPLITS)
    assert all(one.split == of[one.origin.partition("out of ")[2]] for one in starts)
    assert corpus.split(documents, 3) == parts != corpus.split(documents, 4)


def test_few_long_files_are_cut_at_blank_lines_and_lines_of_jsonl_are_documents(tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(f"paragraph {i} " + "word " * 300 for i in range(40)), "utf-8")
    parts = corpus.read([long])
    assert len(parts) > 5 and "\n\n".join(one.text for one in parts) == long.read_text("utf-8")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"text": one}) for one in SENTENCES) + "\n", "utf-8")
    assert [one.text for one in corpus.read([lines])] == SENTENCES


@pytest.mark.parametrize(
    "text",
    [
        "\r\n\r\n".join(f"paragraph {i} " + "word " * 60 for i in range(100)),
        "\r".join(f"line {i} " + "word " * 12 for i in range(500)),
        " ".join(f"Sentence {i} ends here." for i in range(2000)),
        " ".join(f"word{i}" for i in range(5000)),
        "".join(chr(0x4E00 + i % 5000) for i in range(40_000)),
        "。".join("".join(chr(0x4E00 + (i * 31 + k) % 5000) for k in range(40)) for i in range(1000)),
        "short\n\n" + "x" * 30 + "".join(str(i) for i in range(9000)),
    ],
    ids=["crlf", "cr", "sentences", "words", "characters", "chinese", "one-word"],
)
def test_one_file_of_any_shape_is_cut_in_documents_and_nothing_is_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.txt"
    path.write_bytes(text.encode())
    parts = corpus.read([path])
    assert len(parts) > 15 and max(len(one.text) for one in parts) < 4000
    assert "".join("".join(one.text.split()) for one in parts) == "".join(text.split())


def test_a_text_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    paths = write_texts(tmp_path, 40)
    copy = tmp_path / "copy.txt"
    copy.write_text(paths[3].read_text("utf-8").replace("\n", "\r\n") + "\n", "utf-8", newline="")
    assert corpus.read([*paths, paths[0], copy]) == corpus.read(paths)
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"text": one}) for one in [*SENTENCES, *SENTENCES[:4], " "]), "utf-8")
    assert [one.text for one in corpus.read([lines])] == SENTENCES


@pytest.mark.parametrize("text", ["汉字" * 300, "x" * 900, "a b", "one two three " * 60], ids=len)
def test_openings_do_not_need_spaces(text: str) -> None:
    found = corpus.openings([corpus.Document("it", text)], 20, 0)
    assert len(found) == 20 and all(one.text.strip() and one.text in text for one in found)
    assert all(len(one.text) <= 150 for one in found)
    if len(text) > 200:
        assert len({one.text for one in found}) > 10


# --- training


def known(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states of very unequal dimensions, and a smooth positive function of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 24)).astype(np.float32)
    y = np.log1p(np.exp(x[:, 0] + np.sin(2 * x[:, 1]) + 0.5 * x[:, 2] * x[:, 3]))
    scale = np.geomspace(0.01, 300, 24)
    return (x * scale + 5 * scale).astype(np.float32), y.astype(np.float32)


def test_a_known_function_is_learnt_and_the_same_seed_gives_the_same_head() -> None:
    data, validation, test = known(20_000, 1), known(2000, 2), known(4000, 3)
    recipe = Recipe(reduced=64, epochs=25, batch=128, learning_rate=3e-3, dropout=0.0)
    heads = [train(*data, validation, recipe).head for _ in range(2)]
    assert agreement(predict(heads[0], test[0]), test[1], 1.0).r2 > 0.95
    for name, values in heads[0].tensors().items():
        assert np.array_equal(values, heads[1].tensors()[name]), name
    other = train(*data, validation, Recipe(reduced=64, epochs=1, seed=1)).head
    assert not np.array_equal(other.down_w, heads[0].down_w)
    # the same in float64 by the definition, so that folding the standardization in has lost nothing
    tensors = {released: heads[0].tensors()[name] for released, name in neg_format.RELEASED.items()}
    tensors["head.proj_out.weight"] = tensors["head.proj_out.weight"].reshape(1, -1)
    np.testing.assert_allclose(predict(heads[0], test[0]), neg_reference.head_entropy(tensors, test[0]), atol=1e-3)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    data, validation = known(4000, 1), known(500, 2)
    recipe = Recipe(reduced=16, epochs=6)
    whole = train(*data, validation, recipe)

    class Killed(Exception):
        pass

    def kill(epoch: int, _error: float, _better: bool) -> None:
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        train(*data, validation, recipe, state=tmp_path / "state", tell=kill)
    seen: list[int] = []
    resumed = train(*data, validation, recipe, state=tmp_path / "state", tell=lambda epoch, *_: seen.append(epoch))
    assert seen == [3, 4, 5]
    assert all(np.array_equal(values, resumed.head.tensors()[name]) for name, values in whole.head.tensors().items())
    assert len(whole.validation_errors) == 6
    assert (whole.validation_errors, whole.best_epoch) == (resumed.validation_errors, resumed.best_epoch)


def test_ctrl_c_keeps_the_best_so_far() -> None:
    data, validation = known(4000, 1), known(500, 2)
    errors: list[float] = []

    def interrupt(epoch: int, error: float, _better: bool) -> None:
        errors.append(error)
        if epoch == 2:
            raise KeyboardInterrupt

    found = train(*data, validation, Recipe(reduced=16, epochs=50), tell=interrupt)
    error = float(((predict(found.head, validation[0]) - validation[1]) ** 2).mean())
    assert error == pytest.approx(min(errors), rel=1e-3)
    assert found.interrupted and list(found.validation_errors) == errors and errors[found.best_epoch] == min(errors)


def test_a_training_without_finite_numbers_is_refused() -> None:
    data, validation = known(500, 1), known(100, 2)
    with pytest.raises(DarwinNegError, match="--learning-rate"):
        train(data[0], np.full_like(data[1], np.nan), validation, Recipe(reduced=4, epochs=2))


# --- a whole run, with a tiny model


# one that takes a message as it is, so that what is put into one can be seen
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}{% endfor %}"


def tiny(path: Path) -> DarwinNEG:
    return DarwinNEG(path, n_ctx=512, n_parallel=8, n_threads=1, chat_template=TEMPLATE)


def settings(folder: Path, text: list[Path] | None = None, **changes: object) -> command.Settings:
    given = {"own_texts": 40, "own_tokens": 60, "recipe": Recipe(reduced=8, epochs=3), **changes}
    return command.Settings(text=tuple(text or ()), out=folder / "head.gguf", **given)


def go(path: Path, given: command.Settings, progress: object = lambda *_: None) -> dict[str, object]:
    with tiny(path) as llm:
        return command.run(llm, given, command="", progress=progress)


OUTPUTS = ["head.gguf", "head.neg_modules.safetensors", "head.report.json", "head.report.md", "head.report.svg"]


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("head*"))


class Stopped(Exception):
    pass


def stop_at(step: str) -> object:
    def progress(at: str, *_: int) -> None:
        if at == step:
            raise Stopped

    return progress


def test_own_texts_without_text_differ_and_hold_no_control_tokens_as_text(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    messages: list[str] = []
    with tiny(tiny_llama) as llm:
        templated = llm.apply_chat_template
        llm.apply_chat_template = lambda asked: messages.append(asked[0]["content"]) or templated(asked)
        found = command._own_documents(llm, settings(tmp_path), [], tmp_path / "work", "model", lambda *_: None)
    assert len(found) == 40 == len({one.tokens[-40:] for one in found})
    assert {one.split for one in found} == set(corpus.SPLITS)
    assert len(messages) == 20 == len(set(messages))
    assert all(one.strip() and "<s>" not in one and "</s>" not in one for one in messages)
    # an answer is where the text is that it starts from
    of = {one.origin: one.split for one in found}
    answers = [one for one in found if "out of" in one.origin]
    assert len(answers) == 20 and all(one.split == of[one.origin.partition("out of ")[2]] for one in answers)


def test_a_run_stopped_anywhere_goes_on_without_doing_anything_twice(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    generate, score = DarwinNEG.generate, DarwinNEG.score_many

    def counted_generate(self: DarwinNEG, prompt: list[object], **options: object) -> object:
        calls.append(("generate", int(options.get("n", len(prompt)))))
        return generate(self, prompt, **options)

    def counted_score(self: DarwinNEG, texts: list[list[int]], **options: object) -> object:
        calls.append(("evaluate", sum(map(len, texts))))
        return score(self, texts, **options)

    monkeypatch.setattr(DarwinNEG, "generate", counted_generate)
    monkeypatch.setattr(DarwinNEG, "score_many", counted_score)
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
    with pytest.raises(OutputError, match=r"head\.work: holds files .* choose another --out"):
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


def test_own_texts_that_are_too_few_leave_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--self-generate"):
        go(tiny_llama, settings(tmp_path, own_texts=3))
    assert written(tmp_path) == []


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
        llm: DarwinNEG, sequences: list[list[int]], folder: Path, name: str, *args: object, **more: object
    ) -> object:
        got = real(llm, sequences, folder, name, *args, **more)
        data[name] = [len(one) for one in sequences], Captured(np.array(got.hidden), got.entropy, got.starts)
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
    expected = agreement(np.array(previous), test.entropy, head.threshold).as_dict()
    assert report["test"]["previous"] == pytest.approx(expected, abs=1e-5)
    for given in (0.0, 4.5):
        report = go(tiny_llama, settings(tmp_path, threshold=given, force=True))
        assert report["head"]["threshold"] == given and report["threshold_from"] == "given"
        assert neg_format.read_head(tmp_path / "head.gguf").threshold == given
        assert load_file(tmp_path / "head.neg_modules.safetensors")["gate.threshold"] == given


def test_ctrl_c_in_the_training_is_told(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = command.train

    def interrupt(epoch: int, *_: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "train", lambda *args, tell, **more: real(*args, tell=interrupt, **more))
    args = ["train-head", "-m", str(tiny_llama), "--self-generate", "40", "--self-tokens", "60", "--epochs", "9"]
    assert main([*args, "-o", str(tmp_path / "head.gguf")]) == 0
    said = capsys.readouterr()
    assert said.err == "darwin-neg: interrupted; the best head so far, of epoch 2, is written\n"
    report = json.loads((tmp_path / "head.report.json").read_text("utf-8"))
    assert report["training"]["interrupted"] and report["training"]["epochs"] == 2
    assert "interrupted" in (tmp_path / "head.report.md").read_text("utf-8") and written(tmp_path) == OUTPUTS


def test_without_torch_training_says_what_to_install(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    args = ["train-head", "-m", str(tiny_llama), "--self-generate", "40", "-o", str(tmp_path / "head.gguf")]
    assert main(args) == 1
    assert capsys.readouterr().err == (
        "darwin-neg: error: training needs PyTorch; install it with `pip install 'darwin-neg-cpp[train]'`\n"
    )
    assert written(tmp_path) == []


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


# --- the commands


@pytest.fixture(scope="module")
def trained(smollm2: SmolLM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of a small run, head.* among them."""
    folder = tmp_path_factory.mktemp("trained")
    texts = write_texts(folder, 60)
    args = [
        "--text",
        *map(str, texts),
        "--self-generate",
        "12",
        "--self-tokens",
        "48",
        "--reduced",
        "32",
        "--epochs",
        "8",
    ]
    out = run("train-head", "-m", str(smollm2.base), *args, "-o", str(folder / "head.gguf"))
    assert out.returncode == 0, out.stderr
    assert "R²" in out.stdout and "Traceback" not in out.stderr
    return folder


@pytest.mark.slow
def test_a_written_head_predicts_in_the_runtime_what_torch_predicts(trained: Path, smollm2: SmolLM2) -> None:
    tensors = load_file(trained / "head.neg_modules.safetensors")
    torch_head = torch.nn.Sequential(
        torch.nn.Linear(576, 32), torch.nn.GELU(), torch.nn.Linear(32, 1), torch.nn.Softplus()
    )
    names = {"0": "proj_down", "2": "proj_out"}
    torch_head.load_state_dict(
        {
            f"{k}.{kind}": torch.from_numpy(tensors[f"head.{name}.{kind}"])
            for k, name in names.items()
            for kind in ("weight", "bias")
        }
    )
    neg_files.attach(smollm2.base, trained / "head.neg_modules.safetensors", trained / "attached.gguf")
    for options in ({"model": smollm2.base, "neg": trained / "head.gguf"}, {"model": trained / "attached.gguf"}):
        with DarwinNEG(**options, n_ctx=512, n_parallel=1) as llm:
            got = llm.score(" ".join(SENTENCES), hidden=True)
            with torch.no_grad():
                expected = torch_head(torch.from_numpy(got.hidden))[:, 0].numpy()
            np.testing.assert_allclose(got.neg.entropy, expected, atol=1e-4)
            assert llm.neg["threshold"] == pytest.approx(float(tensors["gate.threshold"]))


@pytest.mark.slow
def test_the_report_says_what_was_done(trained: Path) -> None:
    report = json.loads((trained / "head.report.json").read_text("utf-8"))
    assert set(report["test"]) == {"head", "constant", "previous"}
    assert report["data"]["own_documents"] == 12 and report["data"]["text_documents"] == 60
    assert report["head"]["n_reduced"] == 32
    assert abs(report["test"]["constant"]["r2"]) < 0.2 < report["test"]["head"]["r2"]
    text = (trained / "head.report.md").read_text("utf-8")
    assert "head.report.svg" in text and "this head" in text
    from xml.etree import ElementTree

    assert len(ElementTree.parse(trained / "head.report.svg").getroot()) > 20
    assert not (trained / "head.work").exists()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(smollm2: SmolLM2, tmp_path: Path) -> None:
    texts = map(str, write_texts(tmp_path, 40, words=50))
    args = ["train-head", "-m", str(smollm2.base), "--text", *texts, "--reduced", "16", "--epochs", "12", "-o"]
    assert run(*args, str(tmp_path / "whole.gguf")).returncode == 0
    # a command line that notes what the model is asked
    asked = tmp_path / "asked.txt"
    noting = [
        sys.executable,
        "-c",
        f"""
import sys
from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.main import main
score = DarwinNEG.score_many
def noted(self, texts, **options):
    with open({str(asked)!r}, "a") as file:
        print(sum(map(len, texts)), file=file)
    return score(self, texts, **options)
DarwinNEG.score_many = noted
sys.exit(main(sys.argv[1:]))
""",
    ]
    part = tmp_path / "part.gguf"
    for wait in ("train.json", "training.pt"):
        process = subprocess.Popen([*noting, *args, str(part)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (tmp_path / "part.work" / wait).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not part.exists() and (tmp_path / "part.work").is_dir()
    assert asked.read_text().split()
    asked.unlink()
    assert subprocess.run([*noting, *args, str(part)], timeout=300, check=False).returncode == 0
    assert not asked.exists()  # everything had been captured
    assert part.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    reports = [json.loads((tmp_path / f"{name}.report.json").read_text("utf-8")) for name in ("part", "whole")]
    assert [one.pop("command") for one in reports] and reports[0] == reports[1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("part")) == [
        "part.gguf",
        "part.neg_modules.safetensors",
        "part.report.json",
        "part.report.md",
        "part.report.svg",
    ]


@pytest.mark.slow
def test_calibrate_finds_the_threshold_and_writes_it_only_when_told_to(
    trained: Path, smollm2: SmolLM2, tmp_path: Path
) -> None:
    texts = sorted(map(str, trained.glob("text-*.txt")))[:20]
    side_car = trained / "head.gguf"
    before = side_car.read_bytes()
    args = ["calibrate", "-m", str(smollm2.base), "--side-car", str(side_car), "--text", *texts, "--target-rate", "0.2"]
    out = run(*args, "--json")
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert side_car.read_bytes() == before
    out = run(*args, "--json", "-o", str(tmp_path / "new.gguf"))
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == found and "new.gguf: written" in out.stderr
    assert neg_format.read_head(tmp_path / "new.gguf").threshold == pytest.approx(found["new_threshold"])
    again = run(*[str(tmp_path / "new.gguf") if one == str(side_car) else one for one in args], "--json")
    assert json.loads(again.stdout)["activation_rate"] == pytest.approx(0.2, abs=0.005)
    neg_files.attach(smollm2.base, side_car, tmp_path / "inside.gguf")
    args = ["calibrate", "-m", str(tmp_path / "inside.gguf"), "--text", *texts, "--target-rate", "0.2"]
    assert run(*args, "-o", str(tmp_path / "moved.gguf")).returncode == 0
    assert neg_format.read_head(tmp_path / "moved.gguf").threshold == pytest.approx(found["new_threshold"])


@pytest.mark.slow
def test_calibrate_compares_with_the_reference(smollm2: SmolLM2, tmp_path: Path) -> None:
    paths = write_texts(tmp_path, 6)
    args = ["calibrate", "-m", str(smollm2.model), "--text", *map(str, paths), "--max-tokens", "1000", "--json"]
    out = run(*args, "--reference", str(smollm2.f32))
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    predicted, true = [], []
    for path in (smollm2.model, smollm2.f32):
        with DarwinNEG(path, n_ctx=512, n_parallel=1) as llm:
            documents = corpus.read(paths, least_part=8000)
            ids = corpus.sequences(corpus.limited(corpus.tokenized(llm, documents), 1000, 0), 512)
            seen = list(llm.score_many(ids))
            threshold = llm.neg["threshold"]
        predicted.append(np.concatenate([one.neg.entropy for one in seen]))
        true.append(np.concatenate([one.entropy for one in seen]))
    other = found["reference"]
    assert other["model"] == "f32.gguf" and other["mean_difference"] > 0
    assert other["mean_difference"] == pytest.approx(float(np.abs(predicted[0] - predicted[1]).mean()), rel=0.02)
    assert other["mae"] == pytest.approx(agreement(predicted[1], true[1], threshold).mae, rel=0.01)
    assert other["mae"] != found["mae"]
    moved = ((predicted[0] > threshold) != (predicted[1] > threshold)).mean()
    assert other["gate_differs"] == pytest.approx(float(moved), abs=0.005)


# --- the demo head


@pytest.mark.slow
def test_the_demo_heads_report_holds_on_other_text() -> None:
    """On text that it has never seen, of other origin than its training data, it is as good as its report says, within a tolerance."""
    report = json.loads((Path(__file__).parents[2] / "docs" / "demo-head" / "report.json").read_text("utf-8"))
    model, head = demo_model.model_and_head()
    # what this project says about itself: English prose and Python
    files = [
        *Path(__file__).parents[2].glob("docs/*.md"),
        *Path(__file__).parents[2].glob("python/darwin_neg_cpp/**/*.py"),
    ]
    with DarwinNEG(model, head, n_ctx=512, n_parallel=1) as llm:
        assert llm.neg["threshold"] == pytest.approx(report["head"]["threshold"])
        tokens = [llm.tokenize(path.read_text("utf-8"))[:400] for path in sorted(files)]
        seen = list(llm.score_many(tokens))
    predicted = np.concatenate([one.neg.entropy for one in seen])
    true = np.concatenate([one.entropy for one in seen])
    previous = np.concatenate([np.r_[true.mean(), one.entropy[:-1]] for one in seen])
    got = agreement(predicted, true, report["head"]["threshold"])
    stated = report["test"]["head"]
    assert got.r2 == pytest.approx(stated["r2"], abs=0.1)
    assert got.pearson == pytest.approx(stated["pearson"], abs=0.06)
    assert got.mae == pytest.approx(stated["mae"], abs=0.15)
    assert got.r2 > agreement(previous, true, 1.0).r2 + 0.4
    assert (
        stated["r2"] > report["test"]["previous"]["r2"] + 0.4 and stated["r2"] > report["test"]["constant"]["r2"] + 0.4
    )


# --- bad input


def refused(out: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert out.returncode == code, out.stderr
    (line,) = out.stderr.splitlines()
    assert line.startswith("darwin-neg: error: ") and all(word in line for word in words), line


def test_bad_input_is_one_line_and_leaves_nothing(smollm2: SmolLM2, tmp_path: Path) -> None:
    texts = [str(path) for path in write_texts(tmp_path, 40)]
    for name, content in (
        ("empty.txt", b" \n"),
        ("binary.txt", b"a\0b"),
        ("latin.txt", b"caf\xe9"),
        ("short.txt", b"a few words only"),
        ("broken.jsonl", b'{"text": "x"}\n{"tex'),
        ("no-text.jsonl", b'{"words": 3}\n'),
        ("deep.jsonl", b"[" * 200_000),
    ):
        (tmp_path / name).write_bytes(content)
    linked = str(tmp_path / "reference.gguf")
    os.link(shutil.copy(smollm2.model, tmp_path / "copy.gguf"), linked)
    before = sorted(os.listdir(tmp_path))
    base, out = str(smollm2.base), str(tmp_path / "head.gguf")
    calibrate = ["calibrate", "-m", str(smollm2.model), "--text", *texts]
    train_head = ["train-head", "-m", base, "-o", out]
    for args, words in (
        ([*train_head, "--text", str(tmp_path / "empty.txt")], ("empty.txt", "no text")),
        ([*train_head, "--text", str(tmp_path / "binary.txt")], ("binary.txt", "binary")),
        ([*train_head, "--text", str(tmp_path / "latin.txt")], ("latin.txt", "UTF-8", "byte 3")),
        ([*train_head, "--text", str(tmp_path / "missing.txt")], ("missing.txt", "no such file")),
        ([*train_head, "--text", str(tmp_path)], (str(tmp_path),)),
        ([*train_head, "--text", str(tmp_path / "broken.jsonl")], ("broken.jsonl:2", "JSON")),
        ([*train_head, "--text", str(tmp_path / "no-text.jsonl")], ("no-text.jsonl:1", '"text"')),
        ([*train_head, "--text", str(tmp_path / "deep.jsonl")], ("deep.jsonl:1", "JSON")),
        ([*train_head, "--text", str(tmp_path / "short.txt")], ("4 tokens", "--self-generate")),
        (train_head, ("--text", "--self-generate")),
        ([*train_head, "--text", *texts, "--epochs", "0"], ("--epochs",)),
        ([*train_head, "--text", *texts, "--threshold", "nan"], ("--threshold",)),
        ([*train_head, "--text", *texts, "--threshold", "1e39"], ("--threshold", "float32")),
        ([*train_head, "--self-generate", "9", "--self-temperature", "nan"], ("--self-temperature",)),
        ([*train_head, "--text", *texts, "--target-rate", "1"], ("--target-rate",)),
        ([*train_head, "--text", *texts, "--learning-rate", "0"], ("--learning-rate",)),
        (["train-head", "-m", texts[0], "-o", out, "--text", *texts], ("text-0.txt", "GGUF")),
        (["train-head", "-m", base, "-o", texts[0], "--text", *texts], ("text-0.txt", "same file")),
        (["train-head", "-m", base, "-o", str(tmp_path / "no" / "head.gguf"), "--text", *texts], ("no such folder",)),
        (["calibrate", "-m", base, "--text", *texts], ("no NEG head",)),
        (["calibrate", "-m", str(smollm2.model), "--text", str(tmp_path / "short.txt")], ("tokens",)),
        ([*calibrate, "--reference", str(tmp_path / "missing.gguf")], ("missing.gguf", "no such file")),
        ([*calibrate, "--reference", base], ("SmolLM2", "NEG head")),
        ([*calibrate, "--reference", linked, "-o", linked, "--force"], ("same file",)),
    ):
        refused(run(*args), 2, *words)
        assert sorted(os.listdir(tmp_path)) == before, args


def test_a_full_disk_is_the_machines_fault_and_leaves_no_head(tiny_llama: Path, tmp_path: Path) -> None:
    texts = [str(path) for path in write_texts(tmp_path, 40)]
    out = run(
        "train-head", "-m", str(tiny_llama), "-o", str(tmp_path / "head.gguf"), "--text", *texts, "--epochs", "2",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    refused(out, 3, "head.work", "disk")
    assert not list(tmp_path.glob("head.*gguf")) and not list(tmp_path.glob("head.report*"))


def test_a_model_whose_numbers_are_broken_is_refused(tiny_llama: Path, tmp_path: Path, monkeypatch) -> None:
    from darwin_neg_cpp.training.capture import capture

    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1) as llm:
        good = llm.score([1, 2, 3], hidden=True)
        good.hidden[1, 0] = np.nan
        monkeypatch.setattr(llm, "score_many", lambda *_, **__: iter([good]))
        with pytest.raises(RequestError, match="no finite numbers"):
            capture(llm, [(1, 2, 3)], tmp_path, "train", lambda *_: None, model="")
