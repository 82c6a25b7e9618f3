"""Names of protocols, as ledgers and reports write them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.protocols import ModeConfig, Protocol, control, plan

ALL = [*(Protocol("mode", k) for k in range(4)), *(Protocol("self-consistency", k) for k in (1, 4, 20, 100, 1000))]


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: protocol.name)
def test_a_name_is_read_back(protocol: Protocol) -> None:
    assert Protocol.parse(protocol.name) == protocol
    assert Protocol.parse(protocol.name).name == protocol.name


def test_names_are_those_of_ledgers_already_written() -> None:
    assert plan(3, ModeConfig()).name == "mode 3" and control(20, ModeConfig()).name == "self-consistency 20"


@pytest.mark.parametrize(
    "name",
    [
        *("", "mode", "mode 4", "mode -1", "mode 1.0", "mode 01", "Mode 1", "mode 1 ", " mode 1", "mode 1\n", "mode ²"),
        *("self-consistency 0", "self-consistency 1001", "self-consistency 04", "self-consistency", "mine"),
        *(7, None, ["mode 1"]),
    ],
)
def test_what_is_not_a_name_is_refused_in_one_line(name: Any) -> None:
    with pytest.raises(RequestError) as error:
        Protocol.parse(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "number"), [("mode", 1.0), ("mode", True), ("mode", "1"), ("self-consistency", 2.0), ("vote", 1)]
)
def test_what_is_no_protocol_is_refused(kind: Any, number: Any) -> None:
    with pytest.raises(RequestError):
        Protocol(kind, number)


def test_modes_sort_before_controls_and_each_by_number() -> None:
    mixed = random.Random(3).sample(ALL, len(ALL))
    assert sorted(mixed) == ALL


def test_those_vote_that_have_several_candidates() -> None:
    for protocol in ALL:
        number = protocol.number
        the_plan = plan(number, ModeConfig()) if protocol.is_mode else control(number, ModeConfig())
        assert the_plan.protocol == protocol
        assert protocol.votes == (the_plan.candidates > 1 or not protocol.is_mode)
