"""The runtime against transformers on a tiny random checkpoint of the released layout.

llama.cpp's converter converts it to F32. Keys and values are cached in F32 here, as transformers does; with the default
F16 cache the difference is the cache's.
"""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import TinyQwen
from darwin_neg_cpp import DarwinNEG
from oracles import neg_reference, torch_pipeline

PROMPTS = ["The quick brown fox, 你好 안녕 😀 def f(x):", "Solve: If f(x) = x³ − 3x + 2, find all critical points."]


def prompt_tokens(llm: DarwinNEG) -> int:
    """Tokens of prompts so far, each prompt counted once."""
    return llm.stats()["n_prompt_decoded"] + llm.stats()["n_prompt_reused"]


@pytest.fixture(scope="module")
def torch_model(tiny_qwen: TinyQwen):
    from transformers import Qwen3_5ForConditionalGeneration

    return Qwen3_5ForConditionalGeneration.from_pretrained(
        tiny_qwen.checkpoint, dtype="float32", attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def llm(tiny_qwen: TinyQwen):
    with DarwinNEG(tiny_qwen.model, n_ctx=512, n_parallel=4, type_k="f32", type_v="f32") as model:
        yield model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", PROMPTS)
def test_greedy_tokens_and_entropies_equal_transformers(tiny_qwen, torch_model, llm, text):
    prompt = llm.tokenize(text)
    expected = torch_pipeline.greedy(torch_model, prompt, 64)
    assert len(set(expected.tokens)) > 20, "a degenerate oracle proves nothing"
    got = llm.generate(prompt, max_tokens=64, temperature=0, ignore_eos=True, true_entropy=True)
    logits = expected.hidden @ torch_model.lm_head.weight.detach().numpy().T
    np.testing.assert_allclose(got.true_entropy, neg_reference.entropy_of(logits), atol=1e-3)
    assert got.token_ids.tolist() == expected.tokens
    head = load_file(tiny_qwen.checkpoint / "neg_modules.safetensors")
    entropies = torch_pipeline.torch_head(head, expected.hidden)
    assert np.ptp(entropies) > 1.0
    np.testing.assert_allclose(got.neg.entropy, entropies, atol=1e-3)
    assert (got.neg.active == (got.neg.entropy > float(head["gate.threshold"]))).all()


def test_predicted_entropy_equals_float64_head_on_same_hidden_state(tiny_qwen, llm):
    head = load_file(tiny_qwen.checkpoint / "neg_modules.safetensors")
    out = llm.session.engine.score([llm.tokenize(" ".join(PROMPTS))], hidden=True, logits=True)
    np.testing.assert_allclose(out["predicted_entropy"], neg_reference.head_entropy(head, out["hidden"]), atol=1e-4)
    np.testing.assert_allclose(out["true_entropy"], neg_reference.entropy_of(out["logits"]), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_tokens_equal_the_checkpoints_own_tokenizer(tiny_qwen, llm):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen.checkpoint)
    for text in [*PROMPTS, "  leading\n\n\ttabs and 123 numbers", "한국어 テスト 中文"]:
        assert llm.tokenize(text) == tokenizer.encode(text)


@pytest.mark.filterwarnings("ignore")
def test_samples_of_one_prompt_copy_the_recurrent_state(tiny_qwen, llm):
    """Greedy samples continue from copies of one hybrid state, so all must equal a lone run."""
    prompt = llm.tokenize(PROMPTS[0])
    alone = llm.generate(prompt, max_tokens=24, temperature=0, ignore_eos=True)
    before = prompt_tokens(llm)
    many = llm.generate(prompt, max_tokens=24, temperature=0, ignore_eos=True, n=9)
    assert prompt_tokens(llm) - before == len(prompt)
    for one in many:
        assert one.token_ids.tolist() == alone.token_ids.tolist()


def test_side_car_gives_the_same_entropies_as_the_one_file_form(tiny_qwen, llm, tmp_path):
    from darwin_neg_cpp.neg import files as neg_files

    neg_files.write_side_car(tiny_qwen.model, tiny_qwen.base, tmp_path / "side-car.gguf")
    prompt = llm.tokenize(PROMPTS[1])
    expected = llm.generate(prompt, max_tokens=16, temperature=0, ignore_eos=True)
    with DarwinNEG(
        tiny_qwen.base, tmp_path / "side-car.gguf", n_ctx=512, n_parallel=4, type_k="f32", type_v="f32"
    ) as other:
        got = other.generate(prompt, max_tokens=16, temperature=0, ignore_eos=True)
    np.testing.assert_array_equal(got.neg.entropy, expected.neg.entropy)
