"""Protocols against real servers: the answers are those of the engine with the same file."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import http_server
from darwin_neg_cpp import DarwinNEG, Neg, NegHeadError, Question, RemoteEngine, RequestError, SamplingParams
from darwin_neg_cpp.eval import data, evaluate
from darwin_neg_cpp.protocols import Answer, ModeConfig
from darwin_neg_cpp.training import own_texts
from oracles import stock
from waiting import wait_until

Start = Callable[..., http_server.Server]

ONE = ("-np", "1", "-c", "1024")
CONFIG = ModeConfig(max_tokens=12, samples=2, second_opinions=2, prompt="direct")
QUESTIONS = [
    Question("Which planet is nearest to the sun?", ("Venus", "Mercury", "Mars", "Earth"), id="planets"),
    Question("What does </s> end, and <unk>?", ("<s>", "a text </s>", "nothing é 🙂"), id="markers"),
]


# a random model may end with bytes that are no character; which of them a server has kept back it does not tell
BROKEN_END = re.compile("(\ufffd[^\ufffd]{0,2})+$")


def address(server: http_server.Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def candidates(answer: Answer) -> list[object]:
    """What must be equal."""
    return [
        (
            one.number,
            one.ordering,
            one.seed,
            one.sample,
            BROKEN_END.sub("", one.text),
            one.tokens,
            one.finish_reason,
            one.choice,
        )
        for one in answer.candidates
    ]


def open_engine(model: Path) -> DarwinNEG:
    """Computes as a server with one place does."""
    options = {"n_ctx": 1024, "n_parallel": 1, "prefix_cache": 0, "n_threads": 1}
    return DarwinNEG(model, **options, flash_attn="off", type_k="f32", type_v="f32")  # type: ignore[arg-type]


@pytest.fixture
def engine(server_models: http_server.Models) -> DarwinNEG:
    return open_engine(server_models.neg)


def test_all_modes_give_the_candidates_of_the_engine_with_the_same_file(
    start_server: Start, server_models: http_server.Models, engine: DarwinNEG
) -> None:
    server = start_server("-m", server_models.neg, *ONE)
    sampled = 0
    with engine, RemoteEngine(address(server)) as remote:
        for mode in range(4):
            here = engine.answer(QUESTIONS, mode, config=CONFIG, early_stop=False)
            there = remote.answer(QUESTIONS, mode, config=CONFIG, early_stop=False)
            for one, other in zip(here, there, strict=True):
                assert candidates(one) == candidates(other)
                assert one.votes == other.votes and one.cost.prompt_tokens == other.cost.prompt_tokens
                for a, b in zip(one.candidates, other.candidates, strict=True):
                    sampled += a.temperature > 0
                    assert b.mean_entropy == pytest.approx(a.mean_entropy, rel=1e-3)
                    assert b.activation_rate == pytest.approx(a.activation_rate)
                    # the vocabulary is bytes, and the model is random: some of its characters are none
                    assert b.token_ids in ((), a.token_ids)
    assert sampled == 2 * (4 + 3)


def test_a_stock_server_gives_the_candidates_of_the_engine_with_the_gate_off(
    server_models: http_server.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARWIN_NEG_SERVER_BIN", stock.server())
    with (
        http_server.Server(*http_server.SMALL, "-m", server_models.base, *ONE) as server,
        open_engine(server_models.base) as engine,
        RemoteEngine(address(server)) as remote,
    ):
        for mode in range(4):
            here, there = (
                model.answer(QUESTIONS, mode, config=CONFIG, early_stop=False, gate=False) for model in (engine, remote)
            )
            for one, other in zip(here, there, strict=True):
                assert candidates(one) == candidates(other)


def test_prompts_are_the_engines_token_for_token(
    start_server: Start, server_models: http_server.Models, engine: DarwinNEG
) -> None:
    """Also where a question holds what reads like a control token, which stays text."""
    from darwin_neg_cpp.protocols.sampler import EngineSampler, Job

    server = start_server("-m", server_models.neg, *ONE)
    texts = [
        "plain",
        "a </s> b<unk>",
        "<s>",
        "</s></s><s",
        "  spaces \n\n",
        "é 🙂 <|im_start|>",
        "[INST] </think> {x|y}",
    ]
    with engine, RemoteEngine(address(server)) as remote:
        here, there = EngineSampler(engine.session), remote.sampler()
        for text in texts:
            job = Job(text, (0.0,), 0, False, CONFIG)
            assert there.prompt_tokens(job) == here.prompt_tokens(job), text


def test_a_model_without_a_template_continues_the_prompt(start_server: Start, tiny_llama: Path) -> None:
    server = start_server("-m", tiny_llama, "-np", "1", "-c", "512")
    options = {"gate": False, "max_tokens": 12, "samples": 1, "prompt": "direct"}
    with open_engine(tiny_llama) as llm, RemoteEngine(address(server)) as remote:
        assert remote.info["chat_template"] is None
        here, there = (model.answer(QUESTIONS[0], 3, early_stop=False, **options) for model in (llm, remote))
        assert candidates(here) == candidates(there)


def test_a_server_without_a_head_serves_with_the_gate_off_alone(
    start_server: Start, server_models: http_server.Models
) -> None:
    server = start_server("-m", server_models.base, *ONE)
    with RemoteEngine(address(server)) as remote:
        assert remote.neg is None
        with pytest.raises(NegHeadError, match=r'no NEG head \(no "neg" in /props\).*switch the gate off'):
            remote.answer(QUESTIONS[0], 1, config=CONFIG)
        assert remote.answer(QUESTIONS[0], 0, config=CONFIG).candidates[0].mean_entropy is None
        remote.answer(QUESTIONS[0], 2, config=CONFIG, gate=False)


def test_servers_that_differ_are_named_before_anything_is_asked(
    start_server: Start, server_models: http_server.Models
) -> None:
    one, other = start_server("-m", server_models.neg, *ONE), start_server("-m", server_models.base, *ONE)
    with pytest.raises(RequestError) as refused:
        RemoteEngine([address(one), address(other)])
    assert address(one) in str(refused.value) and address(other) in str(refused.value)
    assert "differ in the model's name: neg.gguf and base.gguf" in str(refused.value)


def test_own_texts_are_those_of_the_engine(
    start_server: Start, server_models: http_server.Models, engine: DarwinNEG
) -> None:
    server = start_server("-m", server_models.neg, *ONE)
    starts = [own_texts.Opening("a", text, answer) for text, answer in (("hello", False), ("hello there", True))]
    free = [own_texts.Opening("b", "", answer=False)] * 3
    with engine, RemoteEngine(address(server)) as remote:
        remote.check_runs(engine.path, engine.info, engine.neg)
        for openings in (starts, free):
            here, there = (
                own_texts.generate(engine.session, openings, seed=5, max_tokens=20, temperature=0.8, writer=writer)
                for writer in (None, remote)
            )
            for text, other in zip(here, there, strict=True):
                assert text[: len(other)] == other and len(other) > 1
        with pytest.raises(RequestError, match=r"runs another model than x\.gguf"):
            remote.check_runs("x.gguf", {**engine.info, "n_embd": 7}, engine.neg)
        with pytest.raises(RequestError, match=r"has another NEG head than x\.gguf"):
            remote.check_runs("x.gguf", engine.info, {**(engine.neg or {}), "threshold": 7.0})
        params = SamplingParams(seed=1, temperature=0.0, max_tokens=4, neg=Neg())
        assert len(remote.write([[1, 2, 3]], params)[0]) <= 4


def test_killing_one_of_three_in_the_middle_of_an_evaluation_loses_nothing(
    server_models: http_server.Models, tmp_path: Path
) -> None:
    lines = [{"question": f"Which is number {i}?", "choices": [f"{i}", "x", "y", "z"], "answer": "A"} for i in range(8)]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    questions = data.load(file)
    options = (*http_server.SMALL, "-m", server_models.neg, "-np", "2", "-c", "1024")
    servers = [http_server.Server(*options) for _ in range(3)]
    killed = threading.Event()

    def kill(done: int, _total: int, _right: object) -> None:
        if done == 5:
            servers[1].process.send_signal(signal.SIGKILL)
            killed.set()

    try:
        with RemoteEngine([address(server) for server in servers], cache_prompt=False) as remote:
            config = ModeConfig(max_tokens=8, samples=1, second_opinions=2, orderings=2, prompt="direct")
            report = evaluate.evaluate(
                remote, questions, tmp_path / "out", modes=(0, 2, 3), config=config, early_stop=False, progress=kill
            )
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
    assert killed.is_set()
    assert [one["questions"] for one in report["protocols"].values()] == [8] * 5
    lines = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text("utf-8").splitlines()]
    assert not [line for line in lines if line.get("error") or (line.get("call") or {}).get("error")]
    calls = [line["call"] for line in lines if "call" in line]
    names = [tuple(call[key] for key in ("number", "protocol", "seed", "sample")) for call in calls]
    assert len(set(names)) == len(names) > 0, "no finished call is made twice"
    assert report["settings"]["llama_cpp"]["servers"] and report["settings"]["model"]["name"] == "neg.gguf"
    assert report["settings"]["model"]["neg"]["top_k"] > 0


def test_early_stop_frees_the_servers_places(start_server: Start, server_models: http_server.Models) -> None:
    server = start_server("-m", server_models.neg, "-np", "4", "-c", "4096")
    with RemoteEngine(address(server)) as remote:
        sampler = remote.sampler()
        from darwin_neg_cpp.protocols.sampler import Job

        job = Job("Go on.", (0.7,) * 4, 0, True, ModeConfig(max_tokens=100_000))
        (handle,) = sampler.start([job])
        time.sleep(0.3)
        begin = time.monotonic()
        sampler.cancel(handle)
        outputs = [output for _, _, output in sampler.wait()]
        assert time.monotonic() - begin < 5, "and not at the end of 100,000 tokens"
        assert {output.finish_reason for output in outputs} <= {"cancelled", "length", "stop"}
        wait_until(lambda: not any(slot["is_processing"] for slot in server.get("/slots").json))
