"""Holds a short conversation and prints each answer while it is generated.

    python examples/stream_chat.py [MODEL.gguf [SIDE_CAR.gguf]]

Without arguments it runs the demo model. Earlier turns go into the prompt of the next one, without the reasoning.
"""

import sys

from darwin_neg_cpp import DarwinNEG, demo_model

QUESTIONS = ("Why is the sky blue? Answer in one sentence.", "And at sunset?")


def main() -> None:
    files = sys.argv[1:] or demo_model.model_and_head()
    messages: list[dict[str, str]] = []
    with DarwinNEG(*files, n_ctx=1024, n_parallel=1) as llm:
        for question in QUESTIONS:
            print(f"> {question}")
            messages.append({"role": "user", "content": question})
            answer = ""
            for chunk in llm.stream_chat(messages, max_tokens=32, temperature=0.0):
                print(chunk.text, end="", flush=True)
                answer += chunk.text
            print("\n")
            messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
