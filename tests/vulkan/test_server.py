"""The HTTP server on a Vulkan device. Sampling in the graph is reached through it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import http_server

PROMPTS = ["hello", "fox", "abcabc", "the end"]
BODY = {"n_predict": 24, "return_tokens": True, "return_neg": True, "ignore_eos": True, "cache_prompt": False}
GREEDY = {**BODY, "temperature": 0.0}


@pytest.fixture(scope="module")
def server(
    start_server: Callable[..., http_server.Server], server_models: http_server.Models, device: str
) -> http_server.Server:
    return start_server("-m", server_models.hybrid, "-c", 2048, "-np", len(PROMPTS), "-dev", device, "-ngl", 99)


def answers(server: http_server.Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    """To all prompts at once: the second row of logits and later ones begin at no multiple of what a device asks for."""
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: server.ok("/completion", {**body, "prompt": prompt}), PROMPTS))


def test_the_gate_in_the_graph_has_the_hosts_tokens_and_records(server: http_server.Server) -> None:
    host, graph = (answers(server, {**GREEDY, "backend_sampling": wanted}) for wanted in (False, True))
    for a, b in zip(host, graph, strict=True):
        assert a["tokens"] == b["tokens"]
        np.testing.assert_allclose(a["neg"]["entropy"], b["neg"]["entropy"], atol=1e-2)
    assert any(answer["timings"]["neg"]["n_active"] for answer in graph)


def test_the_gate_in_the_graph_leaves_one_token_of_a_hot_sample(server: http_server.Server) -> None:
    hot = {**BODY, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1, "backend_sampling": True}
    expected = answers(server, GREEDY)
    gated = answers(server, {**hot, "neg": {"threshold": 0.0, "top_k": 1}})
    assert [answer["tokens"] for answer in gated] == [answer["tokens"] for answer in expected]
    free = answers(server, {**hot, "neg": {"enabled": False}})
    assert all(a["tokens"] != b["tokens"] for a, b in zip(free, expected, strict=True))
