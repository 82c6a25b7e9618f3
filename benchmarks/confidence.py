"""Says how sure a model is of its answers to questions of graded difficulty, whose answers are computed.

    python benchmarks/confidence.py                         the demo model; docs/confidence.md shows what it gave
    python benchmarks/confidence.py --model darwin-9b-neg.gguf --out confidence-9b --n-ctx 8192
    python benchmarks/confidence.py --set questions.jsonl   writes the questions and runs nothing

Additions of one to four digits, spelling, days between dates, and the closed questions of examples/questions.csv, in a
drawn order, so that any --limit has all kinds. Mode 1 answers all of them, modes 2 and 3 the first --limit. The
report is that of `darwin-neg eval`: what each signal is worth as a predictor of "wrong", and accuracy against cost. Run
are two `darwin-neg eval` commands with one ledger, which are printed; after Ctrl-C the same command resumes. Other
options go to both. For a base model, which has no chat template, these are
`--chat-template benchmarks/few_shot.jinja --prompt direct -n 6`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from darwin_neg_cpp.cli.main import main as darwin_neg
from darwin_neg_cpp.eval import data

FACTS = Path(__file__).resolve().parent.parent / "examples" / "questions.csv"
EACH = 24
# each with three misspellings
WORDS = (
    ("accommodate", "acommodate", "accomodate", "accommadate"), ("necessary", "neccessary", "necesary", "neccesary"),
    ("separate", "seperate", "separete", "seperete"), ("definitely", "definately", "definitly", "definatly"),
    ("rhythm", "rythm", "rhythem", "rythem"), ("embarrass", "embarass", "embarras", "embaras"),
    ("occurrence", "occurence", "occurrance", "ocurrence"), ("privilege", "priviledge", "privelege", "privilage"),
    ("calendar", "calender", "calander", "calandar"), ("beginning", "begining", "beggining", "beginnning"),
    ("conscience", "concience", "consience", "conscence"), ("committee", "commitee", "comittee", "committe"),
    ("maintenance", "maintainance", "maintenence", "maintanance"),
    ("government", "goverment", "governmant", "govermnent"),
    ("receive", "recieve", "receeve", "receve"), ("believe", "beleive", "belive", "beleave"),
    ("weird", "wierd", "weerd", "wiered"), ("tomorrow", "tommorow", "tommorrow", "tomorow"),
    ("recommend", "reccommend", "recomend", "reccomend"), ("possession", "posession", "possesion", "posesion"),
    ("parallel", "paralell", "parrallel", "paralel"), ("foreign", "foriegn", "foregin", "foreing"),
    ("neighbour", "nieghbour", "neigbour", "neihgbour"), ("library", "libary", "librery", "liberry"),
    ("February", "Febuary", "Feburary", "Febrary"), ("surprise", "suprise", "surprisse", "surprice"),
    ("achieve", "acheive", "acheeve", "achive"), ("argument", "arguement", "argumant", "arguemant"),
    ("cemetery", "cemetary", "cematery", "semetery"), ("knowledge", "knowlege", "knowladge", "knowlegde"),
)  # fmt: skip


def addition(digits: int) -> Callable[[random.Random, int], dict[str, Any]]:
    def make(rng: random.Random, number: int) -> dict[str, Any]:
        low = 10 ** (digits - 1)
        a, b = rng.randrange(low, 10 * low), rng.randrange(low, 10 * low)
        # wrong in one digit, as a slip is
        slips = [sign * 10**place for place in range(max(2, digits)) for sign in (1, -1)]
        wrong = [str(a + b + slip) for slip in rng.sample([slip for slip in slips if a + b + slip > 0], 3)]
        return {"question": f"What is {a} + {b}?", "right": str(a + b), "wrong": wrong}

    return make


def spelling(rng: random.Random, number: int) -> dict[str, Any]:
    right, *wrong = WORDS[number % len(WORDS)]
    return {"question": "Which of these words is spelled correctly?", "right": right, "wrong": wrong}


def days(rng: random.Random, number: int) -> dict[str, Any]:
    first = datetime.date(rng.randrange(1950, 2030), 1, 1) + datetime.timedelta(days=rng.randrange(365))
    count = rng.randrange(3, 100)
    last = first + datetime.timedelta(days=count)
    wrong = [str(count + slip) for slip in rng.sample([-2, -1, 1, 2, 7, 30], 3)]
    question = f"How many days after {first:%d %B %Y} is {last:%d %B %Y}?"
    return {"question": question, "right": str(count), "wrong": wrong}


KINDS: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    **{f"addition, {digits} digit{'s' * (digits > 1)}": addition(digits) for digits in (1, 2, 3, 4)},
    "spelling": spelling,
    "days between dates": days,
}


def questions(seed: int, each: int) -> list[dict[str, Any]]:
    """The whole set in a drawn order: the same for the same seed and number."""
    made = [*_computed(seed, each), *_facts()]
    random.Random(seed).shuffle(made)
    return made


def _computed(seed: int, each: int) -> Iterator[dict[str, Any]]:
    for kind, make in KINDS.items():
        seen: set[str] = set()
        rng = random.Random(f"{seed} {kind}")
        while len(seen) < each:
            question = make(rng, len(seen))
            key = question["question"] + question["right"]
            if key not in seen:
                seen.add(key)
                yield _entry(f"{kind} {len(seen)}", kind, question["question"], question["right"], question["wrong"])


def _facts() -> Iterator[dict[str, Any]]:
    for item in data.load(FACTS).items:
        choices = list(item.question.choices)
        right = choices.pop(item.right)
        yield _entry(item.question.id, "facts", item.question.stem, right, choices)


def _entry(identity: str, kind: str, question: str, right: str, wrong: Sequence[str]) -> dict[str, Any]:
    # protocols draw orders of their own, so that the right one may stand first here
    return {"id": identity, "subject": kind, "question": question, "choices": [right, *wrong], "answer": 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FILE", help="model with a head (default: the demo model)")
    parser.add_argument("--out", default="confidence-demo", metavar="DIR", help="folder of ledger and report")
    parser.add_argument("--set", metavar="FILE", help="write the questions to FILE, and nothing else")
    parser.add_argument("--each", type=int, default=EACH, metavar="N", help=f"questions of each kind (default {EACH})")
    parser.add_argument("--limit", type=int, default=30, metavar="N", help="questions of modes 2 and 3 (default 30)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the set (default 0)")
    args, more = parser.parse_known_args()
    out = Path(args.out)
    file = Path(args.set) if args.set else out / "questions.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    made = questions(args.seed, args.each)
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in made), "utf-8")
    if args.set:
        print(f"{len(made)} questions: {file}")
        return 0
    # a small model reasons itself into nothing; a large one may be given --prompt simple-evals and more tokens
    model = ["--model", args.model] if args.model else ["--demo", "--prompt", "direct", "-n", "20", "--n-parallel", "1"]
    common = ["eval", "jsonl", "--data", str(file), "-o", str(out), *model, "--true-entropy", *more]
    for run in (["--modes", "1"], ["--modes", "1,2,3", "--no-control", "--limit", str(args.limit)]):
        print(f"$ {shlex.join(['darwin-neg', *common, *run])}", flush=True)
        if code := darwin_neg([*common, *run]):
            return code
    return darwin_neg(["eval", "--report-only", "-o", str(out), "--wanted-accuracy", "0.8", "--calibrate-auto", "4"])


if __name__ == "__main__":
    sys.exit(main())
