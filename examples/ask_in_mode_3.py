"""Asks a multiple-choice question in mode 3: orderings of the choices, samples, and second opinions where votes tie.

    python examples/ask_in_mode_3.py [MODEL.gguf [SIDE_CAR.gguf]]

Without arguments it runs the demo model. docs/protocols.md describes the modes.
"""

import sys

from darwin_neg_cpp import DarwinNEG, Question, demo_model

QUESTION = Question("Which planet is nearest to the sun?", ("Venus", "Mercury", "Mars", "Earth"))


def main() -> None:
    files = sys.argv[1:] or demo_model.model_and_head()
    with DarwinNEG(*files, n_parallel=16) as llm:
        answer = llm.answer(QUESTION, mode=3, prompt="direct", max_tokens=32, seed=1)
    for choice, votes in zip(QUESTION.choices, answer.votes, strict=True):
        print(f"{choice:8} {votes:2} votes")
    print(f"answer: {answer.text or 'none could be read'}")
    print(f"{answer.cost.finished} of {answer.cost.planned} inferences, {answer.cost.completion_tokens} tokens")


if __name__ == "__main__":
    main()
