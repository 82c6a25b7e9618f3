"""Both forms of the gate against the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darwin_neg_cpp import RequestError, _core
from oracles import neg_reference

ROWS, EXAMPLES = 64, 200  # 12,800 rows an example set

FORMS = {"host": _core.gate_apply, "graph": _core.gate_apply_graph}


def make_rows(seed: int, n: int, levels: int, blocked: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits with many ties (few levels), -inf as a grammar leaves them, and entropies around 1 with NaN among them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, n)) * 3
    if levels:
        logits = np.round(logits * levels) / levels
    logits = (logits + 0.0).astype(np.float32)  # no negative zeros: a sum turns them positive in the graph
    logits[rng.random((ROWS, n)) < blocked] = -np.inf
    entropy = rng.uniform(0, 2, ROWS).astype(np.float32)
    entropy[rng.random(ROWS) < 0.05] = np.nan
    return logits, entropy


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 19, 20, 21, 64, 257]),
    levels=st.sampled_from([0, 1, 4]),
    blocked=st.sampled_from([0.0, 0.5, 0.97]),
    threshold=st.sampled_from([0.0, 0.5, 1.0, float("inf")]),
    top_k=st.sampled_from([1, 2, 20, 300]),
    temp_scale=st.sampled_from([1.0, 0.5983633399009705]),
)
def test_gate_equals_numpy_reference(form, seed, n, levels, blocked, threshold, top_k, temp_scale):
    logits, entropy = make_rows(seed, n, levels, blocked)
    got = FORMS[form](logits, entropy, threshold, top_k, temp_scale)
    expected = neg_reference.gate(logits, entropy, threshold, top_k, temp_scale)
    assert not np.isnan(got).any()
    np.testing.assert_array_equal(got, expected)
    inactive = ~(entropy > threshold)
    assert got[inactive].tobytes() == logits[inactive].tobytes()


def test_active_rows_keep_exactly_k_and_the_lowest_ids_of_equals():
    logits = np.zeros((1, 100), np.float32)
    for form in FORMS.values():
        kept = np.flatnonzero(np.isfinite(form(logits, np.ones(1, np.float32), 0.5, 7, 1.0)[0]))
        assert kept.tolist() == list(range(7))


def test_large_vocabulary_rows_agree():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4, 248_320)).astype(np.float32)
    entropy = np.array([0.1, 1.2, 5.0, np.nan], np.float32)
    expected = neg_reference.gate(logits, entropy, 1.175187349319458, 20)
    for form in FORMS.values():
        np.testing.assert_array_equal(form(logits, entropy, 1.175187349319458, 20, 1.0), expected)


def test_graph_form_refuses_a_device_that_does_not_exist():
    rows = np.zeros((1, 4), np.float32)
    with pytest.raises(RequestError, match="NOPE"):
        _core.gate_apply_graph(rows, np.ones(1, np.float32), 0.5, 2, 1.0, "NOPE")
