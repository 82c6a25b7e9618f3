"""What may be passed when a model is loaded: that each option acts, and what is refused."""

from __future__ import annotations

import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import fake_core
from conftest import TinyQwen
from darwin_neg_cpp import DarwinNEG, ModelFileError, RequestError, _core
from darwin_neg_cpp.engine.model_options import check_options
from oracles import stock
from tiny_gguf import FFN, HIDDEN, WINDOW, write_adapter, write_tiny_llama

SIZES: dict[str, Any] = {"n_ctx": 256, "n_parallel": 2, "n_threads": 1}
# attention by halves rounds what differs in the last bit
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
PROMPT = [256, *range(40, 90)]


def answer(model: Path, **options: Any) -> list[int]:
    with DarwinNEG(model, **SIZES, **options) as llm:
        out = llm.generate(PROMPT, max_tokens=24, temperature=0.0, ignore_eos=True)
        assert not isinstance(out, list)
        return [int(token) for token in out.token_ids]


def logits(model: Path, **options: Any) -> np.ndarray:
    with DarwinNEG(model, **SIZES, **EXACT, **options) as llm:
        return np.asarray(llm.session.engine.score([PROMPT], logits=True)["logits"])


def log_of(caplog: pytest.LogCaptureFixture, model: Path, **options: Any) -> str:
    """What llama.cpp says while the model is loaded."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG), DarwinNEG(model, **{**SIZES, **options}):
        return "\n".join(record.getMessage() for record in caplog.records)


def test_every_option_has_the_name_and_the_default_of_the_engine() -> None:
    theirs = _core.ModelParams("").as_dict()
    assert fake_core.ModelParams("").as_dict() == theirs
    parameters = inspect.signature(DarwinNEG.__init__).parameters
    ours = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("self", "model", "neg", "chat_template", "file_sampling", "progress")
    }
    assert check_options(ours) == {
        name: value for name, value in theirs.items() if name not in ("model_path", "neg_path")
    }


def test_every_option_reaches_the_engine_as_plain_python(
    fake: type[fake_core.Engine], tiny_llama: Path, tmp_path: Path
) -> None:
    file = write_adapter(tmp_path / "lora.gguf", {})
    with DarwinNEG(
        tiny_llama,
        split_mode="row",
        main_gpu=np.int64(1),
        tensor_split=np.array([3, 1]),
        devices="CUDA0",
        offload_kqv=False,
        op_offload=np.bool_(False),
        swa_full=False,
        rope_scaling_type="yarn",
        rope_freq_base=10_000,
        rope_freq_scale=np.float32(0.25),
        yarn_ext_factor=1,
        yarn_attn_factor=0.5,
        yarn_beta_fast=16,
        yarn_beta_slow=2,
        yarn_orig_ctx=512,
        lora=[file, (str(file), np.float64(0.5))],
        override_tensor={"exps": "CPU", "blk": "CUDA0"},
        n_cpu_moe=3,
        kv_overrides={"a": True, "b": np.int32(3), "c": 0.5, "d": "text"},
        numa=True,
    ) as llm:
        assert llm.path == str(tiny_llama)
    options = fake.last.options
    assert options["tensor_split"] == [3.0, 1.0] and options["devices"] == ["CUDA0"]
    assert options["lora"] == [(str(file), 1.0), (str(file), 0.5)]
    assert options["override_tensor"] == [("exps", "CPU"), ("blk", "CUDA0")]
    assert options["kv_overrides"] == [("a", True), ("b", 3), ("c", 0.5), ("d", "text")]
    assert [type(value) for _, value in options["kv_overrides"]] == [bool, int, float, str]
    given = {"split_mode": "row", "main_gpu": 1, "offload_kqv": False, "op_offload": False, "swa_full": False}
    given |= {"rope_scaling_type": "yarn", "rope_freq_base": 10_000.0, "rope_freq_scale": 0.25, "yarn_orig_ctx": 512}
    given |= {"yarn_ext_factor": 1.0, "yarn_attn_factor": 0.5, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0}
    given |= {"n_cpu_moe": 3, "numa": "distribute"}
    assert {name: options[name] for name in given} == given


BAD: list[tuple[dict[str, Any], str]] = [
    ({"split_mode": "rows"}, "split_mode must be 'none', 'layer', 'row' or 'tensor', got 'rows'"),
    ({"split_mode": "tensor"}, "split_mode is 'tensor', which needs a GPU"),
    ({"split_mode": "tensor", "devices": []}, "split_mode is 'tensor', which needs a GPU"),
    ({"tensor_split": [1.0] * 17}, "tensor_split has 17 numbers for"),
    ({"tensor_split": [-1]}, "tensor_split must be at least 0"),
    ({"tensor_split": [float("nan")]}, "tensor_split must be a finite number"),
    ({"tensor_split": "3,1"}, "tensor_split must be a list of numbers"),
    ({"tensor_split": 1.0}, "tensor_split must be a list of numbers"),
    ({"devices": ["nonsense"]}, "devices must be GPUs of this machine, got 'nonsense'"),
    ({"devices": ["CPU"]}, "devices must be GPUs of this machine, got 'CPU'"),
    ({"devices": [3]}, "devices must be text"),
    ({"offload_kqv": 1}, "offload_kqv must be True or False"),
    ({"op_offload": None}, "op_offload must be True or False"),
    ({"swa_full": "no"}, "swa_full must be True or False"),
    ({"rope_scaling_type": "longrope"}, "rope_scaling_type must be 'none', 'linear' or 'yarn'"),
    ({"rope_freq_base": -1.0}, "rope_freq_base must be at least 0"),
    ({"rope_freq_base": 0.5}, "rope_freq_base must be at least 1, or 0"),
    ({"rope_freq_scale": -0.5}, "rope_freq_scale must be between 0.0001 and 10000, or 0"),
    ({"rope_freq_scale": 1e-30}, "rope_freq_scale must be between"),
    ({"yarn_ext_factor": float("inf")}, "yarn_ext_factor must be a finite number"),
    ({"yarn_attn_factor": "1"}, "yarn_attn_factor must be a number"),
    ({"yarn_beta_fast": -3}, "yarn_beta_fast must be at least -1"),
    ({"yarn_beta_slow": 1e300}, "yarn_beta_slow must be a number that float32 can hold"),
    ({"yarn_orig_ctx": -1}, "yarn_orig_ctx must be between 0"),
    ({"yarn_orig_ctx": 2**31 - 1, "rope_freq_scale": 1e-4}, "yarn_orig_ctx must be at most"),
    ({"lora": 3}, "lora must be a path, (path, scale) or a list of them"),
    ({"lora": [3]}, "lora must be a path"),
    ({"lora": (None, 0.5)}, "lora must be a path"),
    ({"override_tensor": "exps=CPU"}, "override_tensor must be a dict"),
    ({"override_tensor": {"exps": "nonsense"}}, "override_tensor: the buffer type must be one of CPU"),
    ({"override_tensor": {"(": "CPU"}}, "override_tensor has '(', which is not a regular expression"),
    ({"override_tensor": {"(b?){9000}": "CPU"}}, "override_tensor has a pattern that is too long, or repeats too much"),
    ({"override_tensor": {"((b?){99}){99}": "CPU"}}, "override_tensor has a pattern that is too long, or repeats"),
    ({"override_tensor": {"(" * 200 + ")" * 200: "CPU"}}, "override_tensor has a pattern that is too long, or repeats"),
    ({"n_cpu_moe": -1}, "n_cpu_moe must be between 0"),
    ({"kv_overrides": ["a"]}, "kv_overrides must be a dict"),
    ({"kv_overrides": {"a" * 128: 1}}, "kv_overrides: a key has 1 to 127 bytes"),
    ({"kv_overrides": {"": 1}}, "kv_overrides: a key has 1 to 127 bytes"),
    ({"kv_overrides": {3: 1}}, "kv_overrides: a key must be text"),
    ({"kv_overrides": {"general.name": "n" * 128}}, "kv_overrides: general.name is longer than 127 bytes"),
    ({"kv_overrides": {"general.name": None}}, "kv_overrides: general.name must be True, False, a number or text"),
    ({"kv_overrides": {"general.name": 3}}, "kv_overrides: general.name is a string in the file, got 3"),
    ({"kv_overrides": {"llama.block_count": -1}}, "kv_overrides: llama.block_count must be between 0 and 4294967295"),
    ({"kv_overrides": {"llama.block_count": 2**32}}, "kv_overrides: llama.block_count must be between 0"),
    ({"kv_overrides": {"llama.block_count": 2.0}}, "kv_overrides: llama.block_count is a uint32 in the file, got 2.0"),
    ({"kv_overrides": {"llama.block_count": 0}}, "kv_overrides: llama.block_count is 0, expected 1 to 512"),
    ({"kv_overrides": {"llama.block_count": 513}}, "kv_overrides: llama.block_count is 513, expected 1 to 512"),
    ({"kv_overrides": {"llama.expert_count": 5}}, "kv_overrides: llama.expert_count is 5 in 0 groups"),
    (
        {"kv_overrides": {"llama.rope.freq_base": 10}},
        "kv_overrides: key 'llama.rope.freq_base', expected float but got",
    ),
    ({"kv_overrides": {"tokenizer.ggml.tokens": 1}}, "kv_overrides: tokenizer.ggml.tokens is an array in the file"),
    ({"kv_overrides": {"general.architecture": "qwen2"}}, "kv_overrides: general.architecture cannot be overridden"),
    ({"kv_overrides": {"llama.blok_count": 1}}, "kv_overrides: the key 'llama.blok_count' is not read"),
    ({"numa": "mirror"}, "numa must be 'distribute', 'isolate' or 'numactl'"),
    ({"numa": 1}, "numa must be 'distribute', 'isolate' or 'numactl', got 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_a_bad_value_is_refused_in_one_line(tiny_llama: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as error:
        DarwinNEG(tiny_llama, **SIZES, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(next(iter(options)))


def test_options_of_gpus_are_taken_where_there_is_none(tiny_llama: Path) -> None:
    plain = answer(tiny_llama)
    for options in (
        {"devices": []},
        {"devices": ["none"]},
        {"devices": "none"},
        {"split_mode": "row"},
        {"main_gpu": 3},
    ):
        assert answer(tiny_llama, **options, offload_kqv=False, op_offload=False) == plain


# --- positions

ROPE: list[tuple[dict[str, Any], list[str]]] = [
    ({"rope_freq_base": 500.0}, ["--rope-freq-base", "500"]),
    ({"rope_freq_scale": 0.25}, ["--rope-freq-scale", "0.25"]),
    (
        {"rope_scaling_type": "linear", "rope_freq_scale": 0.5},
        ["--rope-scaling", "linear", "--rope-freq-scale", "0.5"],
    ),
    (
        {"rope_scaling_type": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": 64, "yarn_beta_fast": 16.0},
        ["--rope-scaling", "yarn", "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "64", "--yarn-beta-fast", "16"],
    ),
    (
        {"rope_scaling_type": "yarn", "rope_freq_scale": 0.5, "yarn_ext_factor": 0.5, "yarn_attn_factor": 0.7,
         "yarn_beta_slow": 3.0},
        ["--rope-scaling", "yarn", "--rope-freq-scale", "0.5", "--yarn-ext-factor", "0.5", "--yarn-attn-factor", "0.7",
         "--yarn-beta-slow", "3"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "flags"), ROPE, ids=lambda value: " ".join(map(str, value)))
def test_positions_are_scaled_as_by_stock_llama_cpp(
    tiny_llama: Path, options: dict[str, Any], flags: list[str]
) -> None:
    text = "the quick brown fox jumps over the lazy dog and so does the other"
    command = [stock.binaries()["llama-completion"], "-m", str(tiny_llama), "-p", text, "-n", "32", "-c", "256"]
    command += ["--temp", "0", "-no-cnv", "--no-display-prompt", "-t", "1", "--ignore-eos", "-fa", "off"]
    command += ["-ctk", "f32", "-ctv", "f32", *flags]
    theirs = b""
    for _ in range(5):  # the tool may end before all of its output is written
        result = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
        theirs = max(theirs, result.stdout.strip(), key=len)
        if len(theirs) >= 24:
            break
    texts = []
    for given in (options, {}):
        with DarwinNEG(tiny_llama, **SIZES, **EXACT, **given) as llm:
            out = llm.generate(text, max_tokens=32, temperature=0.0, ignore_eos=True)
            texts.append(llm.session.detokenize_bytes(out.token_ids.tolist(), special=True))
    assert len(theirs) >= 16
    assert texts[0].strip().startswith(theirs) and not texts[1].strip().startswith(theirs)


# --- adapters


def adapter_parts(seed: int, *names: str, rank: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "ffn_down": (HIDDEN, FFN),
        "output": (258, HIDDEN),
        "token_embd": (258, HIDDEN),
    }
    parts = {}
    for name in names:
        outputs, inputs = shapes[name.split(".")[-2]]
        a, b = rng.standard_normal((rank, inputs)) * 0.2, rng.standard_normal((outputs, rank)) * 0.2
        parts[name] = (a.astype(np.float32), b.astype(np.float32))
    return parts


def deltas_of(parts: dict[str, tuple[np.ndarray, np.ndarray]], scale: float) -> dict[str, np.ndarray]:
    return {name: (scale * b.astype(np.float64) @ a).astype(np.float32) for name, (a, b) in parts.items()}


def test_adapters_act_as_weights_that_they_were_merged_into(tmp_path: Path, tiny_llama: Path) -> None:
    first = adapter_parts(1, "blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output.weight")
    second = adapter_parts(2, "blk.0.attn_q.weight", "blk.0.ffn_down.weight")
    one, two = write_adapter(tmp_path / "1.gguf", first), write_adapter(tmp_path / "2.gguf", second, alpha=2.0)
    # the strength of an adapter is alpha / rank
    deltas = deltas_of(first, 0.5 * 8 / 4)
    for name, delta in deltas_of(second, -1.5 * 2 / 4).items():
        deltas[name] = deltas.get(name, np.float32(0)) + delta
    merged = write_tiny_llama(tmp_path / "merged.gguf", deltas=deltas)
    expected = logits(merged)
    assert np.abs(logits(tiny_llama) - expected).max() > 0.1
    np.testing.assert_allclose(logits(tiny_llama, lora=[(one, 0.5), (two, -1.5)]), expected, atol=2e-4)
    assert answer(tiny_llama, lora=[(one, 0.5), (two, -1.5)]) == answer(merged) != answer(tiny_llama)
    assert np.array_equal(logits(tiny_llama, lora=(one, 0.0)), logits(tiny_llama))
    np.testing.assert_allclose(
        logits(tiny_llama, lora=one),
        logits(write_tiny_llama(tmp_path / "m.gguf", deltas=deltas_of(first, 2.0))),
        atol=2e-4,
    )


def test_an_adapter_of_the_embedding_lies_the_other_way_round(tmp_path: Path, tiny_llama: Path) -> None:
    (a, b) = adapter_parts(3, "token_embd.weight")["token_embd.weight"]
    # of each token a row of B, which A takes to the embedding
    lora = write_adapter(tmp_path / "e.gguf", {"token_embd.weight": (b, np.ascontiguousarray(a.T))})
    merged = write_tiny_llama(tmp_path / "merged.gguf", deltas=deltas_of({"token_embd.weight": (a, b)}, 2.0))
    np.testing.assert_allclose(logits(tiny_llama, lora=lora), logits(merged), atol=2e-4)


# --- keys, places, memory


def test_an_overridden_key_acts_and_is_in_the_metadata(tiny_llama: Path) -> None:
    keys = {"llama.rope.freq_base": 500.0, "tokenizer.ggml.add_bos_token": False, "general.name": "other"}
    with DarwinNEG(tiny_llama, **SIZES) as llm, DarwinNEG(tiny_llama, **SIZES, kv_overrides=keys) as other:
        assert llm.tokenize("a")[0] == 256 and other.tokenize("a") == llm.tokenize("a")[1:]
        assert (llm.metadata["general.name"], other.metadata["general.name"]) == ("tiny", "other")
        assert other.metadata["tokenizer.ggml.add_bos_token"] == "false"
    expected = logits(tiny_llama, rope_freq_base=500.0)
    assert np.array_equal(logits(tiny_llama, kv_overrides={"llama.rope.freq_base": 500.0}), expected)
    assert not np.array_equal(logits(tiny_llama), expected)


def test_an_overridden_key_of_the_sampling_is_a_default_of_requests(tiny_llama: Path) -> None:
    with DarwinNEG(tiny_llama, **SIZES, kv_overrides={"general.sampling.temp": 0.25}) as llm:
        assert llm.sampling_defaults == {"temperature": 0.25}


def test_an_integer_stands_for_a_float_and_an_override_may_mend_a_file(tmp_path: Path) -> None:
    key = "llama.attention.layer_norm_rms_epsilon"
    broken = write_tiny_llama(
        tmp_path / "m.gguf", keys={"llama.rope.freq_base": (gguf.GGUFValueType.FLOAT32, 10_000.0)}
    )
    assert answer(broken, kv_overrides={"llama.rope.freq_base": 500}) == answer(broken, rope_freq_base=500.0)
    data = broken.read_bytes()
    at = data.index(key.encode()) + len(key) + 4
    broken.write_bytes(data[:at] + np.float32("nan").tobytes() + data[at + 4 :])
    with pytest.raises(ModelFileError, match="is nan"):
        answer(broken)
    assert len(answer(broken, kv_overrides={key: 1e-5})) == 24


def test_tensors_are_put_where_a_pattern_says(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "experts.gguf", experts=4)
    moved = re.compile(r"tensor (\S+) \(.*overridden to CPU")
    assert not moved.findall(log_of(caplog, model))
    experts = {f"ffn_{part}_exps.weight" for part in ("gate", "up", "down")}
    assert set(moved.findall(log_of(caplog, model, n_cpu_moe=1))) == {f"blk.0.{name}" for name in experts}
    everything = set(moved.findall(log_of(caplog, model, n_cpu_moe=2**31 - 1)))
    assert everything == {f"blk.{layer}.{name}" for layer in (0, 1) for name in experts}
    log = log_of(caplog, model, override_tensor={r"blk\.1\.attn_[qk]": "CPU"})
    assert set(moved.findall(log)) == {"blk.1.attn_q.weight", "blk.1.attn_k.weight"}


def test_caches_of_sliding_windows_may_hold_the_window_alone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "window.gguf", arch="gemma3")
    sizes = {"n_ctx": 2048, "n_batch": 64, "n_ubatch": 64, "prefix_cache": 0}
    cells = re.compile(r"llama_kv_cache: size = .*?\( *(\d+) cells")
    assert cells.findall(log_of(caplog, model, **sizes)) == ["2048", "2048"]
    full, small = map(int, cells.findall(log_of(caplog, model, **sizes, swa_full=False)))
    assert full == 2048 and WINDOW <= small < 512
    long = {"n_ctx": 512, "n_parallel": 2, "n_threads": 1}
    texts = []
    for swa_full in (True, False):
        with DarwinNEG(model, **long, swa_full=swa_full) as llm:
            outs = llm.generate([[256, *range(40, 140)], PROMPT], max_tokens=100, temperature=0.0, ignore_eos=True)
            texts.append([out.token_ids.tolist() for out in outs])
    assert texts[0] == texts[1]


def test_a_process_has_one_numa_strategy(tiny_llama: Path) -> None:
    code = """
import sys
from darwin_neg_cpp import DarwinNEG, RequestError
sizes = {"n_ctx": 256, "n_parallel": 1, "n_threads": 1}
for numa in ("isolate", "isolate", None, False, True):
    try:
        with DarwinNEG(sys.argv[1], numa=numa, **sizes) as llm:
            print(len(llm.generate("a", max_tokens=3, ignore_eos=True).token_ids))
    except RequestError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code, str(tiny_llama)], capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[:4] == ["3"] * 4 and len(lines) == 5
    assert lines[4].startswith("numa is 'isolate' for this process since an earlier model, got 'distribute'")


def test_logits_have_memory_for_the_rows_of_a_step_alone(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    vocabulary = 2**16
    model = write_tiny_llama(tmp_path / "wide.gguf", tags=[f"<t{i}>" for i in range(vocabulary - 258)])
    log = log_of(caplog, model, n_ctx=1024, n_parallel=8, prefix_cache=0)
    (size,) = map(float, re.findall(r"CPU compute buffer size = +([\d.]+) MiB", log))
    rows = re.findall(r"n_outputs_max += (\d+)", log)
    assert rows == ["9"]
    # 512 rows of logits, of all tokens of a step, would be 128 MiB
    assert vocabulary * 4 * 9 / 2**20 < size < 8


def test_the_last_layer_skips_prompt_tokens_without_output(
    caplog: pytest.LogCaptureFixture, tiny_qwen: TinyQwen
) -> None:
    log = log_of(caplog, tiny_qwen.model)
    assert "set_embeddings_nextn: value = 0, masked = 1" in log
    tokens = [int(n) for n in np.random.default_rng(0).integers(0, 500, 70)]
    with DarwinNEG(tiny_qwen.model, **SIZES, n_batch=32) as llm:
        out = llm.generate(tokens, max_tokens=8, temperature=0.0, ignore_eos=True, logprobs=0)
        assert out.neg is not None and out.logprobs is not None
        # texts that are scored need every row, so that nothing is skipped there
        scores = llm.score([*tokens, *out.token_ids.tolist()])
    np.testing.assert_allclose(out.neg.entropy, scores.neg.entropy[69:-1], atol=2e-3)
