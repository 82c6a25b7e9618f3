"""The converter against llama.cpp's own, of the pinned tree: the same bytes in every tensor, the same value per key.

What differs on purpose is listed here, and in docs/convert.md with the reasons.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from conftest import PIN, TESTS, made
from darwin_neg_cpp.convert import convert, write
from darwin_neg_cpp.convert.plan import OUT_TYPES
from darwin_neg_cpp.gguf_file.header import Header, read_header
from oracles import llama_converter, variants
from oracles.qwen_tokenizer import write_tokenizer
from oracles.variants import VARIANTS, Variant

VOCAB = 151_936
CASES = [(variant, outtype) for variant in VARIANTS for outtype in variant.types]


@dataclass(frozen=True)
class Converted:
    """Checkpoints, and what llama.cpp's converter makes of each: `summary` of the file by variant and type."""

    checkpoints: Path
    theirs: dict[str, dict[str, Any]]

    def checkpoint(self, variant: Variant) -> Path:
        return self.checkpoints / variant.name


@pytest.fixture(scope="module")
def converted(llama_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    base = tmp_path_factory.mktemp("variants")
    tokenizer = base / "tokenizer"
    template = (llama_tree / "models" / "templates" / "Qwen3.5-4B.jinja").read_text("utf-8")
    tokenizer.mkdir()
    write_tokenizer(llama_tree / "models" / "ggml-vocab-qwen35.gguf", tokenizer, template)
    for seed, variant in enumerate(VARIANTS):
        variants.write(variant, base / "checkpoints" / variant.name, tokenizer, VOCAB, seed)

    def make(folder: Path) -> None:
        jobs = []
        for variant in VARIANTS:
            # theirs refuses a checkpoint that lacks the block unless --no-mtp is given
            flags = [] if variant.mtp and "--no-mtp" not in variant.arguments else ["--no-mtp"]
            for t in (*variant.types, "auto"):
                out = base / f"{variant.name}-{t}.gguf"
                jobs.append((base / "checkpoints" / variant.name, out, ["--outtype", t, *flags]))
        llama_converter.convert_all(llama_tree, jobs)
        (folder / "theirs.json").write_text(json.dumps({out.stem: summary(out) for _, out, _ in jobs}), "utf-8")
        for _, out, _ in jobs:
            out.unlink()

    oracles = TESTS / "oracles"
    sources = [oracles / name for name in ("variants.py", "llama_converter.py", "qwen_tokenizer.py")]
    versions = [torch.__version__, transformers.__version__, inspect.getsource(summary)]
    cached = made("llama-converter", make, *sources, PIN, versions=versions) / "theirs.json"
    yield Converted(base / "checkpoints", json.loads(cached.read_text("utf-8")))
    shutil.rmtree(base)


def summary(path: Path) -> dict[str, Any]:
    """What the tests compare of a file: hashes of keys and tensors, and the tensors whose bytes may differ."""
    header = read_header(path)
    tensors = {}
    for name, info in header.tensors.items():
        data = data_of(header, name)
        values = data.view("<f4").tolist() if name.endswith(".ssm_a") else None
        tensors[name] = [list(info.shape), info.type, hashlib.sha256(data).hexdigest(), values]
    keys = {key: hashlib.sha256(header.raw[entry.begin : entry.end]).hexdigest() for key, entry in header.keys.items()}
    return {"tensors": tensors, "keys": keys, "file_type": header.value("general.file_type")}


def data_of(header: Header, name: str) -> np.ndarray:
    info = header.tensors[name]
    return np.fromfile(header.path, np.uint8, info.size, offset=header.data_start + info.offset)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "outtype"), CASES, ids=[f"{variant.name}-{t}" for variant, t in CASES])
def test_every_tensor_and_key_equals_llama_cpp(converted, variant, outtype, tmp_path):
    source = convert.Source(converted.checkpoint(variant), None)
    plan = convert.plan(source, outtype=outtype, without_neg=True, mtp="--no-mtp" not in variant.arguments)
    out = tmp_path / "out.gguf"
    write.write(plan, out)
    theirs, ours = converted.theirs[f"{variant.name}-{outtype}"], summary(out)

    left_out = {"output.weight"} if variant.tied and variant.stored_head else set()
    assert set(theirs["tensors"]) - set(ours["tensors"]) == left_out
    assert not set(ours["tensors"]) - set(theirs["tensors"])
    for name, (*form, digest, values) in ours["tensors"].items():
        *their_form, their_digest, their_values = theirs["tensors"][name]
        assert form == their_form, name
        if name.endswith(".ssm_a"):
            mine, other = np.array(values, np.float32), np.array(their_values, np.float32)
            check_exponential(converted.checkpoint(variant), variant, name, mine, other)
        else:
            assert digest == their_digest, name

    # of experts alone, theirs writes the feed-forward length that transformers takes for granted and nothing uses
    known = {"qwen35moe.feed_forward_length"} if variant.experts else set()
    # theirs counts the tied head that ours leaves out
    other_value = {"general.size_label"} if left_out else set()
    assert set(theirs["keys"]) - set(ours["keys"]) == known
    assert not set(ours["keys"]) - set(theirs["keys"])
    for key, digest in ours["keys"].items():
        assert (digest == theirs["keys"][key]) == (key not in other_value), key


def check_exponential(folder: Path, variant: Variant, name: str, mine: np.ndarray, theirs: np.ndarray) -> None:
    """Compares -exp(A_log): ours is the number nearest to the true value, torch's vector code at most one step away."""
    np.testing.assert_array_max_ulp(mine, theirs, 1 if variant.dtype != "F16" else 1 << 13)
    stored = convert.open_checkpoint(folder).tensors
    layer = int(name.split(".")[1])
    (source,) = (t for t in stored.values() if t.name.endswith(f"layers.{layer}.linear_attn.A_log"))
    raw = np.fromfile(source.path, np.uint8, source.size, offset=source.offset)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[source.dtype]
    exact = -torch.exp(torch.from_numpy(raw).view(dtype).to(torch.float64))
    # heads by their place within the group of a key, as theirs orders them
    config = variants.configuration(variant, VOCAB)
    k_heads = config.get("text_config", config)["linear_num_key_heads"]
    tiled = exact.reshape(k_heads, -1).transpose(0, 1).reshape(-1).numpy()
    narrow = tiled.astype(np.float16 if source.dtype == "F16" else np.float32).astype(np.float32)
    assert mine.tolist() == narrow.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_auto_takes_the_type_that_theirs_takes(converted, variant):
    mtp = "--no-mtp" not in variant.arguments
    plan = convert.plan(convert.Source(converted.checkpoint(variant), None), without_neg=True, mtp=mtp)
    theirs = converted.theirs[f"{variant.name}-auto"]["file_type"]
    assert int(OUT_TYPES[plan.outtype][0]) == theirs
    assert plan.outtype == {"BF16": "bf16", "F16": "f16", "F32": "f16"}[variant.dtype]
