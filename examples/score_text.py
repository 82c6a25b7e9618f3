"""Scores a given text: its perplexity, and where the model was surprised by it.

    python examples/score_text.py [MODEL.gguf [SIDE_CAR.gguf]]

Without arguments it runs the demo model. Nothing is generated: the text is run through the model once.
"""

import sys

import numpy as np

from darwin_neg_cpp import DarwinNEG, demo_model

TEXT = "The sun rises in the east and sets in the west. The moon is made of green cheese, as every child knows."


def main() -> None:
    files = sys.argv[1:] or demo_model.model_and_head()
    with DarwinNEG(*files, n_ctx=512, n_parallel=1) as llm:
        scores = llm.score(TEXT)
        # entry i describes the token after token i, so that the last entry has no token to compare with
        surprise = -scores.logprobs[:-1]
        print(f"perplexity {np.exp(surprise.mean()):.2f}, mean true entropy {scores.entropy.mean():.2f} nats")
        if scores.neg is not None:
            error = np.abs(scores.neg.entropy - scores.entropy).mean()
            print(f"mean predicted entropy {scores.neg.entropy.mean():.2f} nats, mean error {error:.2f} nats")
        print("most surprising tokens:")
        for i in np.argsort(-surprise)[:5]:
            piece = llm.detokenize([int(scores.token_ids[i + 1])])
            print(f"  {piece!r:12} {surprise[i]:5.2f} nats, where the entropy was {scores.entropy[i]:.2f}")


if __name__ == "__main__":
    main()
