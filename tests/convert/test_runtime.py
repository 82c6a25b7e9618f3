"""What the converter writes, as the runtime reads it.

Logits and tokens are compared with transformers, text with the checkpoint's tokenizer.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from conftest import ROOT
from darwin_neg_cpp import DarwinNEG, RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, quantize, write
from darwin_neg_cpp.convert.tokenizer import PRE_TOKENIZERS
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import formats as neg_format
from oracles import qwen_vocabulary, tiny_qwen35, torch_pipeline

TEXT = "The quick brown fox, 你好 안녕 😀 def f(x): return x ** 2\n\n1. Solve f(x) = 0 for all real x."
LAYOUTS = {
    "released": {},
    "tied": {"tied": True},
    "experts": {"experts": True},
    "as many key as value heads": {"linear_num_key_heads": 4, "linear_num_value_heads": 4},
    "three value heads a key, another rhythm": {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    },
}


def convert_to(out: Path, folder: Path, outtype: str = "f32") -> Path:
    write.write(convert.plan(convert.Source(folder, None), outtype=outtype), out)
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_greedy_tokens_equal_transformers(llama_tree, tmp_path, layout):
    options = LAYOUTS[layout]
    model = tiny_qwen35.write_checkpoint(tmp_path / "checkpoint", llama_tree, seed=5, **options)
    file = convert_to(tmp_path / "out.gguf", tmp_path / "checkpoint")
    with DarwinNEG(file, n_ctx=512, n_parallel=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        prompt = llm.tokenize(TEXT)
        with torch.no_grad():
            expected = model(torch.tensor([prompt])).logits[0].numpy()
        got = llm.session.engine.score([prompt], logits=True)["logits"]
        assert np.abs(expected).max() > 3, "logits of nothing prove nothing"
        assert np.abs(got - expected).max() <= 1e-3
        greedy = torch_pipeline.greedy(model, prompt, 64)
        mine = llm.generate(prompt, max_tokens=64, temperature=0, ignore_eos=True)
        assert mine.token_ids.tolist() == greedy.tokens
        assert len(set(greedy.tokens)) > 20, "one token over and over proves little"


def head_bits(path: Path) -> dict[str, bytes]:
    head = neg_format.read_head(path)
    return {name: data.tobytes() for name, data in head.tensors().items()} | {
        "threshold": np.float32(head.threshold).tobytes(),
        "temp_scale": np.float32(head.temp_scale).tobytes(),
    }


def test_head_is_bit_equal_to_the_source_also_after_q4_k_m(tiny_qwen, tmp_path):
    full, small, direct = tmp_path / "full.gguf", tmp_path / "small.gguf", tmp_path / "direct.gguf"
    convert_to(full, tiny_qwen.checkpoint, "bf16")
    quantize.quantize(full, small, "q4_k_m")
    assert main(["convert", str(tiny_qwen.checkpoint), "-o", str(direct), "--outtype", "q4_k_m"]) == 0
    source = load_file(tiny_qwen.checkpoint / "neg_modules.safetensors")
    expected = {new: source[old].astype(np.float32).tobytes() for old, new in neg_format.RELEASED.items()}
    for name in ("threshold", "temp_scale"):
        expected[name] = source[f"gate.{name}"].astype(np.float32).tobytes()
    assert source["gate.temp_scale"] != 1, "which is what it is when it is not there"
    for path in (full, small, direct):
        assert head_bits(path) == expected
    # one step or two, the result is the same, and the full-size file in between is gone
    assert direct.read_bytes() == small.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct.gguf", "full.gguf", "small.gguf"]
    kinds = {info.type.name for info in read_header(direct).tensors.values()}
    assert {"Q4_K", "Q6_K", "F32"} <= kinds
    with DarwinNEG(direct, n_ctx=256, n_parallel=1) as llm:
        assert np.isfinite(llm.generate("Hello", max_tokens=4, ignore_eos=True).neg.entropy).all()


def test_types_have_llama_cpps_numbers(llama_tree):
    text = (llama_tree / "include" / "llama.h").read_text("utf-8")
    numbers = re.findall(r"^\s*LLAMA_FTYPE_(?:ALL|MOSTLY)_(\w+)\s*= (\d+)", text, re.MULTILINE)
    # one that the quantizer does not make, and one that only later versions of the library read
    made = {name.lower(): int(number) for name, number in numbers if name != "NVFP4"}
    assert made == quantize.TYPES | {"q2_0": 41}


def test_side_car_and_plain_model_make_the_same_as_one_file(tiny_qwen, tmp_path):
    one, plain, side_car = tmp_path / "one.gguf", tmp_path / "plain.gguf", tmp_path / "head.gguf"
    convert_to(one, tiny_qwen.checkpoint, "bf16")
    command = ["convert", str(tiny_qwen.checkpoint), "-o", str(plain), "--outtype", "bf16", "--side-car", str(side_car)]
    assert main(command) == 0
    assert not neg_format.has_neg(read_header(plain))
    options = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
    with DarwinNEG(one, n_ctx=256, n_parallel=1) as a, DarwinNEG(plain, side_car, n_ctx=256, n_parallel=1) as b:
        first, second = a.generate(TEXT, **options), b.generate(TEXT, **options)
    assert first.token_ids.tolist() == second.token_ids.tolist()
    np.testing.assert_array_equal(first.neg.entropy, second.neg.entropy)
    alone = tmp_path / "alone.gguf"
    assert main(["convert", str(tiny_qwen.checkpoint), "--side-car-only", "--side-car", str(alone)]) == 0
    assert alone.read_bytes() == side_car.read_bytes()


def test_head_from_a_file_and_from_among_the_shards(tiny_qwen, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_qwen.checkpoint, folder)
    head = folder / "neg_modules.safetensors"
    elsewhere = head.rename(tmp_path / "elsewhere.safetensors")
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), "-o", str(out), "--head", str(elsewhere)]) == 0
    expected = head_bits(out)

    index_path = folder / "model.safetensors.index.json"
    index = json.loads(index_path.read_text("utf-8"))
    shard = folder / "model-00003-of-00003.safetensors"
    elsewhere.rename(shard)
    index["weight_map"] |= dict.fromkeys(load_file(shard), shard.name)
    index_path.write_text(json.dumps(index), "utf-8")
    assert main(["convert", str(folder), "-o", str(out), "--force"]) == 0
    assert head_bits(out) == expected


def test_the_same_input_gives_the_same_bytes_whatever_the_threads(tiny_qwen, tmp_path):
    plan = convert.plan(convert.Source(tiny_qwen.checkpoint, None), outtype="q8_0")
    files = []
    for threads in (1, 2, 7):
        files.append(tmp_path / f"{threads}.gguf")
        write.write(plan, files[-1], threads=threads)
    assert len({file.read_bytes() for file in files}) == 1


def test_dry_run_tells_the_size_and_writes_nothing(tiny_qwen, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(tiny_qwen.checkpoint), "--outtype", "q8_0", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert "token_embd.weight" in said and "neg.proj_down.w" in said and "Q8_0" in said and "memory" in said
    plan = convert.plan(convert.Source(tiny_qwen.checkpoint, None), outtype="q8_0")
    out = tmp_path / "out.gguf"
    write.write(plan, out)
    assert out.stat().st_size == plan.file_size


def test_numpy_gguf_and_huggingface_hub_are_enough(tiny_qwen, tmp_path):
    # everything else that is installed here, our own compiled part included, is made to fail on import
    blocked = ["torch", "transformers", "safetensors", "tokenizers", "pandas", "scipy", "darwin_neg_cpp._core"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"sys.argv = ['convert_to_gguf.py', *sys.argv[1:]]; import runpy\n"
        f"runpy.run_path({str(ROOT / 'convert' / 'convert_to_gguf.py')!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(tiny_qwen.checkpoint), "-o", str(tmp_path / "out.gguf")]
    done = subprocess.run([*command, "--outtype", "q8_0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([*command, "--outtype", "q4_k_m", "--force"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "needs the compiled engine" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


# --- tokenizer


@pytest.fixture(scope="module", params=sorted(set(PRE_TOKENIZERS.values())))
def tokenizers(request, tiny_qwen, tmp_path_factory):
    """(runtime, the checkpoint's own tokenizer), for each pre-tokenizer of the family."""
    import tokenizers

    folder = tmp_path_factory.mktemp("tokenizer") / "checkpoint"
    shutil.copytree(tiny_qwen.checkpoint, folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    (expression,) = (e for e, name in PRE_TOKENIZERS.items() if name == request.param)
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expression
    path.write_text(json.dumps(data), "utf-8")
    file = convert_to(folder / "out.gguf", folder, "q8_0")
    assert read_header(file).value("tokenizer.ggml.pre") == request.param
    with DarwinNEG(file, n_ctx=64, n_parallel=1) as llm:
        yield request.param, llm, tokenizers.Tokenizer.from_file(str(path))


def test_tokens_equal_llama_cpps_vectors(tokenizers, llama_tree):
    _, llm, _ = tokenizers
    models = llama_tree / "models"
    texts = (models / "ggml-vocab-qwen35.gguf.inp").read_text("utf-8").split("\n__ggml_vocab_test__\n")
    lines = (models / "ggml-vocab-qwen35.gguf.out").read_text("utf-8").split("\n")
    assert len(texts) >= 40
    for text, line in zip(texts, lines, strict=False):
        assert llm.tokenize(text) == [int(token) for token in line.split()], text


@pytest.mark.parametrize(("name", "expression"), [(name, expression) for expression, name in PRE_TOKENIZERS.items()])
def test_llama_cpps_converter_gives_our_expressions_the_same_names(llama_tree, name, expression):
    """It knows a pre-tokenizer by the tokens of one text, in the published vocabulary of the generation so named."""
    base = (llama_tree / "conversion" / "base.py").read_text("utf-8")
    text = ast.literal_eval(re.search(r"^ +chktxt = (.*)$", base, re.MULTILINE)[1])
    ranks = qwen_vocabulary.ranks({"qwen2": "qwen", "qwen35": "qwen3_6"}[name])
    tokens = qwen_vocabulary.encode(unicodedata.normalize("NFC", text), expression, ranks)
    digest = hashlib.sha256(str(tokens).encode()).hexdigest()
    known = re.search(rf'chkhsh == "{digest}":\n +# ref: (\S+)\n +res = "(\w+)"', base)
    assert known is not None and known[2] == name
    assert "Qwen/Qwen" in known[1]


def random_texts(n: int) -> list[str]:
    rng = random.Random(11)
    parts = [
        lambda: "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(1, 8))),
        lambda: "".join(chr(rng.randint(0xAC00, 0xD7A3)) for _ in range(rng.randint(1, 8))),
        lambda: "".join(chr(rng.randint(0x3041, 0x30FE)) for _ in range(rng.randint(1, 8))),
        lambda: rng.choice(["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇰🇷", "✅", "🦙🦙", "☃️"]),
        lambda: (
            rng.choice([" ", "  ", "\t", "\n", "\r\n", "\n\n\n", "   \n  ", " \t ", "\u00a0", "\u3000"])
            * rng.randint(1, 4)
        ),
        lambda: rng.choice(
            ["def f(x):", "for (int i = 0; i < n; ++i) {", '{"a": [1, 2]}', "</div>", "x ** 2 != y", "#include <a>"]
        ),
        lambda: rng.choice(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "|>"]),
        lambda: str(rng.randint(0, 10 ** rng.randint(1, 12))),
        lambda: rng.choice(
            ["I've", "can't", "WE'LL", "don’t", "naïve", "Äpfel", "Привет", "मराठी", "ไทย", "שלום", "مرحبا"]
        ),
        lambda: "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFXYZ") for _ in range(rng.randint(1, 12))),
        lambda: rng.choice("!?.,;:…-–—'\"`~@#$%^&*()[]{}<>/\\|") * rng.randint(1, 5),
        lambda: "".join(chr(rng.choice([0x00, 0x07, 0x1B, 0x7F, 0x200B, 0x200D, 0xFEFF, 0xFFFD])) for _ in range(2)),
    ]
    return ["".join(rng.choice(parts)() + rng.choice(["", " "]) for _ in range(rng.randint(1, 12))) for _ in range(n)]


def test_tokens_equal_the_checkpoints_tokenizer_on_2000_strings(tokenizers):
    _, llm, oracle = tokenizers
    wrong = []
    for text in random_texts(2000):
        # the checkpoint's tokenizer normalizes first, llama.cpp never does: see docs/convert.md
        normal = unicodedata.normalize("NFC", text)
        if llm.tokenize(normal) != oracle.encode(normal, add_special_tokens=False).ids:
            wrong.append(normal)
    assert wrong == []


def test_broken_surrogates_are_refused_by_both(tokenizers):
    _, llm, oracle = tokenizers
    for text in ("\ud800", "a\udfffb", "\ud83d \ude00"):
        with pytest.raises(RequestError):
            llm.tokenize(text)
        with pytest.raises(Exception):  # noqa: B017 (whatever the library raises)
            oracle.encode(text)
