"""Compares this package with llama-cpp-python, llama-server and transformers, each called as its users call it.

    python benchmarks/peers.py [--model FILE] [--peers NAME,NAME] [--works NAME,NAME] [--rounds N] [--json FILE]
    python benchmarks/random_qwen35.py /tmp/q.gguf && python benchmarks/peers.py --model /tmp/q.gguf

Needs the dependency group `peers`; llama-server is built from the pinned source, unpatched, at first use. A process per
engine and round, and in a round the engines take turns at each work (benchmarks/peer_engines.py): so every round
measures loading, and no engine answers from what an earlier round left in its cache. Medians over the rounds. Prompts
are the same token ids for all, or the same messages through the model's template; counts are compared. A chat's answers
are each engine's own, of equal length, and the counts of its later turns may differ by what their text is in tokens.

load: imports and weights, to the first token; the file is in the page cache. decode: batch 1, without the prompt's
time. sample: several samples of one prompt, prompt included. chat: seconds to the first text of each turn. json: an
answer that obeys a schema. document: questions about one document, each to the end of its answer. memory: highest
resident size, after all works. The weights that a process maps from the file count in it as far as it has touched them;
they are pages of the file that all processes share, and that the system may drop. `own` is what it holds besides, at
the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from gguf import GGUFValueType

from darwin_neg_cpp import demo_model
from darwin_neg_cpp.gguf_file.edit import write_edited
from darwin_neg_cpp.gguf_file.header import read_header
from oracles import stock

PEERS = ("ours", "llama-server", "llama-cpp-python", "transformers")
WORKS = ("decode", "sample", "chat", "json", "document")
N_CTX = 8192
STORY = "Write a short story about a lighthouse keeper who finds a message in a bottle. "
QUESTIONS = (
    "Tell me a long story about an old sailor and his dog, and say how the two of them met.",
    "What happened to them on the next day? Tell it in detail, with what they saw on the way.",
    "Then a storm came up. Describe how the sailor and the dog lived through that night.",
    "Who waited for them in the harbour? Give her a name, and tell what she had done all the time.",
    "Let her tell the story of her own life now, from her childhood on, in her own words.",
    "What did the dog think of all that? Write down its thoughts as if it could speak.",
    "Years later they all meet again in another town. Describe the town, and how they meet.",
    "Write the end of the story now, long and slow, and do not leave anybody out of it.",
)
ABOUT_DOCUMENT = (
    "\n\nQuestion: Who is named most often above? Explain at length.\nAnswer:",
    "\n\nQuestion: Which places are named above? List all of them.\nAnswer:",
    "\n\nQuestion: How does the text above end? Explain at length.\nAnswer:",
)
JSON_QUESTION = "List eight things that you can see in a harbour, each with its colour and how many of them there are."
SCHEMA = {
    "type": "array",
    "minItems": 8,
    "maxItems": 8,
    "items": {
        "type": "object",
        "properties": {
            "thing": {"enum": ["boat", "gull", "crate", "rope", "lamp", "anchor", "net", "flag"]},
            "colour": {"enum": ["red", "green", "blue", "white", "black"]},
            "count": {"enum": [1, 2, 3, 5, 8, 13]},
        },
        "required": ["thing", "colour", "count"],
        "additionalProperties": False,
    },
}
# for a model without one; as in Qwen3.5's without reasoning, the history leaves out the empty block before an answer
TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
"""

Rounds = list[dict[str, dict[str, Any]]]  # of each round: answers by work and peer


def document_text(words: int) -> str:
    """English sentences without much sense, always the same ones."""
    rng = random.Random(1)
    who = ("Anna", "The captain", "Old Peter", "A stranger", "The baker", "Maria", "Nobody", "The teacher")
    did = ("saw", "painted", "lost", "carried", "remembered", "sold", "repaired", "looked for")
    what = ("a small boat", "the blue door", "three letters", "an old map", "the clock", "some bread", "a lantern")
    where = ("in Porto", "near the river", "on the hill", "behind the church", "in the market", "at the station")
    sentences = (" ".join(map(rng.choice, (who, did, what, where))) + "." for _ in range(words))
    return " ".join(sentences)


class Peer:
    """One engine's process."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).with_name("peer_engines.py")), name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, work: str, **options: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"work": work, **options}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"exited with {self.process.wait()}"}
        if isinstance(answer, dict) and "error" in answer:
            raise SystemExit(f"{self.name}: {work}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def with_template(model: Path) -> Iterator[Path]:
    """The model itself, or a copy with TEMPLATE where it has none."""
    header = read_header(model)
    key = "tokenizer.chat_template"
    if header.value(key):
        yield model
        return
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        copy = Path(folder) / model.name
        write_edited(header, copy, add_keys=[(key, GGUFValueType.STRING, TEMPLATE)], drop=lambda name: name == key)
        yield copy


def prompts(peers: Sequence[Peer], args: argparse.Namespace) -> dict[str, Any]:
    """The works' prompts as token ids. Raises SystemExit where two engines read the same text differently."""
    texts = [STORY * 2, STORY * 8, document_text(args.document), *ABOUT_DOCUMENT]
    found = {peer.name: peer("tokenize", texts=texts) for peer in peers if peer.name != "transformers"}
    first, *others = found
    for name in others:
        if found[name] != found[first]:
            raise SystemExit(f"{first} and {name} make different tokens of the same text")
    short, long, document, *questions = found[first]
    return {"decode": short, "sample": long, "document": document[: args.document], "questions": questions}


def requests(ids: Mapping[str, Any], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    return {
        "decode": {"prompt": ids["decode"], "n": args.tokens},
        "sample": {"prompt": ids["sample"], "samples": args.samples, "n": args.tokens},
        "chat": {"questions": QUESTIONS[: args.turns], "n": args.tokens},
        "json": {"question": JSON_QUESTION, "schema": SCHEMA, "n": 400},
        "document": {"document": ids["document"], "questions": ids["questions"], "n": args.tokens},
    }


def one_round(model: Path, names: Sequence[str], works: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"load": {}, **{work: {} for work in works}, "memory": {}}
    with ExitStack() as stack:
        peers = []
        for name in names:
            peers.append(peer := Peer(name))
            stack.callback(peer.close)
            options = {"model": str(model), "threads": args.threads, "n_ctx": N_CTX, "slots": args.samples}
            found["load"][name] = peer("load", **options)
        wanted = requests(prompts(peers, args), args)
        for i, work in enumerate(works):
            for peer in peers[i % len(peers) :] + peers[: i % len(peers)]:  # nobody always follows the same one
                if work == "decode" or peer.name != "transformers":
                    found[work][peer.name] = peer(work, **wanted[work])
        for peer in peers:
            found["memory"][peer.name] = peer("memory")
            peer("close")
    check(found, args)
    return found


def check(found: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Says where the engines did not do the same work. Samples may end early where an engine has no ignore_eos."""
    for name, answer in found.get("decode", {}).items():
        if answer["tokens"] != args.tokens:
            print(f"warning: {name}: decode made {answer['tokens']} tokens, not {args.tokens}")
    for name, answer in found.get("document", {}).items():
        if set(answer["tokens"]) != {args.tokens}:
            print(f"warning: {name}: answers about the document have {answer['tokens']} tokens, not {args.tokens}")
    chats = found.get("chat", {})
    for name, answer in chats.items():
        if {turn["tokens"] for turn in answer["turns"]} != {args.tokens}:
            print(f"warning: {name}: an answer in the chat ended early")
    for turns in zip(*(answer["turns"] for answer in chats.values()), strict=True):
        counts = dict(zip(chats, (turn["prompt"] for turn in turns), strict=True))
        if max(counts.values()) > 1.02 * min(counts.values()):
            print(f"warning: a turn of the chat has {counts} prompt tokens")


def figures(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Rows of one round: by name, a figure of each peer. Times in seconds, speeds in tokens per second, MiB."""
    rows: dict[str, dict[str, float]] = {}

    def add(row: str, name: str, figure: float) -> None:
        rows.setdefault(row, {})[name] = figure

    for name, seconds in found["load"].items():
        add("load, s", name, seconds)
    for work, title in (("decode", "decode, tokens/s"), ("sample", "samples, tokens/s")):
        for name, answer in found.get(work, {}).items():
            add(title, name, answer["per_second"])
    for name, answer in found.get("chat", {}).items():
        for i, turn in enumerate(answer["turns"], 1):
            add(f"first token, turn {i}, s", name, turn["first"])
    for name, answer in found.get("json", {}).items():
        add("JSON, s", name, answer["seconds"])
        add("JSON, tokens/s", name, answer["tokens"] / answer["seconds"])
    for name, answer in found.get("document", {}).items():
        for i, seconds in enumerate(answer["seconds"], 1):
            add(f"document, question {i}, s", name, seconds)
    for name, answer in found["memory"].items():
        for part, mebibytes in answer.items():
            add(f"memory, {part}, MiB", name, mebibytes)
    return rows


def report(rounds: Rounds, names: Sequence[str]) -> None:
    """Medians, and the first engine's share of the best other one's: above 1 is faster for speeds, slower for times."""
    rows = [figures(found) for found in rounds]
    print(f"{'':<26}" + "".join(f"{name:>18}" for name in names) + f"{names[0] + ' / best':>18}")
    for row in rows[0]:
        medians = {name: statistics.median(one[row][name] for one in rows) for name in names if name in rows[0][row]}
        cells = "".join(f"{medians[name]:>18.3f}" if name in medians else f"{'':>18}" for name in names)
        others = [medians[name] for name in names[1:] if name in medians]
        best = (max if "tokens/s" in row else min)(others, default=0)
        print(f"{row:<26}{cells}" + (f"{medians[names[0]] / best:>18.3f}" if best and names[0] in medians else ""))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF (default: the demo model without its head)")
    parser.add_argument("--peers", default=",".join(PEERS), metavar="NAME,NAME")
    parser.add_argument("--works", default=",".join(WORKS), metavar="NAME,NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--turns", type=int, default=len(QUESTIONS), choices=range(1, len(QUESTIONS) + 1))
    parser.add_argument("--document", type=int, default=2000, help="tokens of the document")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured, round by round")
    args = parser.parse_args()
    args.peers, args.works = args.peers.split(","), args.works.split(",")
    for given, known in ((args.peers, PEERS), (args.works, WORKS)):
        if wrong := [name for name in given if name not in known]:
            parser.error(f"{wrong[0]} is not one of {', '.join(known)}")
    if args.peers == ["transformers"]:
        parser.error("transformers is given prompts that another engine tokenizes; name one more")
    return args


def main() -> None:
    args = parse()
    if "llama-server" in args.peers:
        os.environ["PEERS_LLAMA_SERVER"] = stock.server()
    rounds: Rounds = []
    with with_template(args.model or demo_model.model_path()) as model:
        print(
            f"{model.name}, {platform.machine()}, {args.threads} threads, {datetime.date.today()}, "
            f"{args.rounds} rounds, {args.tokens} tokens an answer, {args.samples} samples, "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        for i in range(args.rounds):
            turn = args.peers[i % len(args.peers) :] + args.peers[: i % len(args.peers)]
            rounds.append(one_round(model, turn, args.works, args))
            if args.json:
                args.json.write_text(json.dumps(rounds, indent=1), "utf-8")
    report(rounds, args.peers)


if __name__ == "__main__":
    main()
