"""Every sampler of llama.cpp: the same seed draws the same text as the pin's own llama-completion."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from oracles import stock

# repeats itself, so that the penalties have something to act on
PROMPT = "The cat sat on the mat. The cat sat on the mat. The dog sat on the log. The cat sat on"
OPEN = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
OPEN_FLAGS = ["--top-k", "0", "--top-p", "1.0", "--min-p", "0.0"]

# parameters of ours, llama-completion's flags for the same; OPEN applies first
CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"dry_multiplier": 2.0}, ["--dry-multiplier", "2.0"]),
    (
        {"dry_multiplier": 1.0, "dry_base": 2.5, "dry_allowed_length": 1, "dry_penalty_last_n": -1},
        ["--dry-multiplier", "1", "--dry-base", "2.5", "--dry-allowed-length", "1", "--dry-penalty-last-n", "512"],
    ),
    (
        {"dry_multiplier": 2.0, "dry_sequence_breakers": [" sat", "."]},
        ["--dry-multiplier", "2", "--dry-sequence-breaker", " sat", "--dry-sequence-breaker", "."],
    ),
    (
        {"xtc_probability": 0.8, "xtc_threshold": 0.05},
        ["--xtc-probability", "0.8", "--xtc-threshold", "0.05"],
    ),
    ({"mirostat": 1}, ["--mirostat", "1"]),
    (
        {"mirostat": 1, "mirostat_tau": 3.0, "mirostat_eta": 0.3},
        ["--mirostat", "1", "--mirostat-ent", "3", "--mirostat-lr", "0.3"],
    ),
    (
        {"mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.2},
        ["--mirostat", "2", "--mirostat-ent", "2", "--mirostat-lr", "0.2"],
    ),
    (
        {"dynatemp_range": 0.7, "dynatemp_exponent": 1.5},
        ["--dynatemp-range", "0.7", "--dynatemp-exp", "1.5"],
    ),
    ({"top_n_sigma": 1.0}, ["--top-nsigma", "1.0"]),
    (
        {"samplers": ["min_p", "temperature", "adaptive_p"], "adaptive_target": 0.3, "adaptive_decay": 0.5},
        ["--samplers", "min_p;temperature;adaptive_p", "--adaptive-target", "0.3", "--adaptive-decay", "0.5"],
    ),
    ({"typical_p": 0.5}, ["--typical", "0.5"]),
    # a temperature before the truncation lets more tokens through than one after it
    (
        {"samplers": ["temperature", "top_p"], "top_p": 0.7, "temperature": 2.0},
        ["--samplers", "temperature;top_p", "--top-p", "0.7", "--temp", "2.0"],
    ),
    (
        {"samplers": ["top_p", "temperature"], "top_p": 0.7, "temperature": 2.0},
        ["--samplers", "top_p;temperature", "--top-p", "0.7", "--temp", "2.0"],
    ),
    # greedy decoding takes a shortcut, except where a sampler would change the choice
    ({"temperature": 0.0, "dry_multiplier": 3.0}, ["--temp", "0", "--dry-multiplier", "3"]),
    (
        {"temperature": 0.0, "xtc_probability": 1.0, "xtc_threshold": 0.01},
        ["--temp", "0", "--xtc-probability", "1", "--xtc-threshold", "0.01"],
    ),
    ({"temperature": 0.0, "dynatemp_range": 1.0}, ["--temp", "0", "--dynatemp-range", "1"]),
    ({"temperature": 0.0, "samplers": ["top_k"], "top_k": 3}, ["--temp", "0", "--samplers", "top_k", "--top-k", "3"]),
    ({"temperature": 0.0, "mirostat": 2}, ["--temp", "0", "--mirostat", "2"]),
]


def name(case: tuple[dict[str, Any], list[str]]) -> str:
    return ",".join(f"{key}={value}" for key, value in case[0].items())


@pytest.fixture(scope="module")
def plain(smollm2: Any) -> Any:
    with DarwinNEG(smollm2.base, n_ctx=512, n_parallel=1, prefix_cache=0) as llm:
        yield llm


@pytest.mark.slow
@pytest.mark.parametrize(("options", "flags"), CASES, ids=[name(case) for case in CASES])
def test_the_same_seed_draws_the_text_of_llama_completion(plain: DarwinNEG, options, flags):
    command = [stock.binaries()["llama-completion"], "-m", plain.path, "-p", PROMPT, "-n", "48", "-c", "512", "-no-cnv"]
    command += ["--no-display-prompt", "--seed", "11", "--temp", "0.9", "--ignore-eos", *OPEN_FLAGS, *flags]
    result = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr[-500:]
    mine = plain.generate(
        PROMPT, **{"max_tokens": 48, "seed": 11, "temperature": 0.9, "ignore_eos": True, **OPEN, **options}
    )
    assert mine.text.strip() == result.stdout.decode("utf-8", "replace").strip()


@pytest.mark.slow
def test_the_cases_above_are_about_different_texts(plain: DarwinNEG):
    """Each of the parameters acts on this prompt: a parameter that is dropped on the way would not be noticed else."""
    base = {"max_tokens": 48, "seed": 11, "ignore_eos": True, **OPEN}
    for options, _ in CASES:
        if options == {"temperature": 0.0, "mirostat": 2}:
            continue  # at temperature 0 a single token is left for Mirostat to choose from
        without = {key: options[key] for key in ("temperature",) if key in options}
        with_it = plain.generate(PROMPT, **{"temperature": 0.9, **base, **options})
        assert with_it.text != plain.generate(PROMPT, **{"temperature": 0.9, **base, **without}).text, options


def test_min_keep_leaves_that_many_candidates(plain: DarwinNEG):
    """With a top_p that keeps one token, every draw is the likeliest; with min_keep=5 it is one of five."""
    common = {"max_tokens": 40, "seed": 3, "ignore_eos": True, "top_k": 0, "top_p": 0.0, "min_p": 0.0, "logprobs": 5}
    one = plain.generate(PROMPT, temperature=3.0, **common)
    five = plain.generate(PROMPT, temperature=3.0, min_keep=5, **common)
    ranks = [
        int(np.flatnonzero(top == token)[0]) for token, top in zip(five.token_ids, five.logprobs.top_ids, strict=True)
    ]
    assert (one.token_ids == one.logprobs.top_ids[:, 0]).all()
    assert set(ranks) > {0, 1} and max(ranks) <= 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samplers": ["top_k", "nonsense"]}, "'nonsense'"),
        ({"mirostat": 3}, "mirostat"),
        ({"xtc_probability": 1.5}, "xtc_probability"),
        ({"dry_sequence_breakers": ["", "x"]}, "dry_sequence_breakers"),
        ({"reasoning_budget_tokens": 4}, "reasoning_budget_tokens"),
    ],
)
def test_values_that_no_sampler_takes_are_refused_by_name(plain: DarwinNEG, options, words):
    with pytest.raises(RequestError, match=words):
        plain.generate(PROMPT, max_tokens=1, **options)


def test_a_reasoning_budget_ends_the_reasoning(smollm2, llama_tree):
    """The model is not one that reasons: only the budget can have written the end of the reasoning."""
    template = (llama_tree / "models" / "templates" / "Qwen3.5-4B.jinja").read_text("utf-8")
    messages = [{"role": "user", "content": "Count the letters in 'strawberry'."}]
    with DarwinNEG(smollm2.base, n_ctx=512, n_parallel=1, prefix_cache=0, chat_template=template) as llm:
        free = llm.chat(messages, max_tokens=60, temperature=0, ignore_eos=True)
        budget = llm.chat(messages, max_tokens=60, temperature=0, ignore_eos=True, reasoning_budget_tokens=10)
    assert free.text == ""
    assert budget.text.strip()
    reasoning = llm_tokens = budget.reasoning
    assert free.reasoning.startswith(reasoning.strip()[:20])
    assert 0 < len(llm_tokens) < len(free.reasoning) / 2
