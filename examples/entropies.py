"""Generates text and shows the predicted entropy of every token.

    python examples/entropies.py [MODEL.gguf [SIDE_CAR.gguf]]

Without arguments it runs the demo model. The bar of a token has 5 characters per nat of predicted entropy; a star
marks the tokens at which the gate was active.
"""

import sys

from darwin_neg_cpp import DarwinNEG, Neg, demo_model


def main() -> None:
    files = sys.argv[1:] or demo_model.model_and_head()
    with DarwinNEG(*files, n_ctx=512, n_parallel=1) as llm:
        # the model file has a threshold of its own; this lower one shows the gate at work in a short text
        out = llm.generate("The capital of France is", max_tokens=24, temperature=0.7, seed=1, neg=Neg(threshold=3.0))
        if out.neg is None:
            sys.exit(f"{llm.path}: has no NEG head; give a side-car as the second argument")
        for piece, entropy, active in zip(out.pieces, out.neg.entropy, out.neg.active, strict=True):
            print(f"{piece!r:16} {entropy:6.2f} nats {'*' if active else ' '} {'#' * round(5 * float(entropy))}")
        print(f"gate active at {out.neg.activation_rate:.1%} of tokens, mean entropy {out.neg.mean_entropy:.2f} nats")


if __name__ == "__main__":
    main()
