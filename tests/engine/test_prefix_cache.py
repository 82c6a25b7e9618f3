"""Prompts that begin like earlier ones: the same answers as without the cache, and only what is new is decoded."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import SmolLM2
from darwin_neg_cpp import DarwinNEG, Generation

ARCHITECTURES = ["llama", "gemma3", "qwen35", "qwen35moe"]
HYBRIDS = ["qwen35", "qwen35moe"]
N_CTX = 1024


def words(seed: int, n: int) -> list[int]:
    """A random text of n bytes, as its token ids."""
    return random.Random(seed).choices(range(97, 123), k=n)


def open_model(path: Path, **options: object) -> DarwinNEG:
    exact = {"flash_attn": "off", "type_k": "f32", "type_v": "f32", "swa_full": False}
    return DarwinNEG(path, **{"n_ctx": N_CTX, "n_parallel": 4, "n_threads": 1, **exact, **options})  # type: ignore[arg-type]


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(byte_models: dict[str, Path], architecture: str) -> Iterator[tuple[DarwinNEG, DarwinNEG]]:
    """An engine that keeps prefixes, and one that keeps nothing."""
    with open_model(byte_models[architecture]) as keeps, open_model(byte_models[architecture], prefix_cache=0) as plain:
        yield keeps, plain


def assert_same(got: Generation, expected: Generation) -> None:
    """Equal tokens and entropies up to the rounding of another shape of batch, which may turn a near tie."""
    assert got.neg is not None and got.logprobs is not None
    assert expected.neg is not None and expected.logprobs is not None
    a, b = got.token_ids.tolist(), expected.token_ids.tolist()
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if same is None:
        assert len(a) == len(b)
        same = len(a)
    else:
        top = expected.logprobs.top[same]
        assert top[0] - top[1] < 1e-3, (same, a, b)
    np.testing.assert_allclose(got.neg.entropy[:same], expected.neg.entropy[:same], atol=2e-3)
    np.testing.assert_allclose(got.logprobs.chosen[:same], expected.logprobs.chosen[:same], atol=2e-3)


def answer(llm: DarwinNEG, prompt: list[int], n: int = 8) -> Generation:
    return llm.generate(prompt, temperature=0, max_tokens=n, ignore_eos=True, logprobs=2)


def test_a_conversation_decodes_what_is_new(pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    keeps, plain = pair
    text, known = words(0, 60), 0
    for turn in range(6):
        got, expected = answer(keeps, text), answer(plain, text)
        assert_same(got, expected)
        assert (got.cached_tokens, expected.cached_tokens) == (known, 0)
        # the last token of an answer has been drawn and not decoded
        known = len(text) + len(got.token_ids) - 1
        text = [*text, *got.token_ids.tolist(), *words(turn + 1, 30)]
    assert keeps.stats()["n_prompt_reused"] == plain.stats()["n_prompt_decoded"] - keeps.stats()["n_prompt_decoded"] > 0


def test_a_chat_continues_where_the_template_starts_the_answer(pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    """The template opens the reasoning for an answer and leaves it out of the history."""
    keeps, known = pair[0], 0
    messages = [{"role": "user", "content": "Tell me about the rivers of the north, and of the mountains."}]
    for turn in range(4):
        options = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "logprobs": 2}
        got, expected = (llm.chat(messages, **options) for llm in pair)
        assert_same(got.generation, expected.generation)
        assert got.generation.cached_tokens >= known, turn
        # up to where the template begins the answer
        known = len(keeps.chat_tokens(messages, add_generation_prompt=False))
        question = f"And what about number {turn}, which I have not heard of yet?"
        messages = [*messages, {"role": "assistant", "content": "ok"}, {"role": "user", "content": question}]


def test_another_question_about_one_document(byte_models: dict[str, Path], architecture: str) -> None:
    """The same text before, another one in the last message: what comes before it is shared by any kind of memory."""
    document = "".join(map(chr, words(3, 300)))
    with open_model(byte_models[architecture]) as llm:
        n_before = len(llm.chat_tokens([{"role": "system", "content": document}], add_generation_prompt=False))
        for number, question in enumerate(["Who?", "Where does it take place?", "Why?"]):
            messages = [{"role": "system", "content": document}, {"role": "user", "content": question}]
            out = llm.chat(messages, temperature=0, max_tokens=4)
            assert out.generation.cached_tokens >= (0 if number == 0 else n_before)


@pytest.mark.parametrize("n_prompts", [3, 9])
def test_prompts_that_wait_together_decode_their_beginning_once(
    pair: tuple[DarwinNEG, DarwinNEG], n_prompts: int
) -> None:
    keeps, plain = pair
    common = words(1, 150)
    prompts = [[*common, *words(2 + i, 40)] for i in range(n_prompts)]
    options = {"temperature": 0, "max_tokens": 5, "ignore_eos": True, "logprobs": 2}
    for got, prompt in zip(keeps.generate(prompts, **options), prompts, strict=True):
        assert_same(got, answer(plain, prompt, 5))
    assert keeps.stats()["n_prompt_decoded"] <= 150 + n_prompts * 41
    assert keeps.stats()["n_preempted"] == 0


def test_equal_prompts_that_wait_together(pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    keeps, plain = pair
    prompt = words(1, 150)
    options = {"temperature": 0, "max_tokens": 5, "ignore_eos": True, "logprobs": 2}
    expected = answer(plain, prompt, 5)
    for got in keeps.generate([prompt] * 6, **options):
        assert_same(got, expected)
    assert keeps.stats()["n_prompt_decoded"] <= 150 + 5


def test_samples_of_prompts_that_wait_together(pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    keeps, plain = pair
    prompts = [[*words(1, 100), *words(2 + i, 40)] for i in range(3)]
    options = {"temperature": 0, "max_tokens": 5, "ignore_eos": True, "logprobs": 2}
    for samples, prompt in zip(keeps.generate(prompts, n=6, **options), prompts, strict=True):
        for one in samples:
            assert_same(one, answer(plain, prompt, 5))
    assert keeps.stats()["n_prompt_decoded"] <= 100 + 3 * 41


def test_more_texts_than_fit_push_out_the_oldest(byte_models: dict[str, Path], architecture: str) -> None:
    """A context of four long texts: running requests never wait for kept ones, and nobody has to give way."""
    with (
        open_model(byte_models[architecture], n_ctx=512, prefix_cache_bytes=0) as keeps,
        open_model(byte_models[architecture], n_ctx=512, prefix_cache=0) as plain,
    ):
        for round_ in range(2):
            for i in range(6):
                text = [*words(i, 180), *words(100 + round_, 20)]
                assert_same(answer(keeps, text), answer(plain, text))
        long_text = words(50, 500)
        assert_same(answer(keeps, long_text), answer(plain, long_text))
        stats = keeps.stats()
        assert (stats["n_preempted"], stats["n_recomputed"], stats["prefix_bytes"]) == (0, 0, 0)


def test_preempted_samples_come_back(byte_models: dict[str, Path], architecture: str) -> None:
    """Four texts that grow beyond the context."""
    options = {"temperature": 0, "max_tokens": 60, "ignore_eos": True, "logprobs": 2}
    with (
        open_model(byte_models[architecture], n_ctx=256, n_batch=64) as keeps,
        open_model(byte_models[architecture], n_ctx=256, prefix_cache=0) as plain,
    ):
        prompts = [[*words(1, 40), *words(9 + i, 20)] for i in range(4)]
        for _ in range(2):
            for got, prompt in zip(keeps.generate(prompts, **options), prompts, strict=True):
                assert_same(got, answer(plain, prompt, 60))
        assert keeps.stats()["n_preempted"] > 0


@pytest.mark.parametrize("options", [{"mtp": 2}, {"draft": "ngram"}])
@pytest.mark.parametrize("name", ["qwen35", "qwen35moe"])
def test_drafts_beside_kept_texts(byte_models: dict[str, Path], name: str, options: dict[str, object]) -> None:
    """The block is random, so that nearly every draft is taken back: a state with that pending must not be copied."""
    with (
        open_model(byte_models[name], **options) as keeps,
        open_model(byte_models[name], prefix_cache=0) as plain,
    ):
        text = words(0, 80)
        for turn in range(5):
            got = answer(keeps, text, 12)
            assert_same(got, answer(plain, text, 12))
            together = keeps.generate(
                [[*text, *words(i, 20)] for i in range(3)], temperature=0, max_tokens=6, logprobs=2
            )
            for i, one in enumerate(together):
                assert_same(one, plain.generate([*text, *words(i, 20)], temperature=0, max_tokens=6, logprobs=2))
            text = [*text, *got.token_ids.tolist(), *words(turn + 1, 40)]
        assert keeps.stats()["n_prompt_reused"] > 0


def test_a_cancelled_prompt_leaves_what_it_had(byte_models: dict[str, Path], architecture: str) -> None:
    text = words(7, 900)
    with (
        open_model(byte_models[architecture], n_batch=32) as keeps,
        open_model(byte_models[architecture], prefix_cache=0) as plain,
    ):
        for _ in range(3):
            with keeps.stream(text, temperature=0, max_tokens=8) as stream:
                deadline, done = time.monotonic() + 20, keeps.stats()["n_steps"]
                while keeps.stats()["n_steps"] < done + 3 and time.monotonic() < deadline:
                    time.sleep(0)
            while keeps.stats()["n_seq_used"] > 0:
                time.sleep(0.001)
        assert stream is not None
        got = answer(keeps, text)
        assert_same(got, answer(plain, text))
        assert got.cached_tokens > 0 or architecture != "llama"  # else the state of a decode that was stopped is lost


def test_host_memory_holds_what_the_context_cannot(byte_models: dict[str, Path], architecture: str) -> None:
    """Two conversations in turns, and a single place to keep one."""
    with (
        open_model(byte_models[architecture], prefix_cache=1) as keeps,
        open_model(byte_models[architecture], prefix_cache=0) as plain,
    ):
        texts = [words(0, 90), words(1, 90)]
        for turn in range(4):
            for i, text in enumerate(texts):
                got = answer(keeps, text)
                assert_same(got, answer(plain, text))
                assert got.cached_tokens >= (0 if turn == 0 else 90), (turn, i)
                texts[i] = [*text, *got.token_ids.tolist(), *words(turn + 5, 30)]
        assert 0 < keeps.stats()["prefix_bytes"] <= 256 << 20


def test_host_memory_keeps_to_its_limit(byte_models: dict[str, Path], architecture: str) -> None:
    with open_model(byte_models[architecture], prefix_cache=1, prefix_cache_bytes=1_000_000) as llm:
        for i in range(12):
            answer(llm, words(i, 100), 2)
            assert llm.stats()["prefix_bytes"] <= 1_000_000
    with open_model(byte_models[architecture], prefix_cache=1, prefix_cache_bytes=10) as llm:
        for i in range(3):
            answer(llm, words(i, 100), 2)
        assert llm.stats()["prefix_bytes"] == 0


def test_what_nobody_shares_does_not_stay_among_the_cells_of_who_runs(
    byte_models: dict[str, Path], architecture: str
) -> None:
    """Attention goes over every cell in use; a state with checkpoints is mostly not attention, and stays."""
    idle, other = words(0, 400), words(1, 40)
    moves = architecture == "llama"
    path = byte_models[architecture]
    with open_model(path) as keeps, open_model(path, prefix_cache=0) as plain:
        answer(keeps, idle)
        assert_same(answer(keeps, other), answer(plain, other))
        assert (keeps.stats()["prefix_bytes"] > 0) == moves
        assert (keeps.stats()["n_prefixes"] == 1) == moves
        longer = [*idle, *words(2, 20)]
        got = answer(keeps, longer)
        assert_same(got, answer(plain, longer))
        assert got.cached_tokens >= 399
    with open_model(path, prefix_cache_bytes=0) as keeps:
        answer(keeps, idle)
        answer(keeps, other)
        assert keeps.stats()["n_prefixes"] >= 2  # nothing is lost for want of host memory


def test_a_real_conversation(smollm2: SmolLM2) -> None:
    """The weights of SmolLM2 in F32, and the model's own template."""
    messages = [{"role": "user", "content": "Name three rivers of Europe, and say where they end."}]
    with open_model(smollm2.f32, n_threads=0) as keeps, open_model(smollm2.f32, n_threads=0, prefix_cache=0) as plain:
        for turn in range(3):
            options = {"temperature": 0, "max_tokens": 16, "logprobs": 2}
            got, expected = keeps.chat(messages, **options), plain.chat(messages, **options)
            assert_same(got.generation, expected.generation)
            assert (got.generation.cached_tokens > 0) == (turn > 0)
            messages += [{"role": "assistant", "content": got.text}, {"role": "user", "content": f"And number {turn}?"}]


@st.composite
def conversations(draw: st.DrawFn) -> list[list[int]]:
    """Texts that extend, edit, cut and branch off earlier ones."""
    texts = [words(draw(st.integers(0, 3)), draw(st.integers(20, 120)))]
    for _ in range(draw(st.integers(1, 4))):
        base = draw(st.sampled_from(texts))
        keep = draw(st.one_of(st.just(len(base)), st.integers(1, len(base))))
        texts.append([*base[:keep], *words(draw(st.integers(4, 9)), draw(st.integers(1, 80)))])
    return texts


@pytest.fixture(scope="module")
def lasting(byte_models: dict[str, Path]) -> Iterator[dict[str, tuple[DarwinNEG, DarwinNEG]]]:
    """The engines of all random conversations: what one leaves behind must not show in the next."""
    opened = {
        # with a small batch the sliding window's own memory is small, so that it moves on
        name: (open_model(path, prefix_cache_bytes=200_000, n_batch=32), open_model(path, prefix_cache=0, n_batch=32))
        for name, path in byte_models.items()
    }
    yield opened
    assert all(keeps.stats()["n_prompt_reused"] > 5000 for keeps, _ in opened.values())
    for engines in opened.values():
        for llm in engines:
            llm.close()


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=125, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=conversations(), together=st.booleans(), n_new=st.integers(1, 6))
def test_random_conversations(
    lasting: dict[str, tuple[DarwinNEG, DarwinNEG]], name: str, texts: list[list[int]], together: bool, n_new: int
) -> None:
    keeps, plain = lasting[name]
    options = {"temperature": 0, "max_tokens": n_new, "ignore_eos": True, "logprobs": 2}
    got = keeps.generate(texts, **options) if together else [answer(keeps, text, n_new) for text in texts]
    for text, one in zip(texts, got, strict=True):
        assert_same(one, answer(plain, text, n_new))
        assert one.cached_tokens < len(text)
    assert keeps.stats()["n_seq_used"] == 0
