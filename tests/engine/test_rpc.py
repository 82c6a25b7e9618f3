"""Parts of a model on other machines: the same answers as on this one, and errors when one of them is lost."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import http_server
import rpc
from command_line import refusal
from darwin_neg_cpp import DarwinNEG, DarwinNegError, RequestError
from rpc import At, Proxy, RpcServer, Slow

EXACT: Any = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off", "n_ctx": 256, "n_parallel": 2}
GREEDY: Any = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
PROMPT = "the quick brown fox jumps over the lazy dog"
ENDLESS: Any = {"temperature": 0.0, "max_tokens": None, "ignore_eos": True}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RpcServer]]:
    with RpcServer() as first, RpcServer() as second:
        yield [first, second]


@pytest.fixture(scope="module")
def addresses(servers: list[RpcServer]) -> list[str]:
    return [server.address for server in servers]


def answers(llm: DarwinNEG) -> tuple[list[int], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Greedy tokens of a prompt, their predicted entropies, and those of every token of a given text."""
    found = llm.generate(PROMPT, **GREEDY)
    assert found.neg is not None
    scores = llm.score(PROMPT).entropy
    assert scores is not None
    return found.token_ids.tolist(), found.neg.entropy, scores


# layers 0 and 1 and the output layer, from the last on, go to the servers; the split is by cumulated proportions
PLACES: dict[str, tuple[dict[str, Any], str]] = {
    "all": ({"tensor_split": [1, 1]}, "aab"),
    "all, most on the second": ({"tensor_split": [1, 3]}, "abb"),
    "all on the second": ({"tensor_split": [0, 1]}, "bbb"),
    "one layer here": ({"n_gpu_layers": 2}, "-ab"),
    "the output alone": ({"n_gpu_layers": 1, "tensor_split": [1, 0]}, "--a"),
    "none": ({"n_gpu_layers": 0}, "---"),
}


@pytest.mark.parametrize("place", PLACES)
def test_tokens_and_entropies_are_those_of_this_machine(
    addresses: list[str], server_models: http_server.Models, place: str
) -> None:
    options, expected = PLACES[place]
    with DarwinNEG(server_models.neg, **EXACT) as llm:
        local = answers(llm)
        assert set(llm.info["devices"]["layers"]) == {"CPU"}
    with DarwinNEG(server_models.neg, rpc_servers=addresses, **options, **EXACT) as llm:
        remote = answers(llm)
        devices = llm.info["devices"]
    assert remote[0] == local[0] and len(set(local[0])) > 5
    np.testing.assert_allclose(remote[1], local[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(remote[2], local[2], rtol=0, atol=1e-6)
    assert local[1].std() > 0.01
    names = [*devices["layers"], devices["output"]]
    letters = dict(
        zip(sorted({name for name in names if name != "CPU"}), "ab" if "a" in expected else "b", strict=False)
    )
    assert "".join(letters.get(name, "-") for name in names) == expected
    assert devices["neg"] == devices["output"], "the head lies beside the last layers"


def test_a_recurrent_state_and_a_side_car_on_another_machine(
    addresses: list[str], server_models: http_server.Models
) -> None:
    with DarwinNEG(server_models.hybrid, **EXACT) as llm:
        local = answers(llm)
    with DarwinNEG(server_models.hybrid, rpc_servers=addresses, **EXACT) as llm:
        remote = answers(llm)
    assert remote[0] == local[0]
    np.testing.assert_allclose(remote[1], local[1], rtol=0, atol=1e-6)
    with DarwinNEG(server_models.neg, **EXACT) as llm:
        local = answers(llm)
    with DarwinNEG(server_models.base, server_models.side_car, rpc_servers=addresses[:1], **EXACT) as llm:
        remote = answers(llm)
        devices = llm.info["devices"]
    assert remote[0] == local[0] and devices["neg"] == devices["output"] != "CPU"
    np.testing.assert_allclose(remote[1], local[1], rtol=0, atol=1e-6)


def test_samples_side_by_side_and_a_second_model_on_the_same_server(
    addresses: list[str], server_models: http_server.Models
) -> None:
    settings: Any = {"n": 4, "seed": 3, "max_tokens": 8, "temperature": 1.0, "ignore_eos": True}
    with DarwinNEG(server_models.neg, **EXACT) as llm:
        local = [g.token_ids.tolist() for g in llm.generate([PROMPT], **settings)[0]]
    with (
        DarwinNEG(server_models.neg, rpc_servers=addresses, **EXACT) as llm,
        DarwinNEG(server_models.neg, rpc_servers=addresses[1:], **EXACT) as other,
    ):
        assert [g.token_ids.tolist() for g in llm.generate([PROMPT], **settings)[0]] == local
        assert answers(other)[0] == answers(llm)[0]


def test_a_slow_server_gives_the_same_answers_later(addresses: list[str], server_models: http_server.Models) -> None:
    slow = Slow(0.02)
    with Proxy(addresses[1], slow) as proxy:
        with DarwinNEG(server_models.neg, rpc_servers=[addresses[0], proxy.address], **EXACT) as llm:
            quick = llm.generate(PROMPT, **GREEDY).token_ids.tolist()
            slow.armed = True
            start = time.monotonic()
            late = llm.generate(PROMPT, **GREEDY).token_ids.tolist()
            assert time.monotonic() - start > 2 * GREEDY["max_tokens"] * slow.seconds, (
                "several messages for every token"
            )
        slow.armed = False
    assert late == quick


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("what", ["cut", "half"])
def test_a_server_lost_in_the_middle_ends_the_requests_with_an_error(
    addresses: list[str], server_models: http_server.Models, what: str, n: int
) -> None:
    watch = At(what, rpc.COMPUTES if what == "cut" else ("GET_TENSOR",), n)
    with Proxy(addresses[1], watch) as proxy:
        gone = rf"^the RPC server {proxy.address} is gone \(the connection was closed\); load the model again"
        with DarwinNEG(server_models.neg, rpc_servers=[addresses[0], proxy.address], **EXACT) as llm:
            whole = llm.generate(PROMPT, **GREEDY).token_ids.tolist()
            watch.armed = True
            tokens = []
            with pytest.raises(DarwinNegError, match=gone):
                for step in llm.stream(PROMPT, **GREEDY):
                    tokens += step.token_ids.tolist()
            assert tokens == whole[: len(tokens)] and len(tokens) < len(whole), "nothing that was not computed"
            start = time.monotonic()
            for _ in range(2):  # later ones: at once, in the same words
                with pytest.raises(DarwinNegError, match=gone):
                    llm.generate("another text", **GREEDY)
            with pytest.raises(DarwinNegError, match=gone):
                llm.score(PROMPT)
            with pytest.raises(DarwinNegError, match=gone):
                llm.save_prefix(Path(os.devnull).parent / "nothing", PROMPT)
            assert time.monotonic() - start < 5
        # the model that is loaded again, in the same process, connects anew
        with DarwinNEG(server_models.neg, rpc_servers=[addresses[0], proxy.address], **EXACT) as llm:
            assert llm.generate(PROMPT, **GREEDY).token_ids.tolist() == whole


@pytest.mark.parametrize("options", [{"mtp": 2}, {"draft": "ngram"}], ids=["mtp", "ngram"])
def test_a_server_lost_while_drafts_are_made(
    addresses: list[str], server_models: http_server.Models, options: Any
) -> None:
    prompt = "abcabcabcabc"
    with DarwinNEG(server_models.hybrid, **EXACT, **options) as llm:
        whole = llm.generate(prompt, **GREEDY).token_ids.tolist()
    for n in (2, 3, 4, 5, 9):
        watch = At("cut", ("GRAPH_COMPUTE", "GRAPH_RECOMPUTE", "GET_TENSOR"), n)
        with (
            Proxy(addresses[1], watch) as proxy,
            DarwinNEG(server_models.hybrid, rpc_servers=[proxy.address], **EXACT, **options) as llm,
        ):
            assert llm.generate(prompt, **GREEDY).token_ids.tolist() == whole
            watch.armed = True
            tokens = []
            with pytest.raises(DarwinNegError, match="is gone"):
                for step in llm.stream(prompt, **GREEDY):
                    tokens += step.token_ids.tolist()
            assert tokens == whole[: len(tokens)]


def test_every_request_that_runs_hears_of_a_server_that_is_killed(
    addresses: list[str], server_models: http_server.Models
) -> None:
    with (
        RpcServer() as victim,
        DarwinNEG(server_models.neg, rpc_servers=[addresses[0], victim.address], **EXACT) as llm,
    ):
        streams = [llm.stream(f"{PROMPT} {i}", **ENDLESS) for i in range(4)]  # two of them wait
        for _ in range(3):
            next(streams[0])
        victim.kill()
        for stream in streams:
            with pytest.raises(DarwinNegError, match=f"the RPC server {victim.address} is gone"):
                for _ in stream:
                    pass
        with pytest.raises(DarwinNegError, match="is gone"):
            llm.generate(PROMPT, **GREEDY)


def test_a_server_that_falls_silent_is_given_up_and_does_not_keep_a_model_open(
    addresses: list[str], server_models: http_server.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GGML_RPC_TIMEOUT", "1")
    watch = At("silent", ("GET_TENSOR",), 3)
    with (
        Proxy(addresses[0], watch) as proxy,
        DarwinNEG(server_models.neg, rpc_servers=[proxy.address], **EXACT) as llm,
    ):
        watch.armed = True
        with pytest.raises(DarwinNegError, match=r"is gone \(no answer for 1 s\)"):
            llm.generate(PROMPT, **GREEDY)
    monkeypatch.setenv("GGML_RPC_TIMEOUT", "100")
    watch = At("silent", ("GET_TENSOR",), 3)
    with Proxy(addresses[0], watch) as proxy:
        llm = DarwinNEG(server_models.neg, rpc_servers=[proxy.address], **EXACT)
        watch.armed = True
        stream = llm.stream(PROMPT, **ENDLESS)
        time.sleep(0.3)
        start = time.monotonic()
        llm.close()
        assert time.monotonic() - start < 20
        stream.close()


def test_a_server_lost_while_a_model_is_loaded(addresses: list[str], server_models: http_server.Models) -> None:
    for command, n in (
        ("SET_TENSOR", 1),
        ("SET_TENSOR", 7),
        ("ALLOC_BUFFER", 1),
        ("ALLOC_BUFFER", 2),
        ("GET_MAX_SIZE", 1),
    ):
        with Proxy(addresses[1], At("cut", (command,), n, armed=True)) as proxy:
            with pytest.raises(DarwinNegError, match=f"the RPC server {proxy.address} is gone") as raised:
                DarwinNEG(server_models.neg, rpc_servers=[proxy.address], **EXACT)
            assert "\n" not in str(raised.value)


def test_a_server_that_cannot_be_reached_is_named_at_once(
    addresses: list[str], server_models: http_server.Models, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = f"127.0.0.1:{http_server.free_port()}"
    start = time.monotonic()
    with pytest.raises(DarwinNegError, match=rf"^no RPC server answers at {closed} \(Connection refused\)"):
        DarwinNEG(server_models.neg, rpc_servers=[addresses[0], closed], **EXACT)
    with pytest.raises(DarwinNegError, match=r"nobody\.invalid:50052 \(the name of the host is not known\)"):
        DarwinNEG(server_models.neg, rpc_servers=["nobody.invalid:50052"], **EXACT)
    assert time.monotonic() - start < 5
    said = refusal(capsys, "generate", "-m", str(server_models.neg), "--rpc", closed, "hello", code=1)
    assert f"no RPC server answers at {closed} (Connection refused); correct --rpc" in said


def test_what_is_not_an_rpc_server_and_one_that_serves_somebody_else(
    addresses: list[str], server_models: http_server.Models
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            client.recv(100)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            time.sleep(0.5)
            client.close()

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(DarwinNegError, match=f"{address} .what it says is not this version's protocol"):
            DarwinNEG(server_models.neg, rpc_servers=[address], **EXACT)
    host, _, port = addresses[0].rpartition(":")
    with socket.create_connection((host, int(port))):  # it waits for what this client says
        start = time.monotonic()
        with pytest.raises(DarwinNegError, match=r"\(no answer for 5 s\).*serves one program at a time"):
            DarwinNEG(server_models.neg, rpc_servers=addresses, **EXACT)
        assert 4 < time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("here", "rpc_servers must be HOST:PORT with a name or an IPv4 address, as in 192.168.1.20:50052, got 'here'"),
        (["a:1", "b"], "must be HOST:PORT"),
        ([":50052"], "must be HOST:PORT"),
        (["a:0"], "must be HOST:PORT"),
        (["a:65536"], "must be HOST:PORT"),
        (["a: 1"], "must be HOST:PORT"),
        (["a:1_0"], "must be HOST:PORT"),
        (["http://a:1"], "must be HOST:PORT"),
        (["[::1]:50052"], "must be HOST:PORT"),
        (["a:1,b:2"], "must be HOST:PORT"),
        (["a:1", "a:1"], "rpc_servers must be given once each, and a:1 is there twice"),
        ([f"a:{port}" for port in range(1, 18)], "rpc_servers must be at most 16, got 17"),
        (3, "rpc_servers must be a string or a list of strings, got 3"),
        ([3], "rpc_servers must be text"),
    ],
)
def test_a_bad_address_is_refused_before_anything_is_opened(
    server_models: http_server.Models, value: Any, message: str
) -> None:
    with pytest.raises(RequestError) as raised:
        DarwinNEG(server_models.neg, rpc_servers=value)
    assert message in str(raised.value)


def test_options_that_do_not_fit(addresses: list[str], server_models: http_server.Models) -> None:
    with pytest.raises(RequestError, match="tensor_split has 3 numbers for 2 devices"):
        DarwinNEG(server_models.neg, rpc_servers=addresses, tensor_split=[1, 1, 1], **EXACT)
    with pytest.raises(RequestError, match="split_mode is 'tensor', which rpc_servers does not go with"):
        DarwinNEG(server_models.neg, rpc_servers=addresses, split_mode="tensor", **EXACT)
    with pytest.raises(RequestError, match="main_gpu must be between 0 and 1"):
        DarwinNEG(server_models.neg, rpc_servers=addresses, split_mode="none", main_gpu=2, **EXACT)
