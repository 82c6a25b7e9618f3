"""What runs on a node, without Ray: the engine's results, and cancelled work with what there is of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cluster import capture
from darwin_neg_cpp.cluster.evaluation import Look, Measuring, Sampling
from darwin_neg_cpp.cluster.worker import Loading, Worker, with_paths
from darwin_neg_cpp.files.input_file import sha256_file
from darwin_neg_cpp.protocols import ModeConfig
from darwin_neg_cpp.protocols.sampler import EngineSampler, Job
from tiny_gguf import write_adapter

OPTIONS: Any = {"n_ctx": 512, "n_parallel": 2, "n_threads": 1, "prefix_cache": 0}


def job(tokens: int, *temperatures: float, only: int | None = None) -> Job:
    return Job("A question", temperatures, 7, False, ModeConfig(max_tokens=tokens), only=only)


def on_node(model: Path, look: Any, script: Callable[[Worker], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        worker = Worker()
        loaded = await worker.load(Loading(str(model), None, {**OPTIONS, **options}, look))
        return loaded, await script(worker)

    return asyncio.run(run())


def test_samples_are_those_of_the_whole_job_in_one_process(tiny_llama: Path) -> None:
    temperatures = (0.0, 0.8, 0.8)

    async def script(worker: Worker) -> Any:
        works = [Sampling(job(12, temperature, only=k), False) for k, temperature in enumerate(temperatures)]
        return await asyncio.gather(*(worker.run(k, work) for k, work in enumerate(works)))

    _, outputs = on_node(tiny_llama, Look(), script, n_parallel=1)
    with DarwinNEG(tiny_llama, **{**OPTIONS, "n_parallel": 1}) as llm:
        sampler = EngineSampler(llm.session)
        sampler.start([job(12, *temperatures)])
        expected = {}
        while ended := sampler.wait():
            expected |= {index: output for _, index, output in ended}
    assert outputs == [expected[k] for k in range(3)]
    assert len({output.token_ids for output in outputs}) == 3


def test_cancelled_work_returns_what_it_has(tiny_llama: Path) -> None:
    async def script(worker: Worker) -> Any:
        running = asyncio.ensure_future(worker.run(1, Sampling(job(490, 0.0, only=0), False)))
        at_once = asyncio.ensure_future(worker.run(2, Sampling(job(490, 0.0, only=0), False)))
        await asyncio.sleep(0)
        await worker.cancel(2)  # before it has begun
        await asyncio.sleep(0.02)
        await worker.cancel(1)
        await worker.cancel(3)  # unknown
        return await running, await at_once

    _, (output, nothing) = on_node(tiny_llama, Look(), script)
    assert nothing is None or nothing.finish_reason == "cancelled"
    assert output.finish_reason == "cancelled" and output.tokens < 490 and len(output.token_ids) == output.tokens


def test_a_node_says_what_an_evaluation_here_would_record(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", {})

    async def script(worker: Worker) -> Any:
        return await worker.run(1, Measuring((job(4, 0.0), job(4, 0.0))))

    loaded, counts = on_node(tiny_llama, Look(), script, lora=[str(adapter), (str(adapter), 0.5)])
    with DarwinNEG(tiny_llama, **OPTIONS) as llm:
        local = Look()(llm, None)
        tokens = EngineSampler(llm.session).prompt_tokens(job(4, 0.0))
    assert counts == [len(tokens)] * 2 and loaded.facts.overhead >= 1
    assert {key: loaded.described[key] for key in local.described} == local.described
    assert loaded.described["lora"] == [[sha256_file(adapter), 1.0], [sha256_file(adapter), 0.5]]
    assert with_paths({"lora": ["a", ("b", 0.5)]}, "/x/".__add__) == {"lora": [("/x/a", 1.0), ("/x/b", 0.5)]}
    assert with_paths({"n_ctx": 1}, "/x/".__add__) == {"n_ctx": 1}


@pytest.mark.parametrize("count", [1, 3])
def test_a_group_is_scored_as_here(tiny_llama: Path, count: int) -> None:
    texts = tuple(tuple(range(k + 5, k + 40)) for k in range(count))

    async def script(worker: Worker) -> Any:
        return await worker.run(1, capture.Scoring(texts))

    _, (hidden, entropy) = on_node(tiny_llama, capture.look, script)
    with DarwinNEG(tiny_llama, **OPTIONS) as llm:
        scores = list(llm.session.score(texts, hidden=True, top=0))
    assert hidden.tobytes() == np.concatenate([one.hidden for one in scores]).tobytes()
    assert entropy.tobytes() == np.concatenate([one.entropy for one in scores]).tobytes()
