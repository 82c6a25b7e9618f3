"""The converter against llama.cpp's own, of the pinned tree: the same bytes in every tensor, the same value per key.

What differs on purpose is listed here, and in docs/convert.md with the reasons.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

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
    checkpoints: Path
    theirs: Path

    def checkpoint(self, variant: Variant) -> Path:
        return self.checkpoints / variant.name

    def file(self, variant: Variant, outtype: str) -> Path:
        return self.theirs / f"{variant.name}-{outtype}.gguf"


@pytest.fixture(scope="module")
def converted(llama_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    base = tmp_path_factory.mktemp("variants")
    tokenizer = base / "tokenizer"
    template = (llama_tree / "models" / "templates" / "Qwen3.5-4B.jinja").read_text("utf-8")
    tokenizer.mkdir()
    write_tokenizer(llama_tree / "models" / "ggml-vocab-qwen35.gguf", tokenizer, template)
    out = Converted(base / "checkpoints", base / "theirs")
    out.theirs.mkdir()
    jobs = []
    for seed, variant in enumerate(VARIANTS):
        variants.write(variant, out.checkpoint(variant), tokenizer, VOCAB, seed)
        # theirs refuses a checkpoint that lacks the block unless --no-mtp is given
        flags = [] if variant.mtp and "--no-mtp" not in variant.arguments else ["--no-mtp"]
        types = [*variant.types, "auto"]
        jobs += [(out.checkpoint(variant), out.file(variant, t), ["--outtype", t, *flags]) for t in types]
    llama_converter.convert_all(llama_tree, jobs)
    yield out
    shutil.rmtree(base)


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
    theirs, ours = read_header(converted.file(variant, outtype)), read_header(out)

    left_out = {"output.weight"} if variant.tied and variant.stored_head else set()
    assert set(theirs.tensors) - set(ours.tensors) == left_out
    assert not set(ours.tensors) - set(theirs.tensors)
    for name, info in ours.tensors.items():
        assert (info.shape, info.type) == (theirs.tensors[name].shape, theirs.tensors[name].type), name
        mine, other = data_of(ours, name), data_of(theirs, name)
        if name.endswith(".ssm_a"):
            check_exponential(converted.checkpoint(variant), variant, name, mine.view("<f4"), other.view("<f4"))
        else:
            assert np.array_equal(mine, other), name

    # of experts alone, theirs writes the feed-forward length that transformers takes for granted and nothing uses
    known = {"qwen35moe.feed_forward_length"} if variant.experts else set()
    # theirs counts the tied head that ours leaves out
    other_value = {"general.size_label"} if left_out else set()
    assert set(theirs.keys) - set(ours.keys) == known
    assert not set(ours.keys) - set(theirs.keys)
    for key, entry in ours.keys.items():
        their = theirs.keys[key]
        same = ours.raw[entry.begin : entry.end] == theirs.raw[their.begin : their.end]
        assert same == (key not in other_value), key


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
    theirs = read_header(converted.file(variant, "auto")).value("general.file_type")
    assert int(OUT_TYPES[plan.outtype][0]) == theirs
    assert plan.outtype == {"BF16": "bf16", "F16": "f16", "F32": "f16"}[variant.dtype]
