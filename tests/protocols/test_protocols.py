"""Modes 0 to 3 against a scripted generator: orderings, extraction, votes, early stop, second opinions. No model."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answer_shapes import SHAPES, TRUNCATED
from darwin_neg_cpp import ContextFullError, RequestError
from darwin_neg_cpp.cli.answer import candidate_line, closing_line
from darwin_neg_cpp.cli.main import build_parser, main
from darwin_neg_cpp.protocols import Answer, ModeConfig, Plan, Question, Task, control, plan, prompts, run, voting
from darwin_neg_cpp.protocols.extract import extract, reasoning_extract, visible
from darwin_neg_cpp.protocols.modes import ModeOptions, merge
from darwin_neg_cpp.protocols.question import LETTERS, choice_at, letters, orderings
from darwin_neg_cpp.protocols.sampler import Job, Output
from darwin_neg_cpp.protocols.voting import Pending, Vote

SECOND = "Several attempts at the following"


def question(n: int = 4, id: str = "q") -> Question:
    return Question("Which one?", tuple(f"text of choice {i}" for i in range(n)), id)


def shown(prompt: str) -> list[str]:
    """The choices in the order in which a prompt shows them."""
    return [match[1] for match in re.finditer(r"^[A-Z][).] (.+)$", prompt, re.MULTILINE)]


def saying(job: Job, choice: str | None, *, reason: str = "Because of physics.") -> str:
    """A text that votes for a choice, whatever its letter in this prompt; None: one that cannot be read."""
    if choice is None:
        return "I cannot say."
    return f"{reason}\n\nAnswer: {LETTERS[shown(job.prompt).index(choice)]}"


class Scripted:
    """A sampler whose samples come to an end in random order and in random groups.

    text: of sample k of a job. late: share of cancelled samples that had come to an end already.
    """

    def __init__(self, text: Callable[[Job, int], str], seed: int = 0, late: float = 0.0, group: int = 3) -> None:
        self._text, self._random, self._late, self._group = text, random.Random(seed), late, group
        self.jobs: list[Job] = []
        self.cancelled: set[int] = set()
        self.closed = False
        self._running: list[tuple[int, int]] = []

    def start(self, jobs: Sequence[Job]) -> list[int]:
        handles = []
        for job in jobs:
            handles.append(len(self.jobs))
            self._running += [(len(self.jobs), k) for k in range(len(job.temperatures))]
            self.jobs.append(job)
        return handles

    def wait(self) -> list[tuple[int, int, Output]]:
        out: list[tuple[int, int, Output]] = []
        while not out:
            for _ in range(self._random.randint(1, self._group)):
                if self._running:
                    one = self._running.pop(self._random.randrange(len(self._running)))
                    out.append((*one, self._output(*one)))
        return out

    def _output(self, handle: int, k: int) -> Output:
        if handle in self.cancelled and self._random.random() >= self._late:
            return Output("Half a sent", self._random.choice([0, 3]), "cancelled", 100)
        return Output(self._text(self.jobs[handle], k), 10, "stop", 100)

    def cancel(self, handle: int) -> None:
        self.cancelled.add(handle)

    def close(self) -> None:
        self.closed = True


def answered(
    sampler: Scripted,
    mode: int | Plan = 3,
    asked: Question | None = None,
    *,
    early_stop: bool = True,
    config: ModeConfig | None = None,
) -> Answer:
    config = config or ModeConfig()
    the_plan = mode if isinstance(mode, Plan) else plan(mode, config)
    ((_, out),) = run(sampler, [Task(asked or question(), the_plan)], config, early_stop=early_stop)
    return out


def voters(order: str, second: str = "") -> Callable[[Job, int], str]:
    """Candidate j of the first round, in the order of numbers, votes for choice int(order[j]); "-" cannot be read. second: likewise."""

    def text(job: Job, k: int) -> str:
        # candidates are numbered greedy first over all prompts, then the first samples over all prompts; a prompt's seed is its number
        again = job.prompt.startswith(SECOND)
        j = job.seed - question().seed(0)
        vote = second[k * 2 + j - 4] if again else order[k * 4 + j]
        return saying(job, None if vote == "-" else f"text of choice {vote}", reason=f"Reason for {vote}.")

    return text


# --- questions and orderings


@pytest.mark.parametrize("n", range(2, 27))
def test_over_n_rotations_every_choice_stands_at_every_letter_once(n: int) -> None:
    found = orderings(question(n), n, 0)
    assert len(found) == n
    for ordering in found:
        assert sorted(ordering) == list(range(n))
    for place in range(n):
        assert sorted(ordering[place] for ordering in found) == list(range(n))


@pytest.mark.parametrize("n", range(2, 27))
def test_four_orderings_are_distinct_and_put_no_choice_at_a_letter_twice(n: int) -> None:
    found = orderings(question(n), 4, 0)
    assert len(set(found)) == len(found) == min(4, n)
    for place in range(n):
        assert len({ordering[place] for ordering in found}) == len(found)
    # spread over the letters rather than neighbours
    places = sorted(ordering.index(0) for ordering in found)
    gaps = [b - a for a, b in itertools.pairwise([*places, places[0] + n])]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("n", range(2, 27))
def test_a_letter_means_the_choice_that_the_prompt_shows_there(n: int) -> None:
    asked = question(n)
    for form, ordering in itertools.product(prompts.PROMPTS.values(), orderings(asked, 4, 3)):
        texts = shown(form(asked, ordering))
        assert len(texts) == n
        for letter, text in zip(letters(ordering), texts, strict=True):
            index = choice_at(ordering, letter)
            assert index is not None and asked.choices[index] == text
    assert choice_at(ordering, "") is None
    assert choice_at(ordering, "AB") is None
    assert n == 26 or choice_at(ordering, LETTERS[n]) is None


def test_the_base_order_is_drawn_from_seed_and_id_and_not_from_the_order_given() -> None:
    def order(asked: Question, seed: int = 0) -> list[str]:
        return [asked.choices[i] for i in orderings(asked, 1, seed)[0]]

    asked = question(6)
    assert order(asked) == order(question(6))
    assert len({tuple(order(question(6, f"q{i}"))) for i in range(30)}) > 20
    assert len({tuple(order(asked, seed)) for seed in range(30)}) > 20
    for id in ("q", ""):
        turned = Question(asked.stem, tuple(reversed(asked.choices)), id)
        assert order(turned) == order(dataclasses.replace(asked, id=id))


def test_every_choice_comes_first_equally_often_over_many_questions() -> None:
    first = [orderings(question(4, str(i)), 1, 0)[0][0] for i in range(2000)]
    assert all(400 < first.count(choice) < 600 for choice in range(4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem": " "}, "question 'x': has no text"),
        ({"stem": 3}, "has no text"),
        ({"choices": ("a",)}, "has 1 choices; give 2 to 26"),
        ({"choices": tuple(map(str, range(27)))}, "has 27 choices"),
        ({"choices": ("a", " ")}, "has an empty choice"),
        ({"choices": ("a", 3)}, "has an empty choice"),
        ({"choices": ("a", "b", "a ")}, "has the same choice twice"),
        ({"choices": "abc"}, "choices must be a list of texts, got str"),
        ({"choices": 3}, "choices must be a list of texts, got int"),
        ({"id": 3}, "id must be text"),
        ({"stem": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as error:
        Question(**{"stem": "stem", "choices": ("a", "b"), "id": "x", **fields})
    assert "\n" not in str(error.value)


# --- extraction


@pytest.mark.parametrize(
    ("text", "offered", "letter", "how"), [row[1:] for row in SHAPES], ids=[row[0] for row in SHAPES]
)
def test_the_letter_is_the_one_that_a_reader_takes(text: str, offered: str, letter: str, how: str) -> None:
    found = extract(text, offered)
    assert (found.letter, found.how) == (letter, how)


@pytest.mark.parametrize(
    ("text", "offered", "letter", "how"), [row[1:] for row in TRUNCATED], ids=[row[0] for row in TRUNCATED]
)
def test_of_an_answer_cut_off_only_what_is_certain_is_taken(text: str, offered: str, letter: str, how: str) -> None:
    found = extract(text, offered, truncated=True)
    assert (found.letter, found.how) == (letter, how)


def test_the_table_of_shapes_is_large_and_has_every_outcome() -> None:
    assert len(SHAPES) >= 80
    assert len({row[1:3] for row in SHAPES}) == len(SHAPES) == len({row[0] for row in SHAPES})
    assert {row[4] for row in SHAPES} == {"answer", "fallback", "none"}


@settings(max_examples=2000, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"ABCDZaI .,\n*_$(){}[]\\/:=-<>'`|#정답은답",
                "Answer",
                "answer is ",
                "\\boxed{",
                "or ",
                "<think>",
                "</think>",
                "Option ",
            ]
        )
    )
)
def test_any_text_gives_an_offered_letter_or_none(parts: list[str]) -> None:
    text = "".join(parts)
    for truncated in (False, True):
        found = extract(text, "ABCD", truncated=truncated)
        assert found.letter in ("", *"ABCD")
        assert (found.letter == "") == (found.how == "none")
        assert not (truncated and found.how == "fallback")
    for characters in (0, 1, 5, 20):
        assert len(reasoning_extract(text, characters)) <= characters


@pytest.mark.parametrize(
    "unit", ["answer ", "Answer: ", "*", " ", "<think>", "<b>", "\\boxed{", "Answer: A or ", "A, ", "B\n"]
)
def test_a_model_that_repeats_itself_is_read_in_no_time(unit: str) -> None:
    import time

    text = unit * (100_000 // len(unit))
    begin = time.process_time()
    extract(text, "ABCD")
    reasoning_extract(text, 600)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Water boils at 100 degrees.\n\nAnswer: B", "Water boils at 100 degrees."),
        (
            "It is 2-[(4-methylphenyl)amino]propanoic acid,\n  [Fe(CN)6]4-.\nAnswer: A",
            "It is 2-[(4-methylphenyl)amino]propanoic acid, [Fe(CN)6]4-.",
        ),
        ("Answer: B\n\nWater boils at 100 degrees.", "Water boils at 100 degrees."),
        ("Water boils at 100 degrees, so the answer is B.", "Water boils at 100 degrees, so the"),
        ("Water boils.\n\n$\\boxed{B}$", "Water boils."),
        ("Water boils.\n\n**B**", "Water boils."),
        ("<think>Hidden thought.</think>Water boils.\nAnswer: B", "Water boils."),
        ("<think>Hidden thought.</think>\n\nAnswer: B", "Hidden thought."),
        ("Hidden thought.</think>\n\nAnswer: B", "Hidden thought."),
        ("Answer: A\nNo, wait.\nAnswer: B", "Answer: A No, wait."),
        ("Answer: B", ""),
        ("", ""),
    ],
)
def test_an_extract_is_the_reasoning_without_the_letter(text: str, want: str) -> None:
    assert reasoning_extract(text, 600) == want


def test_an_extract_keeps_to_its_length_and_begins_with_a_sentence_or_a_word() -> None:
    text = "First sentence here. Second sentence there. Third sentence at the end.\nAnswer: A"
    assert reasoning_extract(text, 40) == "Third sentence at the end."
    assert reasoning_extract(text, 30) == "Third sentence at the end."
    assert reasoning_extract(text, 20) == "… at the end."
    assert reasoning_extract("한" * 100 + "\n정답: A", 20) == "… " + "한" * 18
    assert reasoning_extract(text, 0) == ""


def test_reasoning_is_not_visible() -> None:
    assert visible("<think>a</think>b<think>c</think>d") == "bd"
    assert visible("a</think>b") == "b"
    assert visible("b<think>a") == "b"


# --- votes, against an oracle that shares no code: it sorts by the rule as written, and enumerates


def oracle_winner(votes: Iterable[Vote], n: int) -> int | None:
    cast = [vote for vote in votes if vote.choice is not None]
    ballots = {choice: [vote for vote in cast if vote.choice == choice] for choice in range(n)}
    most = max(len(ballot) for ballot in ballots.values())
    if most == 0:
        return None
    left = [choice for choice in range(n) if len(ballots[choice]) == most]
    greedy = max(sum(vote.greedy for vote in ballots[choice]) for choice in left)
    left = [choice for choice in left if sum(vote.greedy for vote in ballots[choice]) == greedy]
    return min(left, key=lambda choice: min(vote.number for vote in ballots[choice]))


def completions(pending: Sequence[Pending], allowed: Sequence[int | None]) -> Iterable[list[Vote]]:
    for chosen in itertools.product(allowed, repeat=len(pending)):
        yield [Vote(one.number, choice, one.greedy) for one, choice in zip(pending, chosen, strict=True)]


@st.composite
def pools(draw: st.DrawFn, most_votes: int, most_pending: int) -> tuple[list[Vote], list[Pending], int]:
    """Votes and pending candidates with numbers in any order."""
    n = draw(st.integers(2, 3))
    n_votes, n_pending = draw(st.integers(0, most_votes)), draw(st.integers(0, most_pending))
    numbers = draw(st.permutations(range(n_votes + n_pending)))
    choice = st.one_of(st.none(), st.integers(0, n - 1))
    votes = [Vote(number, draw(choice), draw(st.booleans())) for number in numbers[:n_votes]]
    return votes, [Pending(number, draw(st.booleans())) for number in numbers[n_votes:]], n


@settings(max_examples=2000, deadline=None)
@given(pools(8, 4))
def test_decided_is_exactly_that_all_completions_agree(pool: tuple[list[Vote], list[Pending], int]) -> None:
    votes, pending, n = pool
    outcomes = {oracle_winner([*votes, *more], n) for more in completions(pending, [None, *range(n)])}
    assert voting.winner(votes, n) == oracle_winner(votes, n)
    assert voting.decided(votes, pending, n) == (len(outcomes) == 1)


@settings(max_examples=1500, deadline=None)
@given(pools(7, 3), st.integers(1, 3))
def test_decided_with_second_opinions_outstanding_is_exact_too(
    pool: tuple[list[Vote], list[Pending], int], n_second: int
) -> None:
    """The whole protocol, enumerated: the first round's completions, then second opinions where they are asked, for the two leaders alone."""
    votes, pending, n = pool
    second = [Pending(len(votes) + len(pending) + i, greedy=i < 2) for i in range(n_second)]
    if not pending:
        return  # then the question is whether to ask, not whether to stop
    outcomes = set()
    for more in completions(pending, [None, *range(n)]):
        first_round = [*votes, *more]
        by_rule = []
        left = set(range(n))
        while left and (best := oracle_winner([vote for vote in first_round if vote.choice in left], n)) is not None:
            by_rule.append(best)
            left.discard(best)
        asked = [oracle_winner([*first_round, *extra], n) for extra in completions(second, [None, *by_rule[:2]])]
        outcomes |= set(asked) if len(by_rule) >= 2 else {oracle_winner(first_round, n)}
    assert voting.decided(votes, [*pending, *second], n) == (len(outcomes) == 1)


@settings(max_examples=3000, deadline=None)
@given(
    st.integers(2, 26),
    st.lists(st.one_of(st.none(), st.integers(0, 25)), min_size=1, max_size=24),
    st.randoms(use_true_random=False),
)
def test_a_winner_that_is_decided_stays_to_the_end_of_every_sequence(
    n: int, chosen: list[int | None], rng: random.Random
) -> None:
    votes = [Vote(i, None if c is None else c % n, greedy=i < 4) for i, c in enumerate(chosen)]
    rng.shuffle(votes)
    final = oracle_winner(votes, n)
    for k in range(len(votes) + 1):
        pending = [Pending(vote.number, vote.greedy) for vote in votes[k:]]
        if voting.decided(votes[:k], pending, n):
            assert voting.winner(votes[:k], n) == final
    assert voting.decided(votes, [], n)


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([(0, 1, True), (1, 2, True), (2, 1, False)], 1),  # most votes
        ([(0, 1, True), (1, 2, False), (2, 2, False), (3, 1, False)], 1),  # equal: greedy votes
        ([(0, 2, True), (1, 1, True)], 2),  # equal in both: the lowest number
        ([(5, 2, False), (4, 1, False)], 1),  # whatever came first in time
        ([(0, None, True), (1, 2, False)], 2),  # one that could not be read has no vote
        ([(0, None, True)], None),
        ([], None),
    ],
)
def test_ties_are_resolved_by_the_written_rule(votes: list[tuple[int, int | None, bool]], winner: int | None) -> None:
    cast = [Vote(*vote) for vote in votes]
    assert voting.winner(cast, 4) == oracle_winner(cast, 4) == winner


def test_ties_and_margins_are_reported() -> None:
    cast = [Vote(i, choice, False) for i, choice in enumerate([1, 1, 2, 2, 3])]
    assert voting.tied(cast, 4) and voting.margin(cast, 4) == 0
    assert not voting.tied(cast[:3], 4) and voting.margin(cast[:3], 4) == 1
    assert not voting.tied([], 4) and voting.margin([], 4) == 0
    assert voting.counts(cast, 4) == (0, 2, 2, 1)


# --- modes


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
    assert [one.number for one in out.candidates] == list(range(16))
    assert [one.temperature == 0 for one in out.candidates] == [True] * 4 + [False] * 12
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


# --- second opinions


def test_second_opinions_are_asked_of_the_two_leaders_with_an_extract_of_each() -> None:
    sampler = Scripted(voters("1112" + "2223" + "1133" + "1230", "2222"))
    out = answered(sampler, early_stop=False)
    first = "1112" + "2223" + "1133" + "1230"
    assert [first.count(c) for c in "0123"] == [1, 6, 5, 4]
    assert out.second_opinions == 4 and out.cost.planned == 20
    pair, turned = [job for job in sampler.jobs if job.prompt.startswith(SECOND)]
    assert shown(pair.prompt) == ["text of choice 1", "text of choice 2"]
    assert shown(turned.prompt) == ["text of choice 2", "text of choice 1"]
    assert "An argument for A: Reason for 1.\n\nB) text of choice 2\nAn argument for B: Reason for 2." in pair.prompt
    assert "An argument for A: Reason for 2." in turned.prompt
    assert pair.temperatures == turned.temperatures == (0.0, 0.7) and pair.neg
    assert len({job.seed for job in sampler.jobs}) == 6
    assert (out.choice, out.votes) == (2, (1, 6, 9, 4))
    assert [one.kind for one in out.candidates] == ["first"] * 16 + ["second opinion"] * 4
    assert [one.temperature for one in out.candidates[16:]] == [0.0, 0.0, 0.7, 0.7]


def test_extracts_are_cut_until_a_second_opinion_fits_the_context() -> None:
    class Narrow(Scripted):
        longest = 0

        def start(self, jobs: Sequence[Job]) -> list[int]:
            if max(len(job.prompt) for job in jobs) > self.longest:
                raise ContextFullError("prompt has too many tokens")
            return super().start(jobs)

    def reasoned(job: Job, k: int) -> str:
        return "Because of reasons. " * 40 + voters("1122" * 4, "1111")(job, k)

    wide = Scripted(reasoned)
    answered(wide, early_stop=False)
    whole = max(len(job.prompt) for job in wide.jobs if job.prompt.startswith(SECOND))
    narrow = Narrow(reasoned)
    narrow.longest = whole - 500
    assert answered(narrow, early_stop=False).second_opinions == 4
    cut = [len(job.prompt) for job in narrow.jobs if job.prompt.startswith(SECOND)]
    assert len(cut) == 2 and all(whole - 1200 < length <= narrow.longest for length in cut)
    narrow = Narrow(reasoned)
    narrow.longest = max(len(job.prompt) for job in wide.jobs if not job.prompt.startswith(SECOND))
    if narrow.longest < whole - 1200:
        with pytest.raises(ContextFullError, match="question"):
            answered(narrow, early_stop=False)


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        ("1" * 16, 0),  # all agree
        ("1" * 11 + "2" * 5, 0),  # a lead of 6 stands against 4
        ("1" * 10 + "2" * 6, 0),  # a lead of 4: equal at best, and 4 greedy votes against 2
        ("2" * 4 + "1" * 8 + "2" * 2 + "1" * 2, 4),  # a lead of 4, but the greedy votes are the rival's
        ("1122" + "1" * 8 + "2" * 4, 4),  # a lead of 4, equal in greedy votes, which 2 second opinions would add to
        ("1" * 9 + "2" * 7, 4),
        ("1" * 8 + "2" * 8, 4),
        ("1" + "-" * 15, 0),  # nobody else has a vote
        ("1" + "2" + "-" * 14, 4),
        ("-" * 16, 0),
    ],
)
def test_second_opinions_are_asked_only_where_the_pool_has_not_decided(first: str, asked: int) -> None:
    for early_stop in (False, True):
        out = answered(Scripted(voters(first, "1111")), early_stop=early_stop)
        assert out.second_opinions == asked


@pytest.mark.parametrize(
    ("count", "temperatures"), [(0, []), (1, [1]), (2, [1, 1]), (3, [2, 1]), (4, [2, 2]), (7, [4, 3])]
)
def test_so_many_second_opinions_are_asked_as_configured(count: int, temperatures: list[int]) -> None:
    sampler = Scripted(voters("1122" * 4, "1" * 8))
    out = answered(sampler, config=ModeConfig(second_opinions=count), early_stop=False)
    asked = [job for job in sampler.jobs if job.prompt.startswith(SECOND)]
    assert [len(job.temperatures) for job in asked] == temperatures
    assert all(job.temperatures[0] == 0 and all(job.temperatures[1:]) for job in asked)
    assert out.second_opinions == count and len(out.candidates) == 16 + count
    assert [one.number for one in out.candidates] == list(range(16 + count))


# --- early stop


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([0.3, 0.5, 0.8, 1.0]), st.sampled_from([2, 3, 3]))
def test_early_stop_gives_the_full_protocols_answer_in_any_order_of_completion(
    seed: int, n: int, agreement: float, mode: int
) -> None:
    """The same candidates, each text a function of its prompt, seed and number, in other orders and groups, with and without early stop."""
    asked = question(n)

    def text(job: Job, k: int) -> str:
        rng = random.Random(f"{seed} {job.prompt} {job.seed} {k}")
        offered = shown(job.prompt)
        favourite = min(offered)
        roll = rng.random()
        return saying(job, favourite if roll < agreement else None if roll > 0.95 else rng.choice(offered))

    rng = random.Random(seed)
    full = answered(Scripted(text, rng.random()), mode, asked, early_stop=False)  # type: ignore[arg-type]
    assert (full.stopped, full.cost.saved) == ("complete", 0)
    assert full.cost.started == full.cost.finished == full.cost.planned == len(full.candidates)
    for late, group in ((0.0, 1), (0.0, 5), (0.5, 3)):
        sampler = Scripted(text, rng.random(), late, group)  # type: ignore[arg-type]
        early = answered(sampler, mode, asked)
        assert early.choice == full.choice
        assert early.second_opinions == full.second_opinions
        # what would have been run, what was, and what was not
        assert early.cost.planned == full.cost.planned == len(early.candidates)
        ended = [one for one in early.candidates if one.finish_reason != "cancelled"]
        assert early.cost.finished == len(ended) and early.cost.saved == len(early.candidates) - len(ended)
        assert early.cost.started == sum(one.tokens > 0 for one in early.candidates)
        assert early.cost.completion_tokens == sum(one.tokens for one in early.candidates)
        assert (early.stopped == "certain") == bool(sampler.cancelled)
        for one in ended:
            same = dataclasses.replace(full.candidates[one.number], counted=one.counted)
            assert one == same
        votes = [sum(one.counted and one.choice == choice for one in early.candidates) for choice in range(n)]
        assert list(early.votes) == votes
        assert all(one.choice is None for one in early.candidates if one.finish_reason == "cancelled")


def test_unanimous_votes_are_certain_after_ten_of_twenty_and_two_of_four() -> None:
    """16 candidates and 4 second opinions: 10 votes against at most 10, all 4 greedy ones among them."""

    class InOrder(Scripted):
        def wait(self) -> list[tuple[int, int, Output]]:
            first = min(self._running, key=lambda one: (one[1], one[0]))  # greedy first
            self._running.remove(first)
            return [(*first, self._output(*first))]

    out = answered(InOrder(voters("1" * 16)))
    assert (out.choice, out.stopped, out.votes) == (1, "certain", (0, 10, 0, 0))
    assert (out.cost.planned, out.cost.finished, out.cost.saved) == (16, 10, 6)
    # of 4 orderings two agree, the one with the lowest number among them: it also wins a tie
    out = answered(InOrder(voters("1" * 4)), 2)
    assert (out.votes, out.cost.finished, out.cost.saved) == ((0, 2, 0, 0), 2, 2)


def test_a_candidate_that_had_ended_when_it_was_cancelled_is_kept_and_not_counted() -> None:
    out = answered(Scripted(voters("1" * 16), late=1.0))
    late = [one for one in out.candidates if not one.counted]
    assert late and all((one.finish_reason, one.choice) == ("stop", 1) for one in late)
    assert out.stopped == "certain" and out.cost.saved == 0 and out.cost.finished == 16
    assert out.votes[1] == 16 - len(late)


def test_prompt_tokens_are_counted_once_for_each_prompt_that_was_begun() -> None:
    assert answered(Scripted(voters("1" * 16)), early_stop=False).cost.prompt_tokens == 400
    assert answered(Scripted(voters("1122" * 4, "1111")), early_stop=False).cost.prompt_tokens == 600


# --- running several questions


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
    assert sorted(settled, key=lambda key: int(str(key)[1:])) == [one.id for one in asked]
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
        with pytest.raises(RequestError, match="in_flight must be a whole number of at least 1"):
            run(Scripted(voters("")), [], ModeConfig(), in_flight=wrong)  # type: ignore[arg-type]


# --- settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"orderings": 0}, "orderings must be a whole number between 1 and 26"),
        ({"orderings": 27}, "orderings must be"),
        ({"orderings": True}, "orderings must be"),
        ({"samples": -1}, "samples must be"),
        ({"samples": 1.5}, "samples must be"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0; the greedy candidates come anyway"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": float("inf")}, "temperature must be"),
        ({"temperature": "hot"}, "temperature must be"),
        ({"temperature": True}, "temperature must be"),
        ({"second_opinion_temperature": 0.0}, "second_opinion_temperature must be a number above 0"),
        ({"top_p": 1.5}, "top_p must be a number between 0 and 1"),
        ({"top_p": float("nan")}, "top_p must be"),
        ({"min_p": -0.1}, "min_p must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"second_opinions": 101}, "second_opinions must be"),
        ({"extract_characters": -1}, "extract_characters must be"),
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"max_tokens": None}, "max_tokens must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"thinking": None}, "thinking must be True or False"),
        ({"gate": 1}, "gate must be True or False"),
        ({"prompt": "other"}, "prompt must be one of simple-evals, direct"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as error:
        ModeConfig(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", [-1, 4, 1.5, True, "2", None])
def test_a_mode_that_is_none_is_refused(mode: Any) -> None:
    with pytest.raises(RequestError, match="mode must be 0, 1, 2 or 3"):
        plan(mode, ModeConfig())


def test_a_plan_without_candidates_is_refused() -> None:
    with pytest.raises(RequestError, match="has no candidates"):
        Plan("mine", False, 1, ())
    for samples in (0, 1001, True):
        with pytest.raises(RequestError, match="samples must be"):
            control(samples, ModeConfig())


def test_single_options_go_on_top_of_a_config() -> None:
    merged = merge(ModeConfig(samples=5, seed=3), {"seed": 4})
    assert (merged.samples, merged.seed) == (5, 4)
    assert merge(None, {}) == ModeConfig()
    with pytest.raises(RequestError, match="unknown option 'colour'; known are orderings"):
        merge(None, {"colour": 1})
    with pytest.raises(RequestError, match="config must be a ModeConfig"):
        merge({"seed": 3}, {})  # type: ignore[arg-type]


def test_options_and_command_line_know_every_field() -> None:
    fields = [field.name for field in dataclasses.fields(ModeConfig)]
    assert list(ModeOptions.__annotations__) == fields
    args = build_parser(("answer",)).parse_args(["answer", "stem"])
    assert {name: getattr(args, name) for name in fields} == dataclasses.asdict(ModeConfig())


def test_the_gate_can_be_left_out_of_every_mode() -> None:
    assert [plan(mode, ModeConfig()).neg for mode in range(4)] == [False, True, True, True]
    assert not any(plan(mode, ModeConfig(gate=False)).neg for mode in range(4))


def test_the_fingerprint_of_a_prompt_changes_with_its_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    # pinned: figures made with other words are not comparable, so a change here is one of the protocol
    assert {name: prompts.fingerprint(name) for name in prompts.PROMPTS} == {
        "simple-evals": "e52abe7edf40cb1b",
        "direct": "82435def9a0e5988",
    }
    before = prompts.fingerprint("direct")
    words = prompts.direct
    monkeypatch.setitem(prompts.PROMPTS, "direct", lambda q, o: words(q, o) + ".")
    assert prompts.fingerprint("direct") != before
    monkeypatch.undo()
    again = prompts.second_opinion
    monkeypatch.setattr(prompts, "second_opinion", lambda q, p, e: again(q, p, e) + ".")
    assert prompts.fingerprint("direct") != before


def test_the_default_prompt_is_that_of_simple_evals() -> None:
    asked = Question("Which planet is nearest to the sun?", ("Venus", "Mercury", "Mars", "Earth"))
    assert prompts.simple_evals(asked, (0, 1, 2, 3)) == (
        "Answer the following multiple choice question. The last line of your response should be of the following format: 'Answer: $LETTER' "
        "(without quotes) where LETTER is one of ABCD. Think step by step before answering.\n\nWhich planet is nearest to the sun?\n\n"
        "A) Venus\nB) Mercury\nC) Mars\nD) Earth"
    )


def test_braces_and_percent_signs_in_a_question_are_left_alone() -> None:
    asked = Question("What is {0} %s {x}?", ("{1}", "%d", "$x$", "\\{"))
    for form in prompts.PROMPTS.values():
        text = form(asked, (0, 1, 2, 3))
        assert "What is {0} %s {x}?" in text and shown(text) == list(asked.choices)


# --- results and command line


def test_an_answer_is_json_with_every_candidate() -> None:
    class Strange(Scripted):
        def _output(self, handle: int, k: int) -> Output:
            return dataclasses.replace(super()._output(handle, k), mean_entropy=float("nan"), activation_rate=0.25)

    out = json.loads(json.dumps(answered(Strange(voters("1122" * 4, "1111"))).as_dict(), allow_nan=False))
    assert out["choice"] == 1 and out["letter"] == "B" and out["text"] == "text of choice 1"
    assert len(out["candidates"]) == 20 and out["cost"]["saved"] == out["cost"]["planned"] - out["cost"]["finished"]
    first = out["candidates"][0]
    assert first["mean_entropy"] is None and first["activation_rate"] == 0.25
    assert {"number", "ordering", "seed", "text", "letter", "choice", "tokens", "finish_reason", "counted"} <= set(
        first
    )


def test_the_lines_of_the_command_say_what_happened() -> None:
    out = answered(Scripted(voters("1122" * 4, "1111")), early_stop=False)
    assert closing_line(out).startswith("[mode 3, votes: B 12 C 8; 20 of 20 inferences finished, 0 saved; 200 tokens, ")
    first, last = candidate_line(out.candidates[0]), candidate_line(out.candidates[-1])
    assert first.startswith("candidate 0, choices as ") and "greedy" in first and "votes B" in first
    assert last.startswith("second opinion 19, choices as CB, temperature 0.7, seed ") and "votes B" in last
    tie = answered(Scripted(voters("2-12")), 2, early_stop=False)
    assert "1 could not be read" in closing_line(tie)


GOOD = ["--choice", "a", "--choice", "b", "-m", "/no/such.gguf"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no model given"),
        (["-m", "x.gguf"], "no question given; write it as an argument"),
        (["stem", "-m", "x.gguf"], "has 0 choices; give 2 to 26"),
        (["stem", "--choice", "a", "-m", "x.gguf"], "has 1 choices"),
        (["stem", "--choice", "a", "--choice", "a", "-m", "x.gguf"], "the same choice twice"),
        (["", *GOOD], "has no text"),
        (["stem", *GOOD], "/no/such.gguf: no such file"),
        (["stem", *GOOD, "--question", "x.json"], "a question and --question are both given"),
        (["--question", "/no/such.json", "-m", "x.gguf"], "/no/such.json: cannot be read"),
        (["stem", *GOOD, "--mode", "4"], "invalid choice: 4"),
        (["stem", *GOOD, "--temperature", "0"], "temperature must be a number above 0"),
        (["stem", *GOOD, "--orderings", "0"], "orderings must be"),
        (["stem", *GOOD, "--samples", "x"], "invalid int value"),
        (["stem", *GOOD, "--prompt", "other"], "invalid choice: 'other'"),
        (["stem", *GOOD, "--demo"], "--demo brings its own model"),
    ],
)
def test_bad_usage_of_answer_is_one_line_and_exit_code_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["answer", *args])
    except SystemExit as leaving:  # argparse leaves this way
        code = int(str(leaving.code))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err and re.fullmatch(r"darwin-neg: error: [^\n]+\n", err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no question"),
        ("3", "must be an object like"),
        ('{"stem": "x"}', "has no 'choices'"),
        ('{"choices": ["a", "b"]}', "has no 'stem'"),
        ('{"stem": "x", "choices": ["a", "b"], "answer": 1}', "has an unknown key 'answer'"),
        ('{"stem": "x", "choices": "ab"}', "choices must be a list of texts"),
        ('{"stem": "x", "choices": ["a"]}', "has 1 choices"),
        (
            '[{"stem": "x", "choices": ["a", "b"]}, {"stem": "", "choices": ["a", "b"]}]',
            "question 2: question: has no text",
        ),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_bad_question_file_is_one_line_that_names_it(
    tmp_path: Any, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["answer", "--question", str(path), "-m", "x.gguf"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "bad.json" in err and message in err and re.fullmatch(r"darwin-neg: error: [^\n]+\n", err)
