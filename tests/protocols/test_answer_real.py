"""Modes 0 to 3 on real models, in the library and on the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import SmolLM2, TinyQwen
from darwin_neg_cpp import Answer, ContextFullError, DarwinNEG, ModeConfig, NegHeadError, Question, RequestError
from darwin_neg_cpp.protocols import Candidate, Task, plan, prompts, run
from darwin_neg_cpp.protocols.modes import ModeOptions
from darwin_neg_cpp.protocols.question import orderings
from darwin_neg_cpp.protocols.sampler import EngineSampler, Job
from waiting import wait_until

CLI = [sys.executable, "-m", "darwin_neg_cpp"]
SHORT = ModeConfig(prompt="direct", max_tokens=12)
QUESTIONS = [
    Question("What is the capital of France?", ("Paris", "London", "Rome", "Madrid"), "france"),
    Question("How many legs does a spider have?", ("8", "6", "4", "10"), "spider"),
    Question("Which gas do plants take in?", ("Carbon dioxide", "Helium", "Neon", "Argon"), "gas"),
    Question("Is water wet?", ("Yes", "No"), "water"),
]


@pytest.fixture(scope="module")
def one_at_a_time(smollm2: SmolLM2) -> Iterator[DarwinNEG]:
    """Batch 1, and nothing kept: every number is then a function of the request alone."""
    with DarwinNEG(smollm2.model, n_ctx=1024, n_parallel=1, prefix_cache=0) as llm:
        yield llm


def timeless(answer: Answer) -> Answer:
    """Without wall time and without what depends on how quickly a cancellation comes."""
    ended = tuple(candidate for candidate in answer.candidates if candidate.counted)
    cost = dataclasses.replace(
        answer.cost,
        started=0,
        finished=len(ended),
        completion_tokens=sum(candidate.tokens for candidate in ended),
        prompt_tokens=0,
        seconds=0,
    )
    return dataclasses.replace(answer, candidates=ended, cost=cost)


def wait_until_idle(llm: DarwinNEG) -> None:
    wait_until(lambda: llm.stats()["n_seq_used"] == 0)


# --- modes


def test_mode_1_is_mode_0_token_for_token(smol: DarwinNEG, tiny_qwen: TinyQwen) -> None:
    def both(llm: DarwinNEG, config: ModeConfig) -> None:
        for question in QUESTIONS:
            off, on = (llm.answer(question, mode, config=config).candidates[0] for mode in (0, 1))
            assert off.token_ids == on.token_ids and len(on.token_ids) > 1
            assert off.text == on.text and off.choice == on.choice
            assert on.mean_entropy == off.mean_entropy and off.activation_rate == 0
            rates.append(on.activation_rate or 0)

    rates: list[float] = []
    both(smol, ModeConfig(max_tokens=24))
    with DarwinNEG(tiny_qwen.model, n_ctx=512, n_parallel=2, prefix_cache=0) as llm:
        both(llm, dataclasses.replace(SHORT, max_tokens=24))
    assert any(rates), "the gate must have been active somewhere for the comparison to mean anything"


def test_mode_0_is_what_a_greedy_chat_answers(smol: DarwinNEG) -> None:
    question = QUESTIONS[0]
    prompt = prompts.simple_evals(question, orderings(question, 1, 0)[0])
    out = smol.answer(question, mode=0, max_tokens=24)
    reply = smol.chat([{"role": "user", "content": prompt}], enable_thinking=False, temperature=0.0, max_tokens=24)
    (only,) = out.candidates
    assert only.text == reply.text and only.token_ids == tuple(reply.token_ids.tolist())
    assert out.cost.completion_tokens == len(reply.token_ids) == only.tokens
    assert out.cost.prompt_tokens == reply.generation.prompt_tokens
    wait_until_idle(smol)


@pytest.mark.parametrize("mode", [2, 3])
def test_modes_2_and_3_repeat_by_seed_at_batch_1(one_at_a_time: DarwinNEG, mode: int) -> None:
    first, again = (one_at_a_time.answer(QUESTIONS[0], mode, config=SHORT) for _ in range(2))
    assert timeless(first) == timeless(again)
    if mode == 3:
        other = one_at_a_time.answer(QUESTIONS[0], mode, config=SHORT, seed=1)
        assert [candidate.text for candidate in other.candidates] != [candidate.text for candidate in first.candidates]


# a small model likes the first letter whatever it stands for, so one ordering gives a clear opinion and four give none
@pytest.mark.parametrize(
    ("mode", "options", "questions", "decides"),
    [
        (2, {}, QUESTIONS, False),
        (3, {}, QUESTIONS[:1], False),
        (3, {"orderings": 1, "samples": 9}, QUESTIONS[:3], True),
    ],
)
def test_early_stop_changes_no_answer_and_no_text_at_batch_1(
    one_at_a_time: DarwinNEG, mode: int, options: ModeOptions, questions: list[Question], decides: bool
) -> None:
    saved = 0
    for question in questions:
        full = one_at_a_time.answer(question, mode, config=SHORT, early_stop=False, **options)
        early = one_at_a_time.answer(question, mode, config=SHORT, **options)
        assert early.choice == full.choice
        assert early.cost.planned == full.cost.planned == full.cost.finished
        for one in early.candidates:
            if one.finish_reason != "cancelled":
                assert dataclasses.replace(one, counted=True) == full.candidates[one.number]
        saved += early.cost.saved
    assert saved > 0 or not decides, "none of the questions was decided early; the comparison would mean little"


def test_a_prompt_is_decoded_once_whatever_its_number_of_candidates(smol: DarwinNEG) -> None:
    before = smol.stats()["n_prompt_decoded"]
    out = smol.answer(QUESTIONS[0], mode=3, config=SHORT, early_stop=False, second_opinions=0)
    assert out.cost.planned == 16
    assert smol.stats()["n_prompt_decoded"] - before == out.cost.prompt_tokens
    assert smol.stats()["n_recomputed"] == 0
    wait_until_idle(smol)


def test_one_sample_of_a_job_is_what_it_is_among_all(one_at_a_time: DarwinNEG) -> None:
    """A resumed run relies on this."""

    def outputs(job: Job) -> list[tuple[int, list[int]]]:
        sampler, found = EngineSampler(one_at_a_time.session), []
        sampler.start([job])
        while done := sampler.wait():
            found += [(k, list(output.token_ids)) for _, k, output in done]
        return sorted(found)

    whole = outputs(Job("Tell a story.", (0.0, 1.0, 1.0, 1.5), 2**40 + 7, True, SHORT))
    assert len({tuple(ids) for _, ids in whole}) == 4
    for k, temperature in enumerate((0.0, 1.0, 1.0, 1.5)):
        assert outputs(Job("Tell a story.", (temperature,), 2**40 + 7, True, SHORT, only=k)) == [(0, whole[k][1])]


def test_a_prompt_that_does_not_fit_leaves_none_of_its_jobs_behind(smol: DarwinNEG) -> None:
    sampler = EngineSampler(smol.session)
    with pytest.raises(ContextFullError):
        sampler.start([Job(text, (0.0,), 1, True, SHORT) for text in ("Tell a story.", "word " * 5000)])
    assert sampler.wait() == []
    wait_until_idle(smol)


def test_several_questions_are_answered_side_by_side(smol: DarwinNEG) -> None:
    before = smol.stats()
    together = smol.answer(QUESTIONS, mode=2, config=SHORT)
    steps = smol.stats()["n_steps"] - before["n_steps"]
    assert [answer.question for answer in together] == QUESTIONS
    assert all(0 < answer.cost.planned <= 4 for answer in together)
    assert steps < sum(answer.cost.completion_tokens for answer in together) / 2, "several candidates a step"
    wait_until_idle(smol)


def test_cancelled_candidates_free_their_places_at_once(smol: DarwinNEG) -> None:
    sampler = EngineSampler(smol.session)
    question = QUESTIONS[0]
    config = dataclasses.replace(SHORT, max_tokens=1500)
    task = Task(question, plan(3, dataclasses.replace(config, second_opinions=0)))
    jobs = [Job("Tell a very long story.", (0.0, 1.0, 1.0, 1.0), seed, True, config) for seed in (1, 2, 3)]
    handles = sampler.start(jobs)
    wait_until(lambda: (smol.stats()["n_running"], smol.stats()["n_waiting"]) == (8, 4))  # 8 places, and 4 wait for one
    before = smol.stats()["n_steps"]
    sampler.cancel(handles[0])
    done: list[str] = []
    while len(done) < 4:
        done += [output.finish_reason for handle, _, output in sampler.wait() if handle == handles[0]]
    while smol.stats()["n_waiting"] and smol.stats()["n_steps"] - before < 1000:
        time.sleep(0.001)
    # the others continue for 1500 steps
    assert smol.stats()["n_steps"] - before < 50
    assert done == ["cancelled"] * 4
    assert (smol.stats()["n_running"], smol.stats()["n_waiting"]) == (8, 0), "those that waited have the places"
    sampler.close()
    wait_until_idle(smol)
    # and through a whole protocol: whatever was cancelled, nothing is left behind
    ((_, out),) = run(EngineSampler(smol.session), [task], config)
    assert out.cost.planned == 16
    assert smol.stats()["n_running"] == smol.stats()["n_waiting"] == 0
    wait_until_idle(smol)


def test_leaving_several_questions_half_way_leaves_no_request_behind(smol: DarwinNEG) -> None:
    tasks = (Task(question, plan(3, SHORT), question.id) for question in QUESTIONS * 3)
    for _key, _out in (settled := run(EngineSampler(smol.session), tasks, SHORT, in_flight=4)):
        break
    settled.close()
    wait_until_idle(smol)
    assert smol.answer(QUESTIONS[0], mode=1, config=SHORT).cost.finished == 1


def test_reasoning_that_the_template_opens_is_not_read(tiny_qwen: TinyQwen) -> None:
    """The tiny model is random and never ends its reasoning, so that nothing it says may vote."""
    with DarwinNEG(tiny_qwen.model, n_ctx=512, n_parallel=4) as llm:
        if not llm.info["supports_thinking"]:
            pytest.skip("the tiny model's template has no reasoning")
        out = llm.answer(QUESTIONS[0], mode=2, config=SHORT, thinking=True)
        assert all(candidate.text.startswith("<think>") and candidate.choice is None for candidate in out.candidates)
        assert out.choice is None
        plain = llm.answer(QUESTIONS[0], mode=0, config=SHORT)
        assert not plain.candidates[0].text.startswith("<think>")


# --- refusals


def test_a_model_without_a_head_is_refused_where_the_gate_is_asked_for(smollm2: SmolLM2) -> None:
    with DarwinNEG(smollm2.base, n_ctx=512, n_parallel=4) as llm:
        for mode in (1, 2, 3):
            with pytest.raises(
                NegHeadError,
                match=r"^[^:]*\.gguf: has no NEG head, which modes 1 to 3 gate with; attach one .*gate=False",
            ):
                llm.answer(QUESTIONS[0], mode, config=SHORT)
        assert llm.answer(QUESTIONS[0], 0, config=SHORT).candidates[0].mean_entropy is None
        assert llm.answer(QUESTIONS[0], 2, config=SHORT, gate=False).cost.planned == 4


def test_wrong_arguments_are_refused_in_one_line(smol: DarwinNEG) -> None:
    with pytest.raises(RequestError, match="question must be a Question or a list of them, got str"):
        smol.answer("What?", 1)  # type: ignore[call-overload]
    with pytest.raises(RequestError, match="question must be a Question or a list of them, got dict"):
        smol.answer([QUESTIONS[0], {}], 1)  # type: ignore[list-item]
    with pytest.raises(RequestError, match="mode must be 0, 1, 2 or 3, or 'auto', got 4"):
        smol.answer(QUESTIONS[0], 4)
    with pytest.raises(RequestError, match="unknown option 'max_token'"):
        smol.answer(QUESTIONS[0], 1, max_token=3)  # type: ignore[call-overload]
    assert smol.answer([], 1) == []
    assert smol.stats()["n_running"] == 0


def test_a_question_that_does_not_fit_is_named_and_nothing_is_left_running(smol: DarwinNEG) -> None:
    long = Question("word " * 3000, ("a", "b"), "too-long")
    with pytest.raises(ContextFullError, match=r"^question 'too-long': prompt has \d+ tokens"):
        smol.answer([QUESTIONS[0], long], 2, config=SHORT)
    wait_until_idle(smol)


# --- command line


def cli(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, "answer", *args], capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload, no-any-return]


ASK = [
    "What is the capital of France?",
    "--choice",
    "Paris",
    "--choice",
    "London",
    "--choice",
    "Rome",
    "--prompt",
    "direct",
    "-n",
    "12",
]


def test_the_command_prints_the_choice_and_a_closing_line(smollm2: SmolLM2) -> None:
    # one at a time: two runs give the same text only where batches have the same shape
    ask = [*ASK, "-m", str(smollm2.model), "--n-parallel", "1", "--mode", "2", "--full"]
    out = cli(*ask)
    if out.returncode == 0:
        assert re.fullmatch(r"(A\) Paris|B\) London|C\) Rome)\n", out.stdout)
    else:
        assert (out.returncode, out.stdout) == (1, "no answer could be read\n")
    assert re.fullmatch(
        r"\[mode 2, votes: .*; 3 of 3 inferences finished, 0 saved; \d+ tokens, \d+\.\d s\]\n", out.stderr
    )
    quiet = cli(*ask, "-q")
    assert (quiet.stdout, quiet.stderr) == (out.stdout, "")
    if out.returncode == 0:
        withheld = cli(*ask, "-q", "--abstain-above", "0")
        assert withheld.returncode == 1
        assert re.fullmatch(r"no answer: mean predicted entropy [\d.e-]+ is above 0\n", withheld.stdout)


def test_mode_auto_on_a_real_model_is_mode_1_or_mode_3(one_at_a_time: DarwinNEG) -> None:
    options: ModeOptions = {"prompt": "direct", "max_tokens": 12, "samples": 1, "second_opinions": 2}
    for asked, mode, threshold in ((QUESTIONS[0], 1, float("inf")), (QUESTIONS[3], 3, 0.0)):
        auto = one_at_a_time.answer(
            asked, "auto", early_stop=False, auto_first_threshold=threshold, auto_second_threshold=0.0, **options
        )
        alone = one_at_a_time.answer(asked, mode, early_stop=False, **options)
        assert auto.mode == "mode auto"
        assert auto.candidates == alone.candidates and auto.votes == alone.votes


def test_true_entropies_are_recorded_where_a_signal_is_one(smol: DarwinNEG) -> None:
    options: ModeOptions = {"prompt": "direct", "max_tokens": 12, "orderings": 2, "samples": 0, "second_opinions": 0}
    signal = "true_mean_entropy"
    plain = smol.answer(QUESTIONS[0], 1, abstain_signal=signal, auto_signal=signal, **options)
    withheld = smol.answer(QUESTIONS[0], 1, abstain_above=0.0, abstain_signal=signal, **options)
    thresholds = {"auto_first_threshold": 1e-9, "auto_second_threshold": 1e-9}
    escalated = smol.answer(QUESTIONS[0], "auto", early_stop=False, auto_signal=signal, **thresholds, **options)
    ((one,), (same,)) = plain.candidates, withheld.candidates
    assert one.signals is not None and one.signals.true_mean_entropy is None, "nothing asks for it"
    assert one.text == same.text and same.signals is not None and same.signals.true_mean_entropy is not None
    if plain.choice is not None:
        assert withheld.abstained == f"mean true entropy {same.signals.true_mean_entropy:.3g} is above 0"
    assert len(escalated.candidates) == 2
    assert all(one.signals and one.signals.true_mean_entropy is not None for one in escalated.candidates)


def test_show_lists_every_candidate_with_its_text(smollm2: SmolLM2) -> None:
    out = cli(*ASK, "-m", str(smollm2.model), "--show", "--full", "--samples", "1", "--second-opinions", "0")
    assert len(re.findall(r"^--- candidate \d+, choices as [ABC]{3}, ", out.stdout, re.MULTILINE)) == 6


def test_json_holds_what_the_library_returns(smollm2: SmolLM2, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(
        json.dumps(
            [{"stem": question.stem, "choices": question.choices, "id": question.id} for question in QUESTIONS[:2]]
        )
    )
    args = ["-m", str(smollm2.model), "--n-parallel", "1", "--mode", "1", "--prompt", "direct", "-n", "12", "--json"]
    out = cli("--question", str(path), *args)
    found = [json.loads(line) for line in out.stdout.splitlines()]
    assert [answer["question"]["id"] for answer in found] == ["france", "spider"]
    with DarwinNEG(smollm2.model, n_parallel=1, prefix_cache=0) as llm:
        for one, question in zip(found, QUESTIONS, strict=False):
            want = json.loads(json.dumps(llm.answer(question, 1, config=SHORT).as_dict()))
            for each in (one, want):
                del each["cost"]["seconds"]
            assert one == want
    piped = cli("--question", "-", *args, input=json.dumps({"stem": "x?", "choices": ["yes", "no"]}))
    assert json.loads(piped.stdout)["question"]["choices"] == ["yes", "no"]


def test_the_command_refuses_a_model_without_a_head_in_one_line(smollm2: SmolLM2) -> None:
    out = cli(*ASK, "-m", str(smollm2.base))
    assert (out.returncode, out.stdout, len(out.stderr.splitlines())) == (2, "", 1)
    assert "has no NEG head" in out.stderr and "--no-gate" in out.stderr
    assert cli(*ASK, "-m", str(smollm2.base), "--no-gate", "--mode", "2").returncode in (0, 1)


def test_bytes_that_are_no_text_on_standard_input_are_refused(smollm2: SmolLM2) -> None:
    out = subprocess.run(
        [*CLI, "answer", "--question", "-", "-m", str(smollm2.model)],
        input=b"\xff\xfe{",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (out.returncode, out.stdout) == (2, b"") and b"is not UTF-8 text" in out.stderr


def test_candidates_carry_what_the_head_saw(smol: DarwinNEG) -> None:
    out = smol.answer(QUESTIONS[0], mode=3, config=SHORT, early_stop=False)
    one: Candidate
    for one in out.candidates:
        assert one.mean_entropy is not None and one.mean_entropy >= 0
        assert one.activation_rate is not None and 0 <= one.activation_rate <= 1
        assert len(one.token_ids) == one.tokens > 0
    wait_until_idle(smol)
