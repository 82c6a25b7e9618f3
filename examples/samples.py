"""Draws 16 samples of an answer and measures how far they agree.

    python examples/samples.py [MODEL.gguf [SIDE_CAR.gguf]]

Without arguments it runs the demo model. The prompt is decoded once for all samples, which then run in one batch.
"""

import sys
from collections import Counter
from typing import Final

from darwin_neg_cpp import DarwinNEG, demo_model

PROMPT = "Paris is the capital of France. Rome is the capital of"
SAMPLES: Final = 16


def first_word(text: str) -> str:
    """Reduces an answer to its first word, in lower case and without punctuation."""
    words = text.split()
    return words[0].strip(".,:;!*\"'").lower() if words else ""


def main() -> None:
    files = sys.argv[1:] or demo_model.model_and_head()
    with DarwinNEG(*files, n_ctx=1024, n_parallel=SAMPLES) as llm:
        samples = llm.generate(PROMPT, n=SAMPLES, max_tokens=2, temperature=0.8, seed=1)
    counts = Counter(first_word(sample.text) for sample in samples)
    for answer, count in counts.most_common():
        print(f"{count:3} of {SAMPLES}  {answer}")
    # the share of all pairs of samples that give the same answer
    equal = sum(count * (count - 1) for count in counts.values())
    print(f"agreement: {equal / (SAMPLES * (SAMPLES - 1)):.2f}")


if __name__ == "__main__":
    main()
