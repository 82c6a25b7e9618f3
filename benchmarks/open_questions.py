"""The questions of open_answers.py, which a model answers in its own words; their answers are computed or known."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterator

from confidence import KINDS, WORDS

# with one spelling each
CAPITALS = (
    ("Spain", "Madrid"), ("Italy", "Rome"), ("Germany", "Berlin"), ("Portugal", "Lisbon"), ("Greece", "Athens"),
    ("Austria", "Vienna"), ("Poland", "Warsaw"), ("Hungary", "Budapest"), ("Ireland", "Dublin"), ("Norway", "Oslo"),
    ("Sweden", "Stockholm"), ("Finland", "Helsinki"), ("Denmark", "Copenhagen"), ("Belgium", "Brussels"),
    ("Romania", "Bucharest"), ("Bulgaria", "Sofia"), ("Serbia", "Belgrade"), ("Croatia", "Zagreb"),
    ("Slovenia", "Ljubljana"), ("Slovakia", "Bratislava"), ("Estonia", "Tallinn"),
    ("Latvia", "Riga"), ("Lithuania", "Vilnius"), ("Albania", "Tirana"), ("Iceland", "Reykjavik"),
    ("Turkey", "Ankara"), ("Egypt", "Cairo"), ("Morocco", "Rabat"), ("Tunisia", "Tunis"), ("Kenya", "Nairobi"),
    ("Ghana", "Accra"), ("Senegal", "Dakar"), ("Uganda", "Kampala"), ("Zambia", "Lusaka"), ("Zimbabwe", "Harare"),
    ("Angola", "Luanda"), ("Mali", "Bamako"), ("Niger", "Niamey"), ("Somalia", "Mogadishu"), ("Rwanda", "Kigali"),
    ("Japan", "Tokyo"), ("China", "Beijing"), ("Thailand", "Bangkok"), ("Vietnam", "Hanoi"), ("Iran", "Tehran"),
    ("Iraq", "Baghdad"), ("Syria", "Damascus"), ("Jordan", "Amman"), ("Lebanon", "Beirut"), ("Nepal", "Kathmandu"),
    ("Laos", "Vientiane"), ("Qatar", "Doha"), ("Canada", "Ottawa"), ("Cuba", "Havana"), ("Peru", "Lima"),
    ("Chile", "Santiago"), ("Uruguay", "Montevideo"), ("Venezuela", "Caracas"), ("Ecuador", "Quito"),
    ("Australia", "Canberra"),
)  # fmt: skip
EACH = 60  # of the kinds that are drawn
ANSWERED = (
    ("What is 5 + 3?", "8"),
    ("What is the correct spelling of thier?", "their"),
    ("How many days after 03 May 2001 is 13 May 2001?", "10"),
    ("What is the capital of France?", "Paris"),
    ("What is 46 + 27?", "73"),
)


def questions(seed: int, each: int) -> list[dict[str, str]]:
    """The set: kind, question and right answer of each."""
    return [*_drawn(seed, each), *_spelling(), *_capitals()]


def _drawn(seed: int, each: int) -> Iterator[dict[str, str]]:
    examples = {question for question, _ in ANSWERED}
    for kind, make in KINDS.items():
        if kind == "spelling":  # its questions need their choices
            continue
        rng, seen = random.Random(f"{seed} {kind}"), set(examples)
        while len(seen) - len(examples) < each:
            one = make(rng, len(seen))
            if one["question"] not in seen:
                seen.add(one["question"])
                yield {"kind": kind, "question": one["question"], "right": one["right"]}


def _spelling() -> Iterator[dict[str, str]]:
    for right, wrong, *_ in WORDS:
        if right != "neighbour":  # "neighbor" is right elsewhere
            yield {"kind": "spelling", "question": f"What is the correct spelling of {wrong}?", "right": right}


def _capitals() -> Iterator[dict[str, str]]:
    for country, capital in CAPITALS:
        yield {"kind": "capitals", "question": f"What is the capital of {country}?", "right": capital}


def prompt(question: str) -> str:
    asked = [*(f"Question: {one}\nAnswer: {answer}\n\n" for one, answer in ANSWERED), f"Question: {question}\nAnswer:"]
    return "".join(asked)


def is_right(text: str, right: str) -> bool:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.sub(r"\s+", " ", plain.strip()).rstrip(".").casefold() == right.casefold()
