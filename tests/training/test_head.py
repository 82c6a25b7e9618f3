"""Training of a head on known functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNegError
from darwin_neg_cpp.neg import formats as neg_format
from darwin_neg_cpp.trace.agreement import measure_agreement
from darwin_neg_cpp.training.head import Recipe, predict, train
from oracles import neg_reference


def known(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states of very unequal dimensions, and a smooth positive function of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 24)).astype(np.float32)
    y = np.log1p(np.exp(x[:, 0] + np.sin(2 * x[:, 1]) + 0.5 * x[:, 2] * x[:, 3]))
    scale = np.geomspace(0.01, 300, 24)
    return (x * scale + 5 * scale).astype(np.float32), y.astype(np.float32)


def test_a_known_function_is_learnt_and_the_same_seed_gives_the_same_head() -> None:
    data, validation, test = known(20_000, 1), known(2000, 2), known(4000, 3)
    recipe = Recipe(reduced=64, epochs=25, batch=128, learning_rate=3e-3, dropout=0.0)
    heads = [train(*data, validation, recipe).head for _ in range(2)]
    assert measure_agreement(predict(heads[0], test[0]), test[1], 1.0).r2 > 0.95
    for name, values in heads[0].tensors().items():
        assert np.array_equal(values, heads[1].tensors()[name]), name
    other = train(*data, validation, Recipe(reduced=64, epochs=1, seed=1)).head
    assert not np.array_equal(other.down_w, heads[0].down_w)
    # the same in float64 by the definition, so that folding the standardization in has lost nothing
    tensors = {released: heads[0].tensors()[name] for released, name in neg_format.RELEASED.items()}
    tensors["head.proj_out.weight"] = tensors["head.proj_out.weight"].reshape(1, -1)
    np.testing.assert_allclose(predict(heads[0], test[0]), neg_reference.head_entropy(tensors, test[0]), atol=1e-3)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    data, validation = known(4000, 1), known(500, 2)
    recipe = Recipe(reduced=16, epochs=6)
    whole = train(*data, validation, recipe)

    class Killed(Exception):
        pass

    def kill(epoch: int, _error: float, _better: bool) -> None:
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        train(*data, validation, recipe, state=tmp_path / "state", on_epoch=kill)
    seen: list[int] = []
    resumed = train(*data, validation, recipe, state=tmp_path / "state", on_epoch=lambda epoch, *_: seen.append(epoch))
    assert seen == [3, 4, 5]
    assert all(np.array_equal(values, resumed.head.tensors()[name]) for name, values in whole.head.tensors().items())
    assert len(whole.validation_errors) == 6
    assert (whole.validation_errors, whole.best_epoch) == (resumed.validation_errors, resumed.best_epoch)


def test_ctrl_c_keeps_the_best_so_far() -> None:
    data, validation = known(4000, 1), known(500, 2)
    errors: list[float] = []

    def interrupt(epoch: int, error: float, _better: bool) -> None:
        errors.append(error)
        if epoch == 2:
            raise KeyboardInterrupt

    found = train(*data, validation, Recipe(reduced=16, epochs=50), on_epoch=interrupt)
    error = float(((predict(found.head, validation[0]) - validation[1]) ** 2).mean())
    assert error == pytest.approx(min(errors), rel=1e-3)
    assert found.interrupted and list(found.validation_errors) == errors and errors[found.best_epoch] == min(errors)


def test_a_training_without_finite_numbers_is_refused() -> None:
    data, validation = known(500, 1), known(100, 2)
    with pytest.raises(DarwinNegError, match="learning_rate"):
        train(data[0], np.full_like(data[1], np.nan), validation, Recipe(reduced=4, epochs=2))
