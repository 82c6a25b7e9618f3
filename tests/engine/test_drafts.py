"""Drafts change how fast tokens come, and nothing else: every result is held against the same model without drafts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, Generation, Neg, RequestError
from darwin_neg_cpp.cli.main import main
from tiny_gguf import write_tiny_llama
from tiny_hybrid import write_tiny_hybrid

CLOSE = 1e-4
PROMPT = "hello world"
SMALL: dict[str, Any] = {
    "n_ctx": 512,
    "n_parallel": 4,
    "n_threads": 1,
    "mtp_max_parallel": 4,
    # Flash attention computes in half precision: there the shape of a batch alone moves entropies by up to 1e-2, and
    # sampled tokens with them. Without it two runs agree to 1e-5, which no wrong state would.
    "type_k": "f32",
    "type_v": "f32",
    "flash_attn": "off",
}
# what drafts, and how: the name of a model file, and the options
DRAFTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtp-1": ("good", {"mtp": 1}),
    "mtp-2": ("good", {"mtp": 2}),
    "mtp-4": ("good", {"mtp": 4}),
    "never right": ("random", {"mtp": 3}),
    "lookup": ("good", {"draft": "ngram", "draft_max": 5}),
    "lookup, attention only": ("llama", {"draft": "ngram", "draft_max": 5}),
    "lookup and mtp": ("good", {"mtp": 2, "draft": "ngram", "draft_max": 4}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drafts")
    return {
        "good": write_tiny_hybrid(folder / "good.gguf"),
        "random": write_tiny_hybrid(folder / "random.gguf", block="random"),
        "none": write_tiny_hybrid(folder / "none.gguf", block=None),
        "two": write_tiny_hybrid(folder / "two.gguf", blocks=2),
        "llama": write_tiny_llama(folder / "llama.gguf"),
    }


Load = Callable[..., DarwinNEG]


@pytest.fixture(scope="module")
def load(files: dict[str, Path]) -> Iterator[Load]:
    """Loads each model with each set of options once."""
    loaded: dict[str, DarwinNEG] = {}

    def get(name: str, **options: Any) -> DarwinNEG:
        key = f"{name} {sorted(options.items())}"
        if key not in loaded:
            loaded[key] = DarwinNEG(files[name], **{**SMALL, **options})
        return loaded[key]

    yield get
    for llm in loaded.values():
        llm.close()


@pytest.fixture(params=DRAFTERS, scope="module")
def pair(request: pytest.FixtureRequest, load: Load) -> tuple[DarwinNEG, DarwinNEG]:
    """A model without drafts, and with them."""
    name, options = DRAFTERS[request.param]
    return load(name), load(name, **options)


@pytest.fixture
def mtp(load: Load) -> tuple[DarwinNEG, DarwinNEG]:
    return load("good"), load("good", mtp=3)


def assert_same(drafted: Any, plain: Any) -> None:
    if isinstance(plain, list):
        assert len(drafted) == len(plain)
        for a, b in zip(drafted, plain, strict=True):
            assert_same(a, b)
        return
    assert isinstance(plain, Generation)
    assert list(drafted.token_ids) == list(plain.token_ids)
    assert (drafted.text, drafted.finish_reason, drafted.stop, drafted.pieces, drafted.error) == (
        (plain.text, plain.finish_reason, plain.stop, plain.pieces, plain.error)
    )
    if plain.neg is not None:
        np.testing.assert_allclose(drafted.neg.entropy, plain.neg.entropy, atol=CLOSE)
        np.testing.assert_array_equal(drafted.neg.active, plain.neg.active)
    if plain.logprobs is not None:
        np.testing.assert_allclose(drafted.logprobs.chosen, plain.logprobs.chosen, atol=CLOSE)
        np.testing.assert_array_equal(drafted.logprobs.top_ids, plain.logprobs.top_ids)
    assert (drafted.true_entropy is None) == (plain.true_entropy is None)
    if plain.true_entropy is not None:
        np.testing.assert_allclose(drafted.true_entropy, plain.true_entropy, atol=CLOSE)


def drafts_of(llm: DarwinNEG, act: Callable[[], object]) -> tuple[list[int], list[int]]:
    """Tokens drafted by `act`, by their place in the draft, and how many of them were right."""
    before = llm.stats()
    act()
    after = llm.stats()
    drafted, accepted = (
        [new - old for new, old in zip(after[key], before[key], strict=True)] for key in ("drafted", "draft_accepted")
    )
    return drafted, accepted


REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.0, "seed": 5, "true_entropy": True},
    "hot": {"temperature": 1.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 6, "logprobs": 3, "true_entropy": True},
    "samples": {"temperature": 1.0, "n": 7, "seed": 7, "logprobs": 0},
    "gate": {"temperature": 1.2, "seed": 8, "neg": Neg(threshold=0.5, top_k=3)},
    "gate samples": {"temperature": 0.0, "seed": 9, "neg": Neg(action="sample", threshold=0.3, top_k=4)},
    "gate off": {"temperature": 1.0, "seed": 5, "neg": Neg(enabled=False)},
    "grammar": {"temperature": 1.5, "seed": 10, "grammar": 'root ::= ([a-z] | "\\n" | [0-9]+)*', "min_p": 0.0},
    "schema": {
        "temperature": 1.5,
        "seed": 11,
        "json_schema": '{"type": "array", "items": {"type": "integer"}}',
        "ignore_eos": False,
        "neg": Neg(enabled=False),
    },
    "penalties": {"temperature": 0.8, "seed": 12, "repeat_penalty": 1.3, "dry_multiplier": 0.8},
    "mirostat": {"temperature": 1.0, "seed": 13, "mirostat": 2},
    "an end": {"temperature": 1.2, "seed": 14, "logit_bias": {257: 6.0}, "ignore_eos": False, "top_k": 0, "min_p": 0.0},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_results_are_those_of_plain_decoding(name: str, pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    plain, drafting = pair
    options = {"max_tokens": 60, "ignore_eos": True, **REQUESTS[name]}
    if plain.neg is None:
        options.pop("neg", None)
    assert_same(drafting.generate(PROMPT, **options), plain.generate(PROMPT, **options))
    assert drafting.stats()["n_seq_used"] == drafting.stats()["kv_cells_used"] == 0


def test_a_good_block_is_mostly_right_and_saves_steps(load: Load) -> None:
    drafting = load("good", mtp=3)
    steps = drafting.stats()["n_steps"]
    drafted, accepted = drafts_of(
        drafting, lambda: drafting.generate(PROMPT, max_tokens=100, ignore_eos=True, temperature=1.0, seed=5)
    )
    assert drafted[0] > accepted[0] > accepted[1] > accepted[2] > 0
    assert accepted[0] > 0.5 * drafted[0]
    assert drafting.stats()["n_steps"] - steps == 100 - sum(accepted)


def test_a_random_block_is_never_right(load: Load) -> None:
    drafting = load("random", mtp=3)
    drafted, accepted = drafts_of(
        drafting, lambda: drafting.generate(PROMPT, max_tokens=50, ignore_eos=True, temperature=0.0)
    )
    assert accepted == [0, 0, 0]
    assert drafted == [48, 47, 46]  # nothing is drafted beyond the last token that is wanted


def test_lookup_finds_what_was_said_before(load: Load) -> None:
    drafting = load("good", draft="ngram", draft_max=5)
    _, accepted = drafts_of(
        drafting, lambda: drafting.generate(PROMPT, max_tokens=300, ignore_eos=True, temperature=0.0)
    )
    assert sum(accepted) > 50


def test_several_sequences_are_drafted_for_side_by_side(load: Load) -> None:
    """Each from its own state: rows of one must not reach the block as another's."""
    plain, drafting = load("good"), load("good", mtp=2)
    prompts = [PROMPT, "a", "The quick brown fox", "x" * 40]
    options: dict[str, Any] = {"max_tokens": 80, "ignore_eos": True, "temperature": 0.0}
    drafted, accepted = drafts_of(
        drafting, lambda: assert_same(drafting.generate(prompts, **options), plain.generate(prompts, **options))
    )
    alone = [drafts_of(drafting, partial(drafting.generate, prompt, **options)) for prompt in prompts]
    right = sum(accepted) / sum(drafted)
    right_alone = sum(sum(a) for _, a in alone) / sum(sum(d) for d, _ in alone)
    assert right > 0.9 * right_alone > 0.5


def test_prompts_that_are_decoded_beside_drafts_change_nothing(pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    plain, drafting = pair
    prompts = [PROMPT, "ab" * 60, "The quick brown fox " * 8, "z", "0123456789" * 13, "fox " * 20]
    options: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True, "temperature": 1.0, "seed": 21}
    alone = [plain.generate(prompt, **options) for prompt in prompts]
    assert_same(drafting.generate(prompts, **options), alone)
    # the same while one generates already
    long = plain.generate("first", **{**options, "max_tokens": 120})
    stream = drafting.stream("first", **{**options, "max_tokens": 120})
    chunks = [next(stream)]
    assert_same(drafting.generate(prompts[1:], **options), alone[1:])
    chunks += list(stream)
    assert [token for chunk in chunks for token in chunk.token_ids] == list(long.token_ids)


@pytest.mark.parametrize("length", range(3, 12))
def test_a_refusal_comes_at_the_same_token(length: int, mtp: tuple[DarwinNEG, DarwinNEG]) -> None:
    """Where the grammar allows nothing more, which may be inside an accepted run."""

    def until_refused(llm: DarwinNEG) -> tuple[list[int], str]:
        tokens: list[int] = []
        with pytest.raises(RequestError) as caught:
            for chunk in llm.stream(
                PROMPT, max_tokens=50, temperature=0.0, ignore_eos=True, grammar=f"root ::= [^\\x00]{{{length}}}"
            ):
                tokens += list(chunk.token_ids)
        return tokens, str(caught.value)

    plain, drafting = mtp
    refused = until_refused(plain)
    assert until_refused(drafting) == refused
    assert len(refused[0]) >= length
    assert "no token can be chosen" in refused[1]


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_max_tokens_is_kept_to(max_tokens: int, mtp: tuple[DarwinNEG, DarwinNEG]) -> None:
    plain, drafting = mtp
    options = {"max_tokens": max_tokens, "ignore_eos": True, "temperature": 0.0}
    assert_same(drafting.generate(PROMPT, **options), plain.generate(PROMPT, **options))


def test_a_stop_string_ends_an_answer_inside_an_accepted_run(mtp: tuple[DarwinNEG, DarwinNEG]) -> None:
    plain, drafting = mtp
    options: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "temperature": 0.0}
    whole = plain.generate(PROMPT, **options).pieces
    readable = [i for i, piece in enumerate(whole) if piece.isascii() and piece.strip()]
    assert len(readable) > 10
    for i in readable[:12]:
        assert_same(
            drafting.generate(PROMPT, stop=[whole[i]], **options), plain.generate(PROMPT, stop=[whole[i]], **options)
        )
    assert_same(drafting.generate(PROMPT, **options), plain.generate(PROMPT, **options))  # nothing was left behind


def test_the_context_is_filled_to_its_end(load: Load) -> None:
    for name, options in (("good", {"mtp": 3}), ("llama", {"draft": "ngram"})):
        plain, drafting = load(name, n_ctx=64), load(name, n_ctx=64, **options)
        request: dict[str, Any] = {"ignore_eos": True, "temperature": 0.0}
        out = drafting.generate(PROMPT, **request)
        assert_same(out, plain.generate(PROMPT, **request))
        assert out.finish_reason == "length"
        assert out.prompt_tokens + len(out.token_ids) == 65


def test_sequences_give_way_and_come_back(load: Load) -> None:
    for name, options in (("good", {"mtp": 3}), ("random", {"mtp": 2}), ("llama", {"draft": "ngram"})):
        alone = load(name, n_ctx=256)
        crowded = load(name, n_ctx=256, **options)
        prompts = [PROMPT, "a" * 30, "The quick brown fox", "b" * 50]
        request: dict[str, Any] = {"max_tokens": 110, "ignore_eos": True, "temperature": 1.0, "seed": 3}
        expected = [alone.generate(prompt, **request) for prompt in prompts]
        before = crowded.stats()["n_preempted"]
        assert_same(crowded.generate(prompts, **request), expected)
        assert crowded.stats()["n_preempted"] > before


def test_a_cancelled_answer_leaves_nothing_behind(pair: tuple[DarwinNEG, DarwinNEG]) -> None:
    plain, drafting = pair
    options: dict[str, Any] = {"max_tokens": 100, "ignore_eos": True, "temperature": 1.0, "seed": 4}
    expected = plain.generate(PROMPT, **options)
    for n_chunks in (1, 2, 5):
        with drafting.stream("something else", **options) as stream:
            for _ in range(n_chunks):
                next(stream)
        assert_same(drafting.generate(PROMPT, **options), expected)


def test_more_sequences_than_mtp_max_parallel_are_not_drafted_for(load: Load) -> None:
    plain, drafting = load("good"), load("good", mtp=2, mtp_max_parallel=2)
    options: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True, "temperature": 1.0, "seed": 2}
    for n, drafts in ((3, False), (2, True)):
        drafted, _ = drafts_of(
            drafting,
            lambda n=n: assert_same(drafting.generate(PROMPT, n=n, **options), plain.generate(PROMPT, n=n, **options)),
        )
        assert (sum(drafted) > 0) is drafts


def test_without_drafts_there_are_no_figures_of_them(load: Load) -> None:
    stats = load("good").stats()
    assert stats["drafted"] == stats["draft_accepted"] == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("none", {"mtp": 2}, "has no MTP block"),
        ("llama", {"mtp": 2}, "has no MTP block"),
        ("two", {"mtp": 2}, "has 2 MTP blocks"),
        ("good", {"mtp": -1}, "mtp must be"),
        ("good", {"mtp": 33}, "mtp must be"),
        ("good", {"mtp": 1.5}, "mtp must be"),
        ("good", {"draft": "magic"}, "draft must be 'none' or 'ngram'"),
        ("good", {"draft": "ngram", "draft_max": 0}, "draft_max must be"),
        ("good", {"mtp": 2, "mtp_max_parallel": 0}, "mtp_max_parallel must be"),
        ("good", {"mtp": 3, "n_ubatch": 8}, "n_ubatch must be at least 20"),
        ("good", {"mtp": 3, "n_ctx": 8}, "n_ctx must be at least 20"),
    ],
)
def test_what_cannot_be_drafted_with_is_refused_in_one_line(
    name: str, options: dict[str, Any], words: str, files: dict[str, Path]
) -> None:
    with pytest.raises(RequestError) as caught:
        DarwinNEG(files[name], **{**SMALL, **options})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_is_never_too_small_for_drafts(load: Load) -> None:
    plain, drafting = load("good"), load("good", mtp=3, n_batch=1)
    assert_same(drafting.generate(PROMPT, max_tokens=20, seed=1), plain.generate(PROMPT, max_tokens=20, seed=1))


def test_a_block_that_is_not_asked_for_does_not_matter(files: dict[str, Path]) -> None:
    with DarwinNEG(files["two"], **SMALL) as llm:
        assert len(llm.generate(PROMPT, max_tokens=5, ignore_eos=True).token_ids) == 5


def test_bench_shows_how_many_drafts_were_right(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "bench",
        "-m",
        str(files["good"]),
        "--batch",
        "1",
        "--tokens",
        "40",
        "--prompt-tokens",
        "9",
        "--rounds",
        "1",
    ]
    assert main([*args, "--mtp", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["accepted"] for row in rows if row["test"] == "prompt"] == [[], []]
    for row in rows:
        if row["test"] == "generate":
            first, second = row["accepted"]
            assert 1 >= first >= second > 0.2
    assert main([*args, "--draft", "ngram"]) == 0
    assert main([*args, "--mtp", "1"]) == 0
    assert "drafts accepted, by place: " in capsys.readouterr().out
    assert main(args) == 0
    assert "drafts accepted" not in capsys.readouterr().out


def test_the_command_line_names_its_own_flags(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for flags, words in (
        (["--mtp", "2"], "has no MTP block, drafts are made with exactly one; leave --mtp 2 out"),
        (["--mtp", "40"], "--mtp must be"),
        (["--draft", "ngram", "--draft-max", "0"], "--draft-max must be"),
        (["--draft", "ngram", "--mtp-max-parallel", "0"], "--mtp-max-parallel must be"),
    ):
        assert main(["generate", "-m", str(files["none"]), "Hi", *flags]) == 2
        assert words in capsys.readouterr().err
