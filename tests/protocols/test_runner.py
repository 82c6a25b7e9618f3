"""The modes as they are run, for one question and for several side by side."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Sequence

import pytest

from darwin_neg_cpp import ContextFullError, RequestError
from darwin_neg_cpp.protocols import ModeConfig, Task, control, plan, prompts, run
from darwin_neg_cpp.protocols.question import orderings
from darwin_neg_cpp.protocols.sampler import Job, Output
from scripted_candidates import SECOND, Scripted, answered, question, saying, voters


@pytest.mark.parametrize(("mode", "neg"), [(0, False), (1, True)])
def test_modes_0_and_1_are_one_greedy_inference_and_differ_in_the_gate_alone(mode: int, neg: bool) -> None:
    sampler = Scripted(lambda job, k: saying(job, "text of choice 2"))
    out = answered(sampler, mode)
    (job,) = sampler.jobs
    assert (job.temperatures, job.neg, out.choice, out.text) == ((0.0,), neg, 2, "text of choice 2")
    assert job.prompt == prompts.simple_evals(question(), orderings(question(), 1, 0)[0])


def test_mode_2_is_greedy_over_four_orderings() -> None:
    sampler = Scripted(voters("1231"))
    out = answered(sampler, 2, early_stop=False)
    assert [job.temperatures for job in sampler.jobs] == [(0.0,)] * 4
    assert len({job.prompt for job in sampler.jobs}) == 4 and all(job.neg for job in sampler.jobs)
    assert (out.choice, out.votes, out.margin, out.tied, out.stopped) == (1, (0, 2, 1, 1), 1, False, "complete")
    assert out.cost.planned == out.cost.finished == 4


def test_mode_3_is_four_greedy_and_twelve_sampled_with_seeds_of_their_own() -> None:
    sampler = Scripted(voters("1" * 16))
    out = answered(sampler, 3, early_stop=False)
    assert [job.temperatures for job in sampler.jobs] == [(0.0, 0.7, 0.7, 0.7)] * 4
    assert len({job.seed for job in sampler.jobs}) == 4
    assert [candidate.number for candidate in out.candidates] == list(range(16))
    assert [candidate.temperature == 0 for candidate in out.candidates] == [True] * 4 + [False] * 12
    assert out.votes == (0, 16, 0, 0) and out.second_opinions == 0


def test_the_candidates_seeds_depend_on_the_question_and_the_seed_alone() -> None:
    def seeds(id: str, seed: int) -> list[int]:
        sampler = Scripted(lambda job, k: saying(job, "text of choice 1"))
        answered(sampler, 3, question(id=id), config=ModeConfig(seed=seed))
        return [job.seed for job in sampler.jobs]

    assert seeds("a", 0) == seeds("a", 0)
    assert len({tuple(seeds(id, seed)) for id in "ab" for seed in (0, 1)}) == 4


@pytest.mark.parametrize(("n", "prompts_asked"), [(2, 2), (3, 3), (4, 4), (5, 4), (26, 4)])
def test_no_prompt_is_asked_twice_however_few_the_choices(n: int, prompts_asked: int) -> None:
    sampler = Scripted(lambda job, k: saying(job, "text of choice 1"))
    out = answered(sampler, 3, question(n), early_stop=False)
    assert len({job.prompt for job in sampler.jobs}) == len(sampler.jobs) == prompts_asked
    assert out.choice == 1 and out.cost.planned == 4 * prompts_asked
    assert plan(3, ModeConfig()).most(n) == 4 * prompts_asked + 4


def test_the_control_is_samples_of_one_prompt_without_the_gate() -> None:
    sampler = Scripted(lambda job, k: saying(job, "text of choice 3"))
    out = answered(sampler, control(16, ModeConfig()), early_stop=False)
    (job,) = sampler.jobs
    assert (len(job.temperatures), set(job.temperatures), job.neg, out.votes) == (16, {0.7}, False, (0, 0, 0, 16))


def test_a_mode_2_tie_goes_to_what_mode_1_would_answer() -> None:
    out = answered(Scripted(voters("2112")), 2, early_stop=False)
    assert (out.choice, out.tied, out.margin) == (2, True, 0)


def test_candidates_that_cannot_be_read_do_not_vote() -> None:
    out = answered(Scripted(voters("-1--")), 2, early_stop=False)
    assert (out.choice, out.votes, out.unparsed, out.tied) == (1, (0, 1, 0, 0), 3, False)
    out = answered(Scripted(voters("-" * 16)), 3)
    assert (out.choice, out.text, out.letter, out.unparsed, out.second_opinions) == (None, None, "", 16, 0)
    assert out.stopped == "complete" and out.cost.saved == 0


def test_a_letter_of_a_candidate_cut_off_counts_only_where_it_is_certain() -> None:
    class Cut(Scripted):
        def _output(self, handle: int, k: int) -> Output:
            return dataclasses.replace(super()._output(handle, k), finish_reason="length")

    assert answered(Cut(lambda job, k: "Answer: B"), 0).choice is None
    out = answered(Cut(lambda job, k: "Answer: B\n\nThat is bec"), 0)
    assert (out.choice, out.truncated) == (orderings(question(), 1, 0)[0][1], 1)


def test_what_was_read_by_the_fallback_is_counted_separately() -> None:
    out = answered(Scripted(lambda job, k: "(B)" if k == 0 else saying(job, "text of choice 0")), 3, early_stop=False)
    assert out.fallbacks == 4 and out.unparsed == 0 and sum(out.votes) == 16


def test_prompt_tokens_are_counted_once_for_each_prompt_that_was_started() -> None:
    assert answered(Scripted(voters("1" * 16)), early_stop=False).cost.prompt_tokens == 400
    assert answered(Scripted(voters("1122" * 4, "1111")), early_stop=False).cost.prompt_tokens == 600


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_several_questions_in_flight_give_the_answers_of_one_by_one(in_flight: int) -> None:
    def text(job: Job, k: int) -> str:
        return (
            saying(job, f"text of choice {random.Random(f'{job.seed} {k}').choice([1, 1, 2])}")
            if k or not job.prompt.startswith(SECOND)
            else saying(job, None)
        )

    config = ModeConfig()
    asked = [question(4, f"q{i}") for i in range(12)]
    taken = 0

    def tasks() -> Iterable[Task]:
        nonlocal taken
        for one in asked:
            taken += 1
            yield Task(one, plan(3, config), one.id)

    sampler, settled = Scripted(text), {}
    for key, out in run(sampler, tasks(), config, in_flight=in_flight, early_stop=False):
        settled[key] = out
        assert taken <= len(settled) - 1 + in_flight, "a task is taken only when a place is free"
    assert sorted(settled, key=lambda key: int(str(key)[1:])) == [question.id for question in asked]
    assert sampler.closed
    for one in asked:
        alone = answered(Scripted(text, seed=5), 3, one, early_stop=False)
        assert (settled[one.id].choice, settled[one.id].votes) == (alone.choice, alone.votes)


def test_every_candidate_is_shown_to_the_watcher_as_it_ends() -> None:
    seen: list[tuple[object, int]] = []
    sampler = Scripted(voters("1122" * 4, "1111"))
    list(
        run(
            sampler,
            [Task(question(), plan(3, ModeConfig()), "key")],
            ModeConfig(),
            early_stop=False,
            watch=lambda key, one: seen.append((key, one.number)),
        )
    )
    assert sorted(seen) == [("key", i) for i in range(20)]


def test_leaving_the_loop_closes_the_sampler() -> None:
    sampler = Scripted(voters("1" * 16))
    tasks = (Task(question(), plan(3, ModeConfig())) for _ in itertools.count())
    for _ in (settled := run(sampler, tasks, ModeConfig(), in_flight=3)):
        break
    settled.close()
    assert sampler.closed


def test_an_error_names_the_question_and_closes_the_sampler() -> None:
    class Full(Scripted):
        def start(self, jobs: Sequence[Job]) -> list[int]:
            raise ContextFullError("prompt has 9000 tokens, the context holds 4096; shorten the prompt or raise n_ctx")

    sampler = Full(voters(""))
    with pytest.raises(ContextFullError, match=r"^question 'q': prompt has 9000 tokens"):
        answered(sampler)
    assert sampler.closed


def test_no_questions_in_flight_is_refused() -> None:
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(RequestError, match="in_flight must be"):
            run(Scripted(voters("")), [], ModeConfig(), in_flight=wrong)  # type: ignore[arg-type]


def test_a_candidate_that_was_refused_has_no_vote_and_ends_nothing() -> None:
    class Refusing(Scripted):
        def _output(self, handle: int, k: int) -> Output:
            if self.jobs[handle].temperatures[k] == 0 and not self.jobs[handle].config.seed:
                return super()._output(handle, k)
            return Output("Answer: A", 3, "error", 50, error="no token can be chosen")

    out = answered(Refusing(lambda job, k: saying(job, "text of choice 1")), 3, early_stop=False)
    failed = [candidate for candidate in out.candidates if candidate.finish_reason == "error"]
    assert (out.choice, out.votes, len(failed)) == (1, (0, 4, 0, 0), 12)
    assert all(not bad.counted and bad.choice is None and bad.error == "no token can be chosen" for bad in failed)
    nothing = answered(Refusing(lambda job, k: ""), 0, config=ModeConfig(seed=1))
    assert nothing.choice is None and nothing.unparsed == 1, "the other questions of a call are not given up for it"
