"""Checks what only a GPU can show: that the NEG stage computes the same there as on the CPU, and how fast.

    CMAKE_ARGS=-DGGML_CUDA=ON pip install . && python benchmarks/gpu.py [--device NAME] [--model FILE]

or `make gpu`, which does both.

1. The in-graph gate on the device against the NumPy reference, ties at rank k included, for vocabularies of 1,000 to
   248,320.
2. The head on the device, 1 to 16 rows at a time, against a float64 head on the same hidden states: CUDA computes F32
   matrix products with TF32 from 4 rows on, so the error per number of rows is printed, and how many gates it flips.
3. Decoding speed: run benchmarks/decode.py afterwards; it uses the same build.

`--device CPU` runs the same checks without a GPU, which shows only that the script works.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from darwin_neg_cpp import DarwinNEG, _core, demo_model
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format
from darwin_neg_cpp.neg.head import random_head
from oracles import neg_reference

SENTENCE = "The lighthouse keeper climbed the stairs every evening, lit the lamp and wrote down the ships that passed. "
TEXT = 3 * SENTENCE


def check_gate(device: str) -> int:
    """Counts the rows on which the device's gate differs from the reference."""
    rng = np.random.default_rng(0)
    wrong = 0
    for n in (1_000, 49_152, 151_936, 248_320):
        for levels in (0, 2):  # 2: values in halves, so that many tie at rank k
            logits = rng.normal(size=(8, n)).astype(np.float32) * 3
            if levels:
                logits = (np.round(logits * levels) / levels + 0.0).astype(np.float32)
            entropy = rng.uniform(0, 2, 8).astype(np.float32)
            expected = neg_reference.gate(logits, entropy, 1.0, 20)
            got = _core.gate_apply_graph(logits, entropy, 1.0, 20, 1.0, device)
            bad = int((got != expected).any(axis=1).sum())
            wrong += bad
            print(f"gate   {n:>7} tokens, {'with ties' if levels else 'no ties  '}: {bad} of 8 rows wrong")
    return wrong


def check_head(model: Path, device_is_cpu: bool) -> None:
    """Prints the head's error against float64 by number of rows in a micro-batch."""
    head = neg_format.read_head(model)
    reference = {
        "head.proj_down.weight": head.down_w,
        "head.proj_down.bias": head.down_b,
        "head.proj_out.weight": head.out_w[None, :],
        "head.proj_out.bias": head.out_b,
    }
    for rows in (1, 2, 3, 4, 8, 16):
        with DarwinNEG(
            model, n_ctx=512, n_parallel=1, n_batch=rows, n_ubatch=rows, n_gpu_layers=0 if device_is_cpu else -1
        ) as llm:
            out = llm.session.engine.score([llm.tokenize(TEXT)], hidden=True)
        expected = neg_reference.head_entropy(reference, out["hidden"])
        got = out["predicted_entropy"].astype(np.float64)
        flips = int(((got > head.threshold) != (expected > head.threshold)).sum())
        error = np.abs(got - expected)
        relative = (error / np.maximum(expected, 1e-6)).max()
        print(
            f"head   {rows:>2} rows: max error {error.max():.2e} nats, relative {relative:.2e}, "
            f"{flips} of {len(got)} gates flipped"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    devices = _core.devices()
    gpus = [entry["name"] for entry in devices if entry["type"] in ("gpu", "igpu")]
    parser.add_argument(
        "--device", default=gpus[0] if gpus else None, help="name from `darwin-neg doctor` (default: the first GPU)"
    )
    parser.add_argument("--model", type=Path, help="GGUF with a head (default: the demo model)")
    args = parser.parse_args()
    if args.device is None:
        print(
            "no GPU in this build; rebuild with CMAKE_ARGS=-DGGML_CUDA=ON (or --device CPU to try the script)",
            file=sys.stderr,
        )
        return 1
    print(f"device {args.device}")
    wrong = check_gate(args.device)
    model = args.model
    if model is None:
        model = demo_model.model_path().with_name("gpu-check.gguf")
        neg_files.attach(demo_model.model_path(), random_head(demo_model.HIDDEN, 9), model, force=True)
    check_head(model, args.device == "CPU")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
