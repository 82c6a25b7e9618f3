"""Requests as the compiled engine knows them: names, defaults, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, DarwinNegError, SamplingParams, _core
from darwin_neg_cpp.engine.requests import request_params


def float32(value: Any) -> Any:
    return np.float32(value) if isinstance(value, float) else value


def test_every_parameter_has_the_name_and_the_default_of_the_engine() -> None:
    theirs, ours = (params.as_dict() for params in (_core.RequestParams(), request_params(SamplingParams(), "request")))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, list):
            assert list(map(float32, ours[name])) == list(map(float32, value)), name
        else:
            assert float32(ours[name]) == float32(value), name
    fields = {field.name for field in dataclasses.fields(SamplingParams)} - {"neg"}
    assert fields | {"notify"} == {name for name in theirs if not name.startswith("neg_")}


@pytest.mark.parametrize("make", [_core.RequestParams, lambda **values: _core.ModelParams("x", **values)])
def test_a_name_that_the_engine_does_not_know_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="temprature"):
        make(temprature=0.5)


@pytest.mark.parametrize("notify", ["token", "sample", "request"])
def test_an_inbox_hears_of_what_it_asked_for(tiny_llama: Path, notify: Any) -> None:
    params = SamplingParams(n=3, max_tokens=300, temperature=1.0, seed=1, ignore_eos=True)
    with DarwinNEG(tiny_llama, n_ctx=1024, n_parallel=2) as llm:
        inbox = llm.session.open_inbox()
        requests = llm.session.submit([[1, 2, 3]], params, inbox, notify)
        updates = []
        while not updates or not updates[-1]["finished"]:
            update = inbox.wait()
            assert update is not None and update["request"] == requests.ids[0]
            updates.append(update)
        samples = [sample for update in updates for sample in update["samples"] if len(sample["token_ids"])]
        sizes = [len(sample["token_ids"]) for sample in samples]
        tokens = [[t for s in samples if s["index"] == k for t in s["token_ids"].tolist()] for k in range(3)]
        assert tokens == [sample.token_ids.tolist() for sample in llm.generate([1, 2, 3], params, n=3)]
        if notify == "token":
            assert len(updates) > 5 and min(sizes) < 300  # as they come
        else:
            assert sizes == [300, 300, 300]  # each whole
        if notify == "request":
            assert len(updates) == 1
        assert inbox.wait(0) is None


def test_a_dropped_request_is_released_and_a_closed_inbox_wakes_its_reader(tiny_llama: Path) -> None:
    params = SamplingParams(max_tokens=200, ignore_eos=True)
    with DarwinNEG(tiny_llama, n_ctx=256, n_parallel=2) as llm:
        inbox = llm.session.open_inbox()
        requests = llm.session.submit([[1], [2]], params, inbox, "request")
        requests.cancel(requests.ids[0])
        update = inbox.wait()
        assert update is not None and update["request"] == requests.ids[0]
        assert update["samples"][0]["finish_reason"] == "cancelled"
        del requests
        assert inbox.wait(0.5) is None, "nothing more is heard of a dropped request"
        inbox.close()
        inbox.close()
        assert inbox.wait() is None
        assert llm.stats()["n_running"] == 0
        llm.close()
        with pytest.raises(DarwinNegError, match="closed"):
            llm.session.open_inbox()
