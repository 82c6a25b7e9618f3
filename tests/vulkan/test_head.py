"""The head on a Vulkan device against float64 on the same hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import http_server
from conftest import SmolLM2
from darwin_neg_cpp import DarwinNEG
from oracles import neg_reference
from vulkan_models import SMALL, released_head

F32 = 1e-5  # nats; factors in F16 give 1e-3
TEXT = "The lighthouse keeper climbed the stairs every evening, lit the lamp and wrote down the ships that passed. "


def error(llm: DarwinNEG, head: Path) -> float:
    """The largest difference from float64, in nats, over the tokens of a text."""
    out = llm.session.engine.score([llm.tokenize(TEXT)], hidden=True)
    expected = neg_reference.head_entropy(released_head(head), out["hidden"])
    assert np.ptp(expected) > 0.5
    return float(np.abs(out["predicted_entropy"] - expected).max())


# products of several rows are in F16 from 9 rows on; from 32 on a device computes with weights of the CPU too
@pytest.mark.parametrize("n_gpu_layers", [0, -1])
@pytest.mark.parametrize("rows", [1, 4, 8, 9, 16, 64])
def test_the_head_is_f32_for_any_number_of_rows(
    load: Callable[..., DarwinNEG], models: dict[str, Path], name: str, rows: int, n_gpu_layers: int
) -> None:
    llm = load(name, n_parallel=1, n_batch=rows, n_ubatch=rows, n_gpu_layers=n_gpu_layers)
    assert error(llm, models[name]) < F32


def test_a_side_car_is_f32_too(device: str, server_models: http_server.Models) -> None:
    with DarwinNEG(server_models.base, server_models.side_car, **SMALL, devices=[device]) as llm:
        assert error(llm, server_models.side_car) < F32


def test_a_head_of_real_size_is_f32(device: str, smollm2: SmolLM2) -> None:
    with DarwinNEG(smollm2.model, **SMALL, devices=[device]) as llm:
        assert error(llm, smollm2.model) < F32
