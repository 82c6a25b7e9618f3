"""The modes as plans, and every number of them."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.cli.main import build_parser
from darwin_neg_cpp.protocols import ModeConfig, Plan, Protocol, control, plan
from darwin_neg_cpp.protocols.modes import ModeOptions, merge


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"orderings": 0}, "orderings must be between 1 and 26"),
        ({"orderings": 27}, "orderings must be"),
        ({"orderings": True}, "orderings must be"),
        ({"samples": -1}, "samples must be"),
        ({"samples": 1.5}, "samples must be"),
        ({"temperature": 0}, "temperature must be a number above 0 (the greedy candidates come anyway), got 0"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": float("inf")}, "temperature must be"),
        ({"temperature": "hot"}, "temperature must be"),
        ({"temperature": True}, "temperature must be"),
        ({"temperature": 10**400}, "temperature must be a finite number"),
        ({"temperature": 1e300}, "temperature must be a number that float32 can hold"),
        ({"top_p": 10**400}, "top_p must be a finite number"),
        ({"second_opinion_temperature": 0.0}, "second_opinion_temperature must be a number above 0"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1"),
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
        ({"prompt": "other"}, "prompt must be 'simple-evals' or 'direct'"),
        ({"prompt": []}, "prompt must be 'simple-evals' or 'direct'"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as error:
        ModeConfig(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", [-1, 4, 1.5, 1.0, True, "2", None, np.float64(1)])
def test_a_mode_that_is_none_is_refused(mode: Any) -> None:
    with pytest.raises(RequestError, match="mode must be 0, 1, 2 or 3"):
        plan(mode, ModeConfig())


def test_a_plan_without_candidates_is_refused() -> None:
    with pytest.raises(RequestError, match="has no candidates"):
        Plan(Protocol("mode", 2), False, 1, ())
    for samples in (0, 1001, True):
        with pytest.raises(RequestError, match="samples must be"):
            control(samples, ModeConfig())


def test_whole_numbers_of_numpy_are_taken_and_become_pythons() -> None:
    config = ModeConfig(
        orderings=np.int64(2),
        samples=np.int32(1),
        temperature=np.float32(0.5),
        top_p=1,
        seed=np.uint8(9),
        thinking=np.False_,
        gate=np.True_,
    )
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(config)
    assert config == ModeConfig(orderings=2, samples=1, temperature=0.5, top_p=1.0, seed=9)
    assert plan(np.int64(3), config) == plan(3, config)
    assert json.dumps(plan(np.int64(3), config).protocol.number) == "3"
    assert control(np.int64(5), config) == control(5, config)


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
