"""Tests on a device of Vulkan. `make vulkan` builds the plug-in and runs them on Mesa's llvmpipe, which computes on the
CPU: they show what is computed, not how fast. Without the plug-in there is nothing to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import http_server
from darwin_neg_cpp import DarwinNEG
from vulkan_models import SMALL

collect_ignore_glob = [] if find_spec("darwin_neg_cpp_vulkan") else ["test_*.py"]


@pytest.fixture(scope="session")
def device() -> str:
    """The name of the Vulkan device."""
    from darwin_neg_cpp import _core

    names = [found["name"] for found in _core.devices() if found["type"] in ("gpu", "igpu")]
    assert names, "Vulkan finds no device; `make vulkan` shows it Mesa's, with GGML_VK_VISIBLE_DEVICES=0"
    return str(names[0])


@pytest.fixture(scope="session")
def models(server_models: http_server.Models) -> dict[str, Path]:
    """Tiny models with a head. attention: nothing else. hybrid: with a recurrent layer and a block that drafts. Their
    rows of 258 logits begin where no device can address them, unless something is done about it."""
    return {"attention": server_models.neg, "hybrid": server_models.hybrid}


@pytest.fixture(scope="module")
def load(device: str, models: dict[str, Path]) -> Iterator[Callable[..., DarwinNEG]]:
    """load(name, **options) -> one of the models on the device, loaded once for each set of options."""
    loaded: dict[str, DarwinNEG] = {}

    def get(name: str, **options: Any) -> DarwinNEG:
        key = f"{name} {sorted(options.items())}"
        if key not in loaded:
            loaded[key] = DarwinNEG(models[name], **{**SMALL, "devices": [device], **options})
        return loaded[key]

    yield get
    for llm in loaded.values():
        llm.close()


@pytest.fixture(params=["attention", "hybrid"], scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """The name of a model."""
    return str(request.param)
