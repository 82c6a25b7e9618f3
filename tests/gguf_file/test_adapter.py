"""LoRA adapters that do not fit: each is one line, and none ends the process in llama.cpp's assertions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, ModelFileError
from tiny_gguf import FFN, HIDDEN, write_adapter, write_tiny_llama

Q, DOWN, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up_exps.weight"


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


GOOD = (zeros(4, HIDDEN), zeros(HIDDEN, 4))
# name, parts, keys, what is said
BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("another architecture", {Q: GOOD}, {"general.architecture": "qwen2"}, "for 'qwen2', and the model is a 'llama'"),
    ("not an adapter", {Q: GOOD}, {"general.type": "model"}, "is not a LoRA adapter: its general.type is 'model'"),
    ("another adapter", {Q: GOOD}, {"adapter.type": "ia3"}, "is not a LoRA adapter: its adapter.type is 'ia3'"),
    ("no type", {Q: GOOD}, {"adapter.type": None}, "it has no adapter.type of type string"),
    ("type is a number", {Q: GOOD}, {"adapter.type": 3.0}, "it has no adapter.type of type string"),
    ("no alpha", {Q: GOOD}, {"adapter.lora.alpha": None}, "it has no adapter.lora.alpha of type float32"),
    ("alpha is text", {Q: GOOD}, {"adapter.lora.alpha": "8"}, "it has no adapter.lora.alpha of type float32"),
    ("activated", {Q: GOOD}, {"adapter.alora.invocation_tokens": "x"}, "is an activated LoRA"),
    ("no such layer", {"blk.7.attn_q.weight": GOOD}, {}, "adapts blk.7.attn_q.weight, which the model does not have"),
    ("B is not transposed", {Q: (zeros(4, HIDDEN), zeros(4, HIDDEN))}, {}, f"has shape [{HIDDEN}, 4], expected"),
    ("another width", {DOWN: GOOD}, {}, f"lora_a has shape [{HIDDEN}, 4], expected [{FFN}, 4]"),
    ("ranks differ", {Q: (zeros(4, HIDDEN), zeros(HIDDEN, 3))}, {}, f"has shape [{HIDDEN}, 4], expected [{HIDDEN}, 3]"),
    ("more dimensions", {Q: (zeros(2, 4, HIDDEN), zeros(2, HIDDEN, 4))}, {}, f"has shape [{HIDDEN}, 4, 2]"),
    ("integers", {Q: (GOOD[0].astype(np.int32), GOOD[1])}, {}, "has type I32, not one of F32, F16, BF16 and Q8_0"),
    ("doubles", {Q: (GOOD[0], GOOD[1].astype(np.float64))}, {}, "has type F64, not one of F32, F16, BF16 and Q8_0"),
    ("embedding like others", {"token_embd.weight": (zeros(4, HIDDEN), zeros(258, 4))}, {}, "expected [4, 258]"),
]


@pytest.mark.parametrize(("parts", "keys", "message"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_an_adapter_that_does_not_fit_is_refused(
    tmp_path: Path, tiny_llama: Path, parts: dict[str, Any], keys: dict[str, Any], message: str
) -> None:
    path = write_adapter(tmp_path / "lora.gguf", parts, keys=keys)
    with pytest.raises(ModelFileError) as error:
        DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, lora=path)
    assert message in str(error.value) and str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_half_a_pair_and_another_tensor_are_refused(tmp_path: Path, tiny_llama: Path) -> None:
    path = write_adapter(tmp_path / "lora.gguf", {Q: GOOD})
    data = path.read_bytes()
    for old, new, message in ((b".lora_b", b".lora_a", None), (b".lora_b", b".lora_c", "is not a part of")):
        path.write_bytes(data.replace(old, new))
        with pytest.raises(ModelFileError, match=message or "lora_a"):
            DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, lora=path)


def test_the_tied_embedding_and_experts(tmp_path: Path) -> None:
    # llama.cpp asserts that a tied output layer's adapter lies as others do; that of an embedding does not
    tied = write_tiny_llama(tmp_path / "tied.gguf", arch="gemma3")
    lora = write_adapter(
        tmp_path / "e.gguf",
        {"token_embd.weight": (zeros(258, 4), zeros(HIDDEN, 4))},
        keys={"general.architecture": "gemma3"},
    )
    with pytest.raises(ModelFileError, match=r"adapts token_embd\.weight, which is this model's output layer too"):
        DarwinNEG(tied, n_ctx=64, n_parallel=1, lora=lora)
    experts = write_tiny_llama(tmp_path / "experts.gguf", experts=4)
    good = write_adapter(tmp_path / "g.gguf", {EXPERTS: (zeros(4, 2, HIDDEN), zeros(4, FFN, 2))})
    with DarwinNEG(experts, n_ctx=64, n_parallel=1, lora=good) as llm:
        assert llm.generate("a", max_tokens=2, ignore_eos=True).token_ids.size == 2
    for parts in ((zeros(3, 2, HIDDEN), zeros(3, FFN, 2)), (zeros(2, HIDDEN), zeros(FFN, 2))):
        with pytest.raises(ModelFileError, match="has shape"):
            DarwinNEG(experts, n_ctx=64, n_parallel=1, lora=write_adapter(tmp_path / "b.gguf", {EXPERTS: parts}))


def test_damaged_adapters_end_no_process(tmp_path: Path, tiny_llama: Path) -> None:
    # cut at every eighth byte of the header and in the data, and with every byte of the header changed
    path = write_adapter(
        tmp_path / "lora.gguf", {Q: (np.ones((4, HIDDEN), np.float32), np.ones((HIDDEN, 4), np.float32))}
    )
    code = """
import sys
from pathlib import Path
from darwin_neg_cpp import DarwinNEG, DarwinNegError
model, path = map(Path, sys.argv[1:])
data, refused = path.read_bytes(), 0
header = data.index(b"lora_b") + 80
cut = [data[:n] for n in [*range(0, header, 8), len(data) - 1]]
changed = [data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :] for i in range(0, header, 3) for bit in (0x01, 0x80)]
for damaged in cut + changed:
    path.write_bytes(damaged)
    try:
        with DarwinNEG(model, n_ctx=64, n_parallel=1, n_threads=1, lora=path) as llm:
            llm.generate("a", max_tokens=1, ignore_eos=True)
    except DarwinNegError as error:
        assert str(error).startswith(str(path)) and "\\n" not in str(error), error
        refused += 1
print(len(cut), refused)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_llama), str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    cut, refused = map(int, result.stdout.split())
    assert refused > cut > 40
