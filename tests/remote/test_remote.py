"""Protocols against servers that follow a script: who is asked, what is tried again, and what is never done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from darwin_neg_cpp import ContextFullError, DarwinNegError, NegHeadError, Question, RemoteEngine, RequestError
from darwin_neg_cpp.engine.session import sample_seed
from darwin_neg_cpp.eval import data, evaluate
from darwin_neg_cpp.protocols import Answer, ModeConfig
from darwin_neg_cpp.protocols.sampler import Job
from darwin_neg_cpp.remote import fleet
from scripted_server import NEG, ScriptedServer
from waiting import wait_until

QUESTIONS = [Question(f"Which is number {i}?", (f"{i}", "x", "y", "z"), id=str(i)) for i in range(4)]
CONFIG = ModeConfig(prompt="direct", samples=2)


@pytest.fixture
def servers() -> Iterator[Callable[..., list[ScriptedServer]]]:
    """servers(how many, **script) -> that many running ones, which are ended after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda count=1, **script: [stack.enter_context(ScriptedServer(**script)) for _ in range(count)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed after a moment."""
    monkeypatch.setattr(fleet, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(fleet, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(fleet, "FIRST_REST", 0.05)
    monkeypatch.setattr(fleet, "IDLE_SECONDS", 0.05)


def open_engine(running: list[ScriptedServer], **options: Any) -> RemoteEngine:
    return RemoteEngine([server.url for server in running], **options)


def told(answer: Answer) -> list[object]:
    return [(one.number, one.seed, one.sample, one.text, one.finish_reason) for one in answer.candidates]


def expected(questions: list[Question], mode: int = 3) -> list[list[object]]:
    """The answers of one server that never fails."""
    with ScriptedServer() as server, RemoteEngine(server.url) as remote:
        return [told(answer) for answer in remote.answer(questions, mode, config=CONFIG, early_stop=False)]


def all_calls(running: list[ScriptedServer]) -> Counter[tuple[str, int]]:
    """How often each sample was answered to its end, by prompt and seed."""
    whole = [one for server in running for one in server.all_whole()]
    return Counter((one.prompt, one.body["seed"] if one.body["temperature"] else -1) for one in whole)


# --- what is asked


def test_each_sample_is_a_request_with_the_engines_seed_and_every_setting(servers: Any) -> None:
    (server,) = servers()
    with open_engine([server]) as remote:
        sampler = remote.sampler()
        job = Job("Say.", (0.0, 0.7, 0.7), 2**40 + 5, True, CONFIG)
        sampler.start([job, Job("Say.", (0.7,), 2**40 + 5, True, CONFIG, only=2)])
        outputs = []
        while ended := sampler.wait():
            outputs += ended
    bodies = sorted((one.body for one in server.completions), key=lambda body: body["seed"])
    seeds = [sample_seed(2**40 + 5, k) for k in (0, 1, 2)]
    assert sorted(body["seed"] for body in bodies) == sorted([*seeds, seeds[2]]) and len(set(seeds)) == 3
    for body in bodies:
        assert body["temperature"] == (0.0 if body["seed"] == seeds[0] else 0.7)
        assert bytes(body["prompt"]) == b"<u>Say.<a>"
        given = {"n_predict": 2048, "top_p": 0.95, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "stop": [],
                 "neg": {"enabled": True, "action": "mask"}, "return_neg": True, "cache_prompt": True}  # fmt: skip
        assert {name: body[name] for name in given} == given and body["samplers"][-1] == "temperature"
    texts = {(handle, index): output for handle, index, output in outputs}
    assert len(texts) == 4 and texts[0, 2].text == texts[1, 0].text
    assert texts[0, 0].mean_entropy == 0.5 and texts[0, 0].activation_rate == 0.25
    assert texts[0, 0].tokens == len(texts[0, 0].token_ids) and texts[0, 0].prompt_tokens == 10


@pytest.mark.parametrize(("first", "second", "mode"), [(0.0, 0.0, 3), (0.0, 9.0, 2), (9.0, 0.0, 1), (0.5, 0.5, 3)])
def test_mode_auto_asks_for_the_candidates_of_the_mode_that_it_ends_in(
    servers: Any, first: float, second: float, mode: int
) -> None:
    """Every token has an entropy of 0.5 here, which 0.5 is not below."""
    (server,) = servers()
    config = dataclasses.replace(CONFIG, auto_first_threshold=first, auto_second_threshold=second)
    with open_engine([server]) as remote:
        answers = remote.answer(QUESTIONS, "auto", config=config, early_stop=False)
    assert [told(answer) for answer in answers] == expected(QUESTIONS, mode)
    assert len(server.completions) == sum(answer.cost.planned for answer in answers), "nothing is asked for twice"


def test_signals_from_servers_are_those_of_the_entropies(servers: Any) -> None:
    (server,) = servers()
    with open_engine([server]) as remote:
        answer = remote.answer(QUESTIONS[0], 1, config=CONFIG, abstain_above=0.4)
        (one,) = answer.candidates
        assert answer.abstained == "mean predicted entropy 0.5 is above 0.4"
        assert one.signals is not None and one.signals.letter_logprob is None, "no vocabulary is sorted for it"
        assert (one.signals.max_entropy, one.signals.last_quarter_entropy, one.signals.letter_entropy) == (
            0.5,
            0.5,
            0.5,
        )
        for signal in ("logprob", "letter_logprob", "true_mean_entropy", "true_letter_entropy"):
            with pytest.raises(
                RequestError, match=rf"abstain_signal '{signal}' .* is not known of this model's answers"
            ):
                remote.answer(QUESTIONS[0], 1, config=CONFIG, abstain_above=0.4, abstain_signal=signal)


@pytest.mark.parametrize(("neg", "asks"), [(NEG, {"neg": False, "return_neg": True}), (None, {})])
def test_with_the_gate_off_a_head_reports_and_a_stock_server_gets_no_field_of_ours(
    servers: Any, neg: Any, asks: dict[str, Any]
) -> None:
    (server,) = servers(neg=neg)
    with open_engine([server]) as remote:
        answer = remote.answer(QUESTIONS[0], 0, config=CONFIG)
    (asked,) = server.completions
    assert {name: asked.body[name] for name in ("neg", "return_neg") if name in asked.body} == asks
    assert answer.candidates[0].mean_entropy == (0.5 if neg else None)


def test_a_gate_that_the_server_does_not_have_is_refused_before_anything_is_asked(servers: Any) -> None:
    (server,) = servers(neg=None)
    with open_engine([server]) as remote, pytest.raises(NegHeadError, match="switch the gate off"):
        remote.answer(QUESTIONS[0], 1, config=CONFIG)
    assert not server.completions and remote.answer


@pytest.mark.parametrize(("tail", "begin"), [("<a>", ""), ("<a><think>\n", "<think>"), ("<think>\n\n</think>", "")])
def test_a_reasoning_that_the_prompt_has_opened_is_in_the_text(servers: Any, tail: str, begin: str) -> None:
    (server,) = servers(tail=tail, say=lambda *_: ["It is.", "</think>", "Answer: A"])
    with open_engine([server]) as remote:
        (one,) = remote.answer(QUESTIONS[0], 0, config=CONFIG).candidates
    assert one.text == f"{begin}It is.</think>Answer: A"


def test_one_place_makes_answers_depend_on_their_prompt_alone(servers: Any) -> None:
    for slots, option, cache in ((1, None, False), (2, None, True), (1, True, True), (2, False, False)):
        (server,) = servers(slots=slots)
        with open_engine([server], cache_prompt=option) as remote:
            remote.answer(QUESTIONS[0], 0, config=CONFIG)
        assert server.completions[0].body["cache_prompt"] is cache


def test_a_prompt_that_does_not_fit_is_named_and_second_opinions_are_cut(servers: Any) -> None:
    (server,) = servers(props={"default_generation_settings": {"n_ctx": 700}})
    with open_engine([server]) as remote:
        with pytest.raises(ContextFullError, match=r"question 'long': prompt has \d+ tokens.*--ctx-size"):
            remote.answer(Question("word " * 200, ("a", "b"), id="long"), 0, config=CONFIG)
        assert not server.completions
        votes = iter("ABAB" * 50)
        server.say = lambda *_: ["because " * 80, f"Answer: {next(votes)}"]
        answer = remote.answer(Question("Short?", ("a", "b"), id="q"), 3, config=CONFIG, orderings=1, samples=3)
    assert answer.second_opinions and all(len(one.prompt) < 700 for one in server.completions)


# --- who is asked


def test_the_server_with_the_least_to_do_comes_first_and_none_gets_more_than_its_places(servers: Any) -> None:
    running = [*servers(1, slots=1, pause=0.02), *servers(1, slots=3, pause=0.02)]
    with open_engine(running) as remote:
        sampler = remote.sampler()
        sampler.start([Job("Say.", (0.7,) * 3, 1, False, CONFIG)])
        wait_until(lambda: sum(len(server.completions) for server in running) == 3)
        assert [len(server.completions) for server in running] == [1, 2], "a third of its places each"
        sampler.start([Job("Say.", (0.7,) * 20, 2, False, CONFIG)])
        while sampler.wait():
            pass
    assert [server.most_at_once for server in running] == [1, 3]
    assert sum(len(server.completions) for server in running) == 23


def test_many_servers_with_every_kind_of_failure_give_what_one_gives(servers: Any, quick: None) -> None:
    kinds = ["503 0", "reset", "cut", "500", "503"]
    running = [*servers(1, pause=0.001), *servers(1, pause=0.002), *servers(1, slots=1)]
    for i, server in enumerate(running):
        server.failures = [kinds[(i + k) % len(kinds)] if k % 3 == 0 else "" for k in range(30)]
    with open_engine(running) as remote:
        answers = remote.answer(QUESTIONS, 3, config=CONFIG, early_stop=False)
    assert [told(answer) for answer in answers] == expected(QUESTIONS)
    assert any(one.finished == "reset" for server in running for one in server.completions)


def test_two_threads_share_an_engine(servers: Any) -> None:
    running = servers(2, pause=0.001)
    answers: dict[int, Any] = {}
    with open_engine(running) as remote:

        def ask(number: int) -> None:
            answers[number] = remote.answer(QUESTIONS[number], 3, config=CONFIG, early_stop=False)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [told(answers[number]) for number in range(4)] == expected(QUESTIONS)


# --- failures


@pytest.mark.parametrize(("failure", "least"), [("503 1", 1.0), ("503", 0.4), ("reset", 0.4), ("cut", 0.4)])
def test_a_failed_request_is_made_again_after_a_rest(servers: Any, failure: str, least: float) -> None:
    (server,) = servers(failures=[failure])
    with open_engine([server]) as remote:
        answer = remote.answer(QUESTIONS[0], 0, config=CONFIG)
    assert [told(answer)] == expected(QUESTIONS[:1], 0)
    first, second = server.completions
    assert least <= second.begun - first.begun < least + 1.5


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        ("400", RequestError, "HTTP 400: it is so"),
        ("500", DarwinNegError, "HTTP 500: it is so; the same request has failed 3 times"),
    ],
)
def test_a_request_that_fails_for_itself_is_an_error_that_names_the_server(
    servers: Any, failure: str, error: type[Exception], words: str
) -> None:
    (server,) = servers(failures=[failure] * 10)
    with open_engine([server]) as remote, pytest.raises(error) as raised:
        remote.answer(QUESTIONS[0], 0, config=CONFIG)
    assert words in str(raised.value) and server.url in str(raised.value)


def test_a_silent_server_loses_its_work_to_the_others_and_a_slow_one_does_not(servers: Any, quick: None) -> None:
    slow, silent = servers(1, pause=0.5, say=lambda *_: ["Answer: A"])[0], servers(1, say=lambda *_: ["Answer: A"])[0]
    silent.failures, silent.health = ["silent"] * 10, "silent"
    with open_engine([slow, silent]) as remote:
        begin = time.monotonic()
        answer = remote.answer(QUESTIONS[0], 2, config=CONFIG, early_stop=False)
    assert len(answer.candidates) == 4 and time.monotonic() - begin < 10
    assert len(silent.completions) == 2 and [one.finished for one in slow.completions] == ["whole"] * 4


def test_an_answer_that_stands_still_on_a_server_that_is_there_is_asked_for_again(
    servers: Any, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "STALLED_SECONDS", 1.0)
    (server,) = servers(failures=["hang"])
    with open_engine([server]) as remote:
        begin = time.monotonic()
        remote.answer(QUESTIONS[0], 0, config=CONFIG)
    assert 1 <= time.monotonic() - begin < 20 and len(server.completions) == 2


def test_all_dead_is_one_error_after_the_patience(servers: Any, quick: None) -> None:
    running = servers(2, pause=0.05)
    with open_engine(running, server_patience=0.8) as remote:
        threading.Timer(0.2, lambda: [server.kill() for server in running]).start()
        begin = time.monotonic()
        with pytest.raises(DarwinNegError, match="no server answers any more") as raised:
            remote.answer(QUESTIONS, 3, config=CONFIG)
    assert 0.8 < time.monotonic() - begin < 20
    assert all(f"{server.url}: connection refused" in str(raised.value) for server in running)


def test_servers_that_are_only_ever_busy_are_an_error_too(servers: Any, quick: None) -> None:
    (server,) = servers(failures=["503 0.05"] * 1000)
    with open_engine([server], server_patience=0.6) as remote, pytest.raises(DarwinNegError, match="HTTP 503: busy"):
        remote.answer(QUESTIONS[0], 0, config=CONFIG)


def test_a_server_that_comes_back_works_again(servers: Any, quick: None) -> None:
    (first, second) = servers(2, pause=0.01)
    with open_engine([first, second]) as remote:
        first.kill()
        remote.answer(QUESTIONS[0], 2, config=CONFIG)
        with ScriptedServer(port=first.port) as again:
            time.sleep(0.1)
            for _ in range(30):
                remote.answer(QUESTIONS[1], 2, config=CONFIG, early_stop=False)
                if again.completions:
                    break
            assert again.all_whole()


def test_a_server_that_comes_back_with_another_model_is_left_out(
    servers: Any, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    (first, second) = servers(2, pause=0.01)
    with open_engine([first, second]) as remote:
        first.kill()
        with ScriptedServer(port=first.port, meta={"n_params": 2000}) as other:
            time.sleep(0.1)
            for _ in range(4):
                remote.answer(QUESTIONS[1], 2, config=CONFIG)
            assert not other.completions
        assert remote.info["n_parallel"] == 2
    assert "has changed (number of parameters: 1000 and 2000)" in caplog.text and first.url in caplog.text


def test_a_cancelled_candidate_frees_its_place_and_keeps_what_it_said(servers: Any) -> None:
    (server,) = servers(slots=4, pause=0.05, say=lambda *_: ["word "] * 400)
    with open_engine([server]) as remote:
        sampler = remote.sampler()
        (handle,) = sampler.start([Job("Say.", (0.7,) * 3, 1, False, CONFIG)])
        time.sleep(1)
        sampler.cancel(handle)
        outputs = [output for _, _, output in sampler.wait()]
        assert [output.finish_reason for output in outputs] == ["cancelled"] * 3
        assert all(output.tokens == output.text.count("word") > 2 for output in outputs)
        assert outputs[0].mean_entropy == 0.5
        wait_until(lambda: not server.running)
    assert [one.finished for one in server.completions] == ["left"] * 3


def test_early_stop_cancels_what_cannot_change_the_answer(servers: Any) -> None:
    (server,) = servers(slots=16, pause=0.02)
    server.say = lambda _prompt, seed, temperature: ["word "] * (400 if temperature else 1) + ["\nAnswer: A"]
    question = Question("Which?", ("a",) * 1 + ("b",), id="q")
    with open_engine([server]) as remote:
        answer = remote.answer(question, 3, config=CONFIG, samples=1, second_opinions=0, orderings=1)
        assert answer.stopped == "certain" and answer.cost.finished < answer.cost.planned


# --- an evaluation


def make_set(folder: Path, count: int = 5) -> data.DataSet:
    lines = [
        {"question": f"Which is number {i}?", "choices": [f"{i}", "x", "y", "z"], "answer": "A"} for i in range(count)
    ]
    file = folder / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    return data.load(file)


def answers_of(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").splitlines()]
    found = [{k: v for k, v in line.items() if k not in ("seconds", "at")} for line in lines if "protocol" in line]
    return sorted(found, key=lambda line: (line["n"], line["protocol"]))


def evaluate_on(running: list[ScriptedServer], questions: data.DataSet, folder: Path, **options: Any) -> Any:
    with open_engine(running, server_patience=1.0) as remote:
        return evaluate.evaluate(remote, questions, folder, config=CONFIG, early_stop=False, **options)


def test_killing_one_of_three_loses_nothing_and_repeats_no_finished_call(
    servers: Any, quick: None, tmp_path: Path
) -> None:
    questions = make_set(tmp_path)
    evaluate_on(servers(1), questions, tmp_path / "whole")
    running = servers(3, pause=0.002)

    def kill(done: int, _total: int, _right: object) -> None:
        if done == 9:
            running[1].kill()

    report = evaluate_on(running, questions, tmp_path / "killed", progress=kill)
    assert answers_of(tmp_path / "killed") == answers_of(tmp_path / "whole")
    assert report["settings"] == json.loads((tmp_path / "whole" / "report.json").read_text("utf-8"))["settings"]
    assert report["settings"]["llama_cpp"] == {"servers": "b1-script"}
    assert report["settings"]["model"]["name"] == "scripted" and report["settings"]["model"]["neg"] == NEG
    (session,) = report["timing"]["sessions"]
    assert session["machine"]["servers"] == " ".join(server.url for server in running)
    one = servers(1)
    evaluate_on(one, questions, tmp_path / "again")
    # greedy samples of one prompt are alike in several protocols, so each is counted as often as one server made it
    assert all_calls(running) == all_calls(one)
    assert any(call.finished != "whole" for call in running[1].completions) and running[1].all_whole()


def test_an_evaluation_whose_servers_have_died_resumes(servers: Any, quick: None, tmp_path: Path) -> None:
    questions = make_set(tmp_path)
    evaluate_on(servers(1), questions, tmp_path / "whole")
    running = servers(2, pause=0.001)

    def kill(done: int, _total: int, _right: object) -> None:
        if done == 7:
            for server in running:
                server.kill()

    with pytest.raises(DarwinNegError, match="no server answers any more"):
        evaluate_on(running, questions, tmp_path / "out", progress=kill)
    assert 7 <= len(answers_of(tmp_path / "out")) < len(answers_of(tmp_path / "whole"))
    rest = servers(1)
    evaluate_on(rest, questions, tmp_path / "out")
    assert answers_of(tmp_path / "out") == answers_of(tmp_path / "whole")
    one = servers(1)
    evaluate_on(one, questions, tmp_path / "again")
    made = all_calls(running) + all_calls(rest)
    # what had been answered but not yet been written when the run ended is asked for once more
    assert set(made) == set(all_calls(one)) and sum((made - all_calls(one)).values()) <= 4


def test_a_ledger_of_another_model_or_build_is_refused(servers: Any, tmp_path: Path) -> None:
    questions = make_set(tmp_path, 1)
    evaluate_on(servers(1), questions, tmp_path / "out", modes=(0,))
    for script, words in (
        ({"props": {"build_info": "b2-script"}}, "llama_cpp.servers was b1-script, is b2-script"),
        ({"meta": {"size": 5000}}, "model.size was 4000, is 5000"),
        ({"neg": {**NEG, "threshold": 2.0}}, "model.neg.threshold was 1.0, is 2.0"),
    ):
        with pytest.raises(RequestError, match=words):
            evaluate_on(servers(1, **script), questions, tmp_path / "out", modes=(0,))


# --- before anything is asked


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"meta": {"n_params": 2000}}, "number of parameters: 1000 and 2000"),
        ({"props": {"build_info": "b2"}}, "build: b1-script and b2"),
        ({"props": {"model_alias": "other"}}, "the model's name: scripted and other"),
        ({"props": {"chat_template": "other"}}, "chat template"),
        ({"props": {"default_generation_settings": {"n_ctx": 8}}}, "context of one request"),
        ({"props": {"default_generation_settings": {"n_ctx": 4096, "params": {"lora": [{"id": 0, "scale": 1.0}]}}}},
         "LoRA adapters"),
        ({"neg": None}, "NEG head"),
        ({"neg": {**NEG, "threshold": 3.0}}, "NEG head"),
    ],
)  # fmt: skip
def test_servers_that_differ_are_refused_in_one_line_that_names_both(servers: Any, other: Any, words: str) -> None:
    running = [*servers(2), *servers(1, **other)]
    with pytest.raises(RequestError) as raised:
        open_engine(running)
    message = str(raised.value)
    assert f"{running[0].url} and {running[2].url} differ in " in message and words in message and "\n" not in message
    assert not any(server.completions for server in running)


def test_servers_may_have_different_numbers_of_places_and_load_for_a_while(servers: Any) -> None:
    with open_engine([*servers(1, slots=1), *servers(1, slots=5, loading=2)]) as remote:
        assert remote.info["n_parallel"] == 6


def test_a_server_that_stays_busy_loading_is_named(servers: Any) -> None:
    (server,) = servers(loading=1000)
    with pytest.raises(DarwinNegError, match=r"is not ready.*Loading model"):
        open_engine([server], server_patience=0.3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, r"asks for a key \(HTTP 401\); pass server_key="),
        ("wrong", r"does not take the key \(HTTP 401\)"),
        ("wr\nong", "server_key must be printable ASCII"),
    ],
)
def test_keys(servers: Any, given: str | None, words: str) -> None:
    (server,) = servers(key="right")
    with open_engine([server], server_key="right") as remote:
        remote.answer(QUESTIONS[0], 0, config=CONFIG)
    with pytest.raises(RequestError, match=words) as raised:
        open_engine([server], server_key=given)
    assert "wrong" not in str(raised.value)


def test_a_server_that_is_not_there_is_an_error_at_once(servers: Any) -> None:
    (server,) = servers()
    server.kill()
    begin = time.monotonic()
    with pytest.raises(DarwinNegError, match=r"cannot be reached \(connection refused\); start the server"):
        open_engine([*servers(1), server])
    assert time.monotonic() - begin < 5


def test_what_is_no_llama_server_is_named(servers: Any) -> None:
    (server,) = servers(props={"build_info": None, "total_slots": None})
    with pytest.raises(RequestError, match="is not llama-server with one model"):
        open_engine([server])
    with contextlib.closing(__import__("socket").socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def talk() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.recv(1000)
                connected.sendall(b"220 smtp ready\r\n")

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(DarwinNegError, match="does not speak HTTP"):
            RemoteEngine(f"http://127.0.0.1:{listener.getsockname()[1]}")


def test_a_closed_engine_says_so(servers: Any) -> None:
    remote = open_engine(servers(1))
    remote.close()
    remote.close()
    with pytest.raises(DarwinNegError, match="let go"):
        remote.answer(QUESTIONS[0], 0, config=CONFIG)
    with pytest.raises(RequestError, match="question must be a Question or a list of them, got int"):
        open_engine(servers(1)).answer(5)  # type: ignore[call-overload]


def test_the_example_of_the_documentation_runs(
    servers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text("utf-8"), re.DOTALL)
    for name, server in zip(("a", "b"), servers(2), strict=True):
        code = code.replace(f"http://{name}:8080", server.url)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "evaluation.md", "exec"), {})
    assert "b1-script" in capsys.readouterr().out and (tmp_path / "out" / "report.html").is_file()
