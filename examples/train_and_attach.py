"""Trains a NEG head for a model, attaches it, and generates with it.

    python examples/train_and_attach.py OUT_FOLDER TEXT... [--model MODEL.gguf]

Without --model it trains a head for the demo model. A few thousand tokens of text show how it works; for a head that
predicts well give it a few hundred thousand (docs/training.md). Needs PyTorch: pip install 'darwin-neg-cpp[train]'.
"""

import argparse
from pathlib import Path

from darwin_neg_cpp import DarwinNEG, demo_model
from darwin_neg_cpp.neg.files import attach
from darwin_neg_cpp.training.head import Recipe
from darwin_neg_cpp.training.train import Settings, run


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a NEG head for a model, attaches it, and generates with it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--model")
    args = parser.parse_args()
    model = args.model or str(demo_model.model_path())
    head, whole = args.folder / "head.gguf", args.folder / "model-with-head.gguf"

    settings = Settings(tuple(args.text), head, Recipe(epochs=10), max_tokens=20_000, context=256)
    with DarwinNEG(model, n_ctx=1024, n_parallel=4) as llm:
        report = run(llm, settings, command="examples/train_and_attach.py", progress=print_progress)
    print(f"R² on text that was kept apart: {report['test']['head']['r2']:.3f}")

    # the side-car could be given to DarwinNEG(model, neg=head) as it is; attach makes one file of both
    attach(model, head, whole)
    with DarwinNEG(whole, n_ctx=256, n_parallel=1) as llm:
        out = llm.generate("Once upon a time", max_tokens=8, seed=1)
        if out.neg is not None:
            print(f"{out.text!r}, predicted entropies in nats: {out.neg.entropy.round(2).tolist()}")


def print_progress(step: str, done: int, total: int) -> None:
    if done == total:
        print(f"{step}: done")


if __name__ == "__main__":
    main()
