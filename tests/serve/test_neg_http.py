"""NEG in the APIs of the HTTP server: what requests may ask for, and that every figure is the engine's own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG
from http_server import Server, command

TEXT = "root ::= [a-z ]+"  # a random model would write broken characters otherwise
MESSAGES = [{"role": "user", "content": "hello"}]
N = 12

# the five APIs: path, and a request
APIS: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": ("/completion", {"prompt": "hello", "n_predict": N}),
    "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": N}),
    "chat": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": N}),
    "responses": ("/v1/responses", {"input": "hello", "max_output_tokens": N}),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": N}),
}
GREEDY = {"temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
SAMPLED = {**GREEDY, "temperature": 1.3, "seed": 7, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def server(start_server, server_models) -> Server:
    return start_server("-m", server_models.neg, "-c", 2048, "-np", 4, "--metrics", "--grammar", TEXT)


@pytest.fixture(scope="module")
def without_head(start_server, server_models) -> Server:
    return start_server("-m", server_models.base, "-c", 2048, "-np", 4, "--metrics", "--grammar", TEXT)


def parts_with_arrays(api: str, answer: Any) -> list[dict[str, Any]]:
    """The parts of an answer that hold the arrays of return_neg."""
    return list(answer["choices"]) if api in ("completions", "chat") else [answer]


def arrays_of_stream(api: str, chunks: list[Any]) -> dict[str, Any]:
    if api in ("completions", "chat"):
        (last,) = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]]
        return last["neg"]
    if api == "responses":
        return chunks[-1]["response"]["neg"]
    if api == "messages":
        (delta,) = [chunk for chunk in chunks if chunk["type"] == "message_delta"]
        return delta["neg"]
    return chunks[-1]["neg"]


def check_arrays(neg: dict[str, Any], tokens: int | None = None) -> None:
    assert list(neg) == ["tokens", "entropy", "active", "activation_rate", "mean_entropy"]
    n = len(neg["tokens"])
    assert n == len(neg["entropy"]) == len(neg["active"]) > 0
    assert tokens is None or n == tokens
    assert neg["activation_rate"] == pytest.approx(sum(neg["active"]) / n)
    assert neg["mean_entropy"] == pytest.approx(sum(neg["entropy"]) / n)


@pytest.mark.parametrize("api", APIS)
def test_answers_hold_one_record_per_token_where_they_are_asked_for(server: Server, api: str) -> None:
    path, body = APIS[api]
    for part in parts_with_arrays(api, server.ok(path, {**body, "return_neg": True})):
        check_arrays(part["neg"])
    silent = server.ok(path, {**body, "return_neg": False})
    assert all("neg" not in part for part in [silent, *parts_with_arrays(api, silent)])


@pytest.mark.parametrize("api", APIS)
def test_chunks_report_the_newest_token_and_the_end_all_of_them(server: Server, api: str) -> None:
    path, body = APIS[api]
    chunks = server.stream(path, {**body, "return_neg": True, "stream_options": {"include_usage": True}})
    neg = arrays_of_stream(api, chunks)
    check_arrays(neg)
    whole = [chunk["neg"] for chunk in chunks if "tokens" not in chunk["neg"]]
    # there the arrays are in the newest token's place
    assert len(chunks) - len(whole) == (1 if api in ("completion", "messages") else 0)
    records = list(zip(neg["entropy"], neg["active"], strict=True))
    told = [(chunk["entropy"], chunk["active"]) for chunk in whole]
    assert all(set(chunk) == {"entropy", "active"} for chunk in whole)
    # every token had its chunk, in order; further chunks repeat the newest one
    order = [record for k, record in enumerate(told) if k == 0 or record != told[k - 1]]
    assert order == records
    bare = server.stream(path, body)
    assert all(set(chunk["neg"]) == {"entropy", "active"} for chunk in bare)


def test_text_of_the_tokens_is_the_text(server: Server) -> None:
    answer = server.ok("/completion", {"prompt": "hello", "n_predict": N, "return_neg": True, "return_tokens": True})
    assert "".join(answer["neg"]["tokens"]) == answer["content"]
    assert len(answer["neg"]["tokens"]) == len(answer["tokens"]) == answer["timings"]["predicted_n"]


@pytest.mark.parametrize("api", ["completion", "completions", "chat"])
@pytest.mark.parametrize("stream", [False, True])
def test_sums_in_timings_are_those_of_the_arrays(server: Server, api: str, stream: bool) -> None:
    path, body = APIS[api]
    if stream:
        chunks = server.stream(path, {**body, "return_neg": True, "timings_per_token": True})
        neg, timings = arrays_of_stream(api, chunks), chunks[-1]["timings"]["neg"]
        assert [c["timings"]["neg"]["n"] for c in chunks if "timings" in c] == sorted(
            c["timings"]["neg"]["n"] for c in chunks if "timings" in c
        )
    else:
        answer = server.ok(path, {**body, "return_neg": True})
        neg, timings = parts_with_arrays(api, answer)[0]["neg"], answer["timings"]["neg"]
    assert timings == {
        "n": len(neg["entropy"]),
        "n_active": sum(neg["active"]),
        "entropy_sum": pytest.approx(sum(neg["entropy"])),
    }


def test_gate_changes_nothing_under_greedy_decoding(server: Server) -> None:
    body = {"prompt": "hello", "n_predict": 60, "return_tokens": True, "return_neg": True, **GREEDY}
    on = server.ok("/completion", {**body, "neg": {"threshold": 0}})
    off = server.ok("/completion", {**body, "neg": False})
    assert on["tokens"] == off["tokens"] and len(on["tokens"]) == 60
    assert on["neg"]["entropy"] == pytest.approx(off["neg"]["entropy"], abs=1e-4)
    assert all(on["neg"]["active"]) and not any(off["neg"]["active"])


def test_without_action_a_model_with_a_head_answers_as_one_without(server: Server, without_head: Server) -> None:
    body = {"prompt": "hello", "n_predict": 60, "return_tokens": True, **SAMPLED}
    plain = without_head.ok("/completion", body)["tokens"]
    assert server.ok("/completion", {**body, "neg": False})["tokens"] == plain
    assert server.ok("/completion", {**body, "neg": {"enabled": False, "threshold": 0}})["tokens"] == plain
    assert server.ok("/completion", {**body, "neg": {"action": "off"}})["tokens"] == plain
    assert server.ok("/completion", {**body, "neg": {"threshold": 0, "top_k": 2}})["tokens"] != plain
    assert without_head.ok("/completion", {**body, "neg": False})["tokens"] == plain


def test_threshold_decides_where_the_gate_is_active(server: Server) -> None:
    body = {"prompt": "hello", "n_predict": 40, "return_neg": True, **GREEDY}
    for threshold in (0, 0.5, 1.0, 2, 3e38):
        neg = server.ok("/completion", {**body, "neg": {"threshold": threshold}})["neg"]
        assert neg["active"] == [entropy > threshold for entropy in neg["entropy"]]
    asked = (True, None, {}, {"top_k": None})
    usual = [server.ok("/completion", {**body, "neg": wanted})["neg"]["active"] for wanted in asked]
    assert usual == [[entropy > 1.0 for entropy in neg["entropy"]]] * 4  # the head's own threshold


def test_sample_draws_where_the_gate_is_active_even_under_greedy_decoding(server: Server) -> None:
    body = {"prompt": "hello", "n_predict": 40, "return_tokens": True, "seed": 3, **GREEDY}
    greedy = server.ok("/completion", body)["tokens"]
    drawn = server.ok("/completion", {**body, "neg": {"action": "sample", "threshold": 0}})["tokens"]
    assert drawn != greedy
    assert server.ok("/completion", {**body, "neg": {"action": "sample", "threshold": 0}})["tokens"] == drawn
    assert server.ok("/completion", {**body, "neg": {"action": "sample", "threshold": 3e38}})["tokens"] == greedy


def test_arrays_are_those_of_the_engine(server: Server, server_models) -> None:
    with DarwinNEG(server_models.neg, n_ctx=512, n_threads=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        engine = llm.generate("hello", max_tokens=60, temperature=0.0, ignore_eos=True, grammar=TEXT)
    body = {"prompt": "hello", "n_predict": 60, "return_tokens": True, "return_neg": True, **GREEDY}
    answer = server.ok("/completion", body)
    assert answer["tokens"] == engine.token_ids.tolist()
    assert answer["neg"]["tokens"] == list(engine.pieces)
    assert engine.neg is not None
    np.testing.assert_allclose(answer["neg"]["entropy"], engine.neg.entropy, atol=2e-3)
    assert answer["neg"]["active"] == engine.neg.active.tolist()
    assert 0 < sum(answer["neg"]["active"]) < 60


def test_pieces_wait_for_the_end_of_a_character(start_server, server_models) -> None:
    plain = start_server("-m", server_models.neg, "-c", 1024, "-np", 2)
    with DarwinNEG(server_models.neg, n_ctx=512, n_threads=1, type_k="f32", type_v="f32", flash_attn="off") as llm:
        engine = llm.generate("hello", max_tokens=40, temperature=0.0, ignore_eos=True, grammar='root ::= "€ä" [é-ü]+')
    body = {"prompt": "hello", "n_predict": 40, "return_neg": True, "grammar": 'root ::= "€ä" [é-ü]+', **GREEDY}
    neg = plain.ok("/completion", body)["neg"]
    assert neg["tokens"] == list(engine.pieces) and neg["tokens"][:5] == ["", "", "€", "", "ä"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/completion", "/v1/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_entries_of_logprobs_have_their_record(server: Server, path: str, stream: bool) -> None:
    body = {"prompt": "hello", "n_predict": N} if path == "/completion" else {"prompt": "hello", "max_tokens": N}
    body |= {"messages": MESSAGES} if "chat" in path else {}
    body |= {"logprobs": True, "top_logprobs": 2} if "chat" in path else {"n_probs": 2}
    body |= {"return_neg": True, **GREEDY}  # a streamed chat has no chunk for an end that has no text
    if stream:
        chunks = server.stream(path, body)
        neg = arrays_of_stream("completion" if path == "/completion" else "chat", chunks)
        choices = [chunk["choices"][0] for chunk in chunks if chunk.get("choices")]
        parts = chunks if path == "/completion" else [c["logprobs"] for c in choices if c.get("logprobs")]
    else:
        answer = server.ok(path, body)
        neg = (answer if path == "/completion" else answer["choices"][0])["neg"]
        parts = [answer if path == "/completion" else answer["choices"][0]["logprobs"]]
    name = "completion_probabilities" if path == "/completion" else "content"
    entries = [entry["neg"] for part in parts for entry in part.get(name, [])]
    assert entries == [{"entropy": e, "active": a} for e, a in zip(neg["entropy"], neg["active"], strict=True)]


BAD = {
    "neg": ["yes", 1, 0.5, [], "", [True]],
    "neg.enabled": ["yes", 1, 0, [], {}],
    "neg.action": ["", "gate", 1, True, [], {}],
    "neg.threshold": ["1", -0.1, -1, True, [], {}, 1e39, 1e300, 3.5e38],
    "neg.top_k": [0, -1, 259, 2**31, 2**32 + 1, 2**63, 2**64 - 1, 10**30, 1.5, 2.0, "3", True, [], {}],
    "neg.use_temp_scale": ["yes", 1, [], {}],
    "return_neg": ["yes", 1, [], {}, 0],
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_value_is_refused_in_one_sentence_that_names_it(server: Server, field: str) -> None:
    name = field.removeprefix("neg.")
    for value in BAD[field]:
        bad = {name: value} if name == field else {"neg": {name: value}}
        answer = server.post("/completion", {"prompt": "x", "n_predict": 1, **bad})
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error"), (value, answer.text)
        assert answer.message.startswith(field + " ") and "\n" not in answer.message, answer.message


@pytest.mark.parametrize("key", ["topk", "Enabled", "", "top_k ", "a\nb\x00", '"', "é" * 100, "x" * 10_000])
def test_an_unknown_key_is_named(server: Server, key: str) -> None:
    answer = server.post("/completion", {"prompt": "x", "n_predict": 1, "neg": {key: 1}})
    assert answer.status == 400 and answer.message.isprintable() and len(answer.message) < 250, answer.text
    assert answer.message.startswith(f"neg has no field {json.dumps(key[:20], ensure_ascii=False)[:-1]}")


@pytest.mark.parametrize("api", APIS)
def test_every_api_refuses_bad_values(server: Server, api: str) -> None:
    path, body = APIS[api]
    for bad in ({"neg": {"top_k": 0}}, {"neg": {"topk": 3}}, {"neg": 5}, {"return_neg": "x"}):
        for stream in (False, True):
            answer = server.post(path, {**body, **bad, "stream": stream})
            assert answer.status == 400, answer.text
            assert answer.message.startswith(next(iter(bad))), answer.message


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "nan", "0x10", "1_0", "01"])
@pytest.mark.parametrize("field", ["threshold", "top_k", "enabled", "action", "use_temp_scale"])
def test_what_is_no_json_number_is_refused(server: Server, text: str, field: str) -> None:
    answer = server.post("/completion", f'{{"prompt": "x", "n_predict": 1, "neg": {{"{field}": {text}}}}}')
    assert answer.status == 400, answer.text


@pytest.mark.parametrize("api", APIS)
def test_a_model_without_a_head_reports_nothing_and_refuses_the_gate(without_head: Server, api: str) -> None:
    path, body = APIS[api]
    for wanted in ({"neg": True}, {"neg": {}}, {"neg": {"threshold": 1}}, {"return_neg": True}):
        answer = without_head.post(path, {**body, **wanted})
        assert answer.status == 400 and "this model has none" in answer.message, answer.text
    for taken in ({}, {"neg": False}, {"neg": None}, {"neg": {"enabled": False}}, {"return_neg": False}):
        assert '"neg"' not in without_head.post(path, {**body, **taken}).text
        assert all("neg" not in chunk for chunk in without_head.stream(path, {**body, **taken}))


def test_props_describe_the_head_and_the_start_options(
    server: Server, without_head: Server, start_server, server_models
) -> None:
    assert server.get("/props").json["neg"] == {
        "n_embd": 64,
        "reduced": 16,
        "threshold": 1.0,
        "top_k": 20,
        "temp_scale": pytest.approx(0.59836334),
        "temp_enabled": False,
        "source": ANY,
        "action": "mask",
    }
    assert without_head.get("/props").json["neg"] is None
    gate = ("--neg", "sample", "--neg-threshold", "0.25", "--neg-top-k", 3, "--temp-scale")
    other = start_server("-m", server_models.neg, "-c", 512, "-np", 1, *gate)
    neg = other.get("/props").json["neg"]
    assert (neg["action"], neg["threshold"], neg["top_k"], neg["temp_enabled"]) == ("sample", 0.25, 3, True)


def test_start_options_are_what_a_request_leaves_open(start_server, server_models) -> None:
    off = start_server(
        "-m", server_models.neg, "-c", 512, "-np", 1, "--neg", "off", "--neg-threshold", "0", "--grammar", TEXT
    )
    body = {"prompt": "hello", "n_predict": 20, "return_neg": True, **GREEDY}
    active = {
        str(neg): sum(off.ok("/completion", {**body, "neg": neg})["neg"]["active"])
        for neg in (None, False, {}, {"threshold": 0.1}, {"enabled": None}, True, {"enabled": True}, {"action": "mask"})
    }
    assert list(active.values()) == [0, 0, 0, 0, 0, 20, 20, 20]
    assert off.get("/props").json["neg"]["action"] == "off"


def test_metrics_count_tokens_gated_tokens_and_entropy(server: Server, without_head: Server) -> None:
    before = server.metrics()
    answers = [
        server.ok(
            "/completion", {"prompt": "hello", "n_predict": 30, "return_neg": True, "neg": {"threshold": t}, **GREEDY}
        )
        for t in (0, 0.7)
    ]
    after = server.metrics()
    names = ("tokens", "gated_tokens", "entropy_nats")
    grown = {name: after[f"neg_{name}_total"] - before[f"neg_{name}_total"] for name in names}
    assert grown == {
        "tokens": 60,
        "gated_tokens": sum(sum(answer["neg"]["active"]) for answer in answers),
        "entropy_nats": pytest.approx(sum(sum(answer["neg"]["entropy"]) for answer in answers), abs=1e-6),
    }
    assert not any(name.startswith("neg_") for name in without_head.metrics())


def test_what_is_no_number_is_null(start_server, server_models) -> None:
    endless = start_server("-m", server_models.endless, "-c", 1024, "-np", 2, "--metrics", "--grammar", TEXT)
    for api, (path, body) in APIS.items():
        answer = endless.ok(path, {**body, "return_neg": True})  # the tests' parser refuses NaN and Infinity
        neg = parts_with_arrays(api, answer)[0]["neg"]
        assert set(neg["entropy"]) == {None} and neg["mean_entropy"] is None and all(neg["active"])
        chunks = endless.stream(path, {**body, "timings_per_token": True})
        assert all(chunk["neg"] == {"entropy": None, "active": True} for chunk in chunks)
    timings = endless.ok("/completion", {"prompt": "x", "n_predict": 3})["timings"]
    assert timings["neg"] == {"n": 3, "n_active": 3, "entropy_sum": 0.0}
    assert endless.metrics()["neg_entropy_nats_total"] == 0


def test_side_car_gives_a_model_its_head(start_server, server: Server, server_models) -> None:
    other = start_server(
        "-m", server_models.base, "--neg-file", server_models.side_car, "-c", 512, "-np", 1, "--grammar", TEXT
    )
    body = {"prompt": "hello", "n_predict": 30, "return_tokens": True, "return_neg": True, **GREEDY}
    ours, theirs = other.ok("/completion", body), server.ok("/completion", body)
    assert ours["tokens"] == theirs["tokens"] and ours["neg"] == theirs["neg"]
    assert {**other.get("/props").json["neg"], "source": ""} == {**server.get("/props").json["neg"], "source": ""}


def test_start_options_that_do_not_fit_end_the_server_with_one_line(server_models, tmp_path) -> None:
    (tmp_path / "none.gguf").write_bytes(b"")
    wrong = [
        (
            ("-m", server_models.hybrid, "--neg-file", server_models.side_car),
            "side-car.gguf: neg.base_arch: the head is for",
        ),
        (("-m", server_models.base, "--neg-file", tmp_path / "absent.gguf"), "absent.gguf: cannot be read as GGUF"),
        (("-m", server_models.base, "--neg-file", tmp_path / "none.gguf"), "none.gguf: cannot be read as GGUF"),
        (("-m", server_models.base, "--neg-file", server_models.base), "base.gguf: the file has no neg.* keys"),
        (("-m", server_models.base, "--neg", "mask"), "base.gguf has no NEG head; give one with --neg-file"),
        (("-m", server_models.neg, "--neg", "both"), "--neg must be mask, sample or off, got 'both'"),
        (("-m", server_models.neg, "--neg-threshold", "x"), "--neg-threshold must be a number"),
        (("-m", server_models.neg, "--neg-threshold", "-1"), "--neg-threshold must be a number"),
        (("-m", server_models.neg, "--neg-threshold", "nan"), "--neg-threshold must be a number"),
        (("-m", server_models.neg, "--neg-top-k", "0"), "--neg-top-k must be 1 or more, got 0"),
    ]
    for options, message in wrong:
        ended = subprocess.run(command(*options, "--port", 1), capture_output=True, text=True, timeout=60, check=False)
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if message in line]
        assert (ended.returncode, len(said)) == (1, 1), (options, ended.stdout + ended.stderr)


def test_several_choices_have_their_own_records(server: Server) -> None:
    body = {"messages": MESSAGES, "max_tokens": 30, "n": 3, "return_neg": True, "logprobs": True, **SAMPLED}
    choices = server.ok("/v1/chat/completions", body)["choices"]
    assert len({choice["message"]["content"] for choice in choices}) == 3
    for choice in choices:
        check_arrays(choice["neg"], 30)
        assert "".join(choice["neg"]["tokens"]) == choice["message"]["content"]
        assert [e["neg"]["entropy"] for e in choice["logprobs"]["content"]] == choice["neg"]["entropy"]
    assert len({choice["neg"]["mean_entropy"] for choice in choices}) == 3
    chunks = server.stream("/v1/chat/completions", body)
    ends = [chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    for choice, end in zip(choices, sorted(ends, key=lambda end: int(end["index"])), strict=True):
        assert end["neg"]["entropy"] == pytest.approx(choice["neg"]["entropy"], abs=1e-4)


def test_a_stop_string_leaves_sums_and_arrays_equal(server: Server) -> None:
    body = {"prompt": "hello", "n_predict": 40, "return_neg": True, "return_tokens": True, **GREEDY}
    stop = server.ok("/completion", body)["content"][5:8]
    answer = server.ok("/completion", {**body, "stop": [stop]})
    assert answer["stop_type"] == "word" and stop not in answer["content"]
    assert answer["timings"]["neg"]["n"] == len(answer["neg"]["tokens"]) == len(answer["tokens"])
    assert "".join(answer["neg"]["tokens"]).startswith(answer["content"])


# what drafts, and which model; the last is a model of its own
DRAFTERS = {
    "mtp": ("hybrid", ("--spec-type", "draft-mtp", "--spec-draft-n-max", "3")),
    "ngram-simple": ("hybrid", ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "2")),
    "ngram-mod": (
        "hybrid",
        (
            "--spec-type",
            "ngram-mod",
            "--spec-ngram-mod-n-match",
            "2",
            "--spec-ngram-mod-n-min",
            "1",
            "--spec-ngram-mod-n-max",
            "4",
        ),
    ),
    "ngram-simple, attention only": (
        "neg",
        ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "1", "--spec-ngram-simple-size-m", "3"),
    ),
    "a draft model": ("neg", ("--spec-type", "draft-simple", "--spec-draft-n-max", "3", "--spec-draft-model")),
}


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafts_change_no_record(start_server: Callable[..., Server], server_models, name: str) -> None:
    model, draft = DRAFTERS[name]
    options = ("-m", getattr(server_models, model), "-c", 2048, "-np", 2)
    plain = start_server(*options)
    drafting = start_server(*options, *draft, *([server_models.base] if name == "a draft model" else []))
    drafted = accepted = 0
    requests = [("hello", {}), ("fox", {"neg": {"threshold": 0.3}}), ("abcabcabc", {"temperature": 0.8, "seed": 4})]
    for prompt, extra in requests:
        body = {"prompt": prompt, "n_predict": 80, "return_tokens": True, "return_neg": True, **GREEDY, **extra}
        ours, theirs = drafting.ok("/completion", body), plain.ok("/completion", body)
        drafted += ours["timings"].get("draft_n", 0)
        accepted += ours["timings"].get("draft_n_accepted", 0)
        assert ours["tokens"] == theirs["tokens"]
        np.testing.assert_allclose(ours["neg"]["entropy"], theirs["neg"]["entropy"], atol=1e-4)
        assert (ours["neg"]["active"], ours["neg"]["tokens"]) == (theirs["neg"]["active"], theirs["neg"]["tokens"])
        assert ours["timings"]["neg"]["n"] == 80 and ours["timings"]["neg"]["n_active"] == sum(ours["neg"]["active"])
        streamed = drafting.stream("/completion", body)
        np.testing.assert_allclose(streamed[-1]["neg"]["entropy"], theirs["neg"]["entropy"], atol=1e-4)
    assert drafted > accepted > 0  # right and wrong ones


def test_sampling_in_the_graph_changes_no_record(start_server, server_models) -> None:
    plain = start_server("-m", server_models.neg, "-c", 2048, "-np", 2)
    body = {"prompt": "hello", "n_predict": 40, "return_tokens": True, "return_neg": True, **GREEDY}
    host, graph = (plain.ok("/completion", {**body, "backend_sampling": wanted}) for wanted in (False, True))
    assert host["tokens"] == graph["tokens"]
    np.testing.assert_allclose(host["neg"]["entropy"], graph["neg"]["entropy"], atol=1e-4)
    assert host["neg"]["active"] == graph["neg"]["active"]


def test_a_server_that_slept_has_its_side_car_and_its_counts_again(start_server, server_models) -> None:
    options = ("-m", server_models.base, "--neg-file", server_models.side_car, "-c", 512, "-np", 1, "--metrics")
    server = start_server(*options, "--sleep-idle-seconds", 1)
    body = {"prompt": "hello", "n_predict": 20, "return_neg": True, **GREEDY}
    before, props = server.ok("/completion", body)["neg"], server.get("/props").json["neg"]
    end = time.monotonic() + 30
    while not server.get("/props").json["is_sleeping"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.get("/props").json["neg"] == props
    assert server.metrics()["neg_tokens_total"] == 20
    assert server.ok("/completion", body)["neg"]["entropy"] == pytest.approx(before["entropy"], abs=1e-4)
    assert server.metrics()["neg_tokens_total"] == 40
