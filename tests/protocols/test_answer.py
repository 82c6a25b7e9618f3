"""An answer as a value."""

from __future__ import annotations

import dataclasses
import json

from darwin_neg_cpp.protocols.sampler import Output
from scripted_candidates import Scripted, answered, voters


def test_an_answer_is_json_with_every_candidate() -> None:
    class Strange(Scripted):
        def _output(self, handle: int, k: int) -> Output:
            return dataclasses.replace(super()._output(handle, k), mean_entropy=float("nan"), activation_rate=0.25)

    out = json.loads(json.dumps(answered(Strange(voters("1122" * 4, "1111"))).as_dict(), allow_nan=False))
    assert out["choice"] == 1 and out["letter"] == "B" and out["text"] == "text of choice 1"
    assert len(out["candidates"]) == 20 and out["cost"]["saved"] == out["cost"]["planned"] - out["cost"]["finished"]
    first = out["candidates"][0]
    assert first["mean_entropy"] is None and first["activation_rate"] == 0.25
    assert {"number", "ordering", "seed", "text", "letter", "choice", "tokens", "finish_reason", "counted"} <= set(
        first
    )
