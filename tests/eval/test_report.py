"""Reports: figures against ones counted by hand, and Markdown and page against hostile names and a real browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from darwin_neg_cpp.eval import ledger_lines, report, report_tables, settings, summary
from darwin_neg_cpp.eval.report_page import page
from darwin_neg_cpp.eval.summary import summarize
from darwin_neg_cpp.protocols import ModeConfig, Protocol
from pages import contrast

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">|`*_[x](http://y)\u202eabc\x1b[31m\u2028\n## title'
PLAIN = "plain"


def call(choice: int | None, **more: Any) -> ledger_lines.Call:
    base: dict[str, Any] = {"tokens": 10, "how": "answer" if choice is not None else "none", "finish_reason": "stop"}
    base |= {"mean_entropy": 1.0, "activation_rate": 0.5, "token_ids": ()}
    return ledger_lines.Call(choice=choice, **{**base, **more})


def outcome(
    number: int, protocol: str, choice: int | None, *calls: ledger_lines.Call, **more: Any
) -> ledger_lines.Outcome:
    calls = calls or (call(choice),)
    finished = [call for call in calls if call.finish_reason != "cancelled"]
    base: dict[str, Any] = {
        "number": number,
        "question": f"id{number}",
        "domain": ["physics", "biology"][number % 2],
        "right": 0,
        "protocol": Protocol.parse(protocol),
        "choice": choice,
        "n_choices": 4,
        "tied": False,
        "margin": 1,
        "second_opinions": 0,
        "planned": len(calls),
        "started": len(calls),
        "finished": len(finished),
        "prompt_tokens": 100,
        "completion_tokens": sum(call.tokens for call in calls),
        "seconds": 1.0 + number,
        "calls": tuple(calls),
    }
    return ledger_lines.Outcome(**{**base, **more})


def contents(
    *outcomes: ledger_lines.Outcome,
    diamond: bool = False,
    word: str = PLAIN,
    data: dict[str, int] | None = None,
    notes: dict[str, list[str]] | None = None,
    **protocol: Any,
) -> ledger_lines.Contents:
    made = {
        "version": "1",
        "model": {"sha256": "0" * 64, "quantization": word},
        "data": {"questions": 4, "skipped": 0, **(data or {})},
        "protocol": {**settings.asdict(ModeConfig()), "early_stop": True, **protocol},
    }
    session = ledger_lines.Session(1e9, 12.0, len(outcomes), f"darwin-neg eval {word}", {"cpus": 2, "devices": word})
    names = {"model": word, "data": word, "diamond": diamond, **(notes or {})}
    return ledger_lines.Contents(made, names, outcomes, (session, session))


TWO_MODES = (
    outcome(0, "mode 0", 0, call(0, token_ids=(1, 2, 3))),
    outcome(1, "mode 0", 2, call(2, token_ids=(1, 2))),
    outcome(2, "mode 0", 0),
    outcome(3, "mode 0", None, call(None, finish_reason="length")),
    outcome(0, "mode 1", 0, call(0, token_ids=(1, 2, 3))),
    outcome(1, "mode 1", 0, call(0, token_ids=(1, 5, 6, 7), activation_rate=0.1, tokens=40)),
    outcome(2, "mode 1", 0),
)


def names_in(found: dict[str, Any]) -> list[str]:
    return list(found["protocols"])


# --- figures


def test_accuracy_counts_right_answers_and_an_unanswered_question_as_wrong() -> None:
    found = summarize(contents(*TWO_MODES))
    off, on = found["protocols"]["mode 0"], found["protocols"]["mode 1"]
    assert (off["right"], off["questions"], off["accuracy"]) == (2, 4, 0.5)
    assert (on["right"], on["questions"], on["accuracy"]) == (3, 3, 1.0)
    assert off["unanswered"] == off["unparsed"] == off["truncated"] == 0.25
    assert found["chance"] == 0.25


def test_modes_are_compared_on_the_questions_that_both_answered() -> None:
    (found,) = summarize(contents(*TWO_MODES))["comparisons"]
    assert (found["a"], found["b"], found["questions"]) == ("mode 1", "mode 0", 3)
    assert (found["only_a"], found["only_b"], found["p"]) == (1, 0, 1.0)
    assert found["difference"] == pytest.approx(1 / 3)


def test_cost_is_in_completion_tokens_of_the_same_questions() -> None:
    found = summarize(contents(*TWO_MODES))["protocols"]
    assert found["mode 0"]["cost_multiple"] == 1.0
    # questions 0 to 2: 10 + 40 + 10 against 30
    assert found["mode 1"]["cost_multiple"] == 2.0
    assert found["mode 0"]["tokens"] == {"prompt": 400, "completion": 40, "completion_per_question": 10.0}
    alone = summarize(contents(*[outcome for outcome in TWO_MODES if outcome.protocol.name == "mode 1"]))
    assert alone["protocols"]["mode 1"]["cost_multiple"] is None and alone["comparisons"] == []


def test_gate_and_entropy_are_means_over_tokens_and_the_gate_of_mode_0_is_off() -> None:
    found = summarize(contents(*TWO_MODES))["protocols"]
    assert found["mode 1"]["gate"]["activation_rate"] == pytest.approx((10 * 0.5 + 40 * 0.1 + 10 * 0.5) / 60)
    assert found["mode 0"]["gate"] == {"activation_rate": None, "mean_predicted_entropy": 1.0}
    off = summarize(contents(*TWO_MODES, gate=False))["protocols"]
    assert off["mode 1"]["gate"]["activation_rate"] is None
    headless = outcome(0, "mode 0", 0, call(0, mean_entropy=None, activation_rate=None))
    assert summarize(contents(headless))["protocols"]["mode 0"]["gate"] is None


def test_tokens_that_differ_between_modes_0_and_1_are_counted_by_position() -> None:
    found = summarize(contents(*TWO_MODES))
    # question 1: one position differs, two are more
    assert found["greedy"] == {"questions": 3, "questions_that_differ": 1, "tokens": 7, "tokens_that_differ": 3}
    assert "differ in 3 of 7 tokens" in report.markdown(found)
    same = summarize(contents(TWO_MODES[0], TWO_MODES[4]))
    assert same["greedy"]["tokens_that_differ"] == 0 and "same 3 tokens on all 1 questions" in report.markdown(same)


def test_votes_shares_and_margins() -> None:
    cancelled = call(None, finish_reason="cancelled", tokens=3)
    voted = (
        outcome(0, "mode 2", 0, call(0), call(0), call(0), cancelled, margin=3),
        outcome(1, "mode 2", 0, call(0), call(1), call(None), call(0, how="fallback"), margin=1),
        outcome(2, "mode 2", 1, call(1), call(0), call(1, finish_reason="length"), call(0), margin=0, tied=True),
        outcome(3, "mode 2", 2, call(2), call(2), call(2), cancelled, margin=3, second_opinions=2),
    )
    found = summarize(contents(*voted))["protocols"]["mode 2"]
    assert found["by_margin"] == [
        {"margin": 0, "questions": 1, "right": 0, "accuracy": 0.0, "interval": found["by_margin"][0]["interval"]},
        {"margin": 1, "questions": 1, "right": 1, "accuracy": 1.0, "interval": found["by_margin"][1]["interval"]},
        {"margin": 3, "questions": 2, "right": 1, "accuracy": 0.5, "interval": found["by_margin"][2]["interval"]},
    ]
    # 14 candidates came to their own end
    assert found["unparsed"] == pytest.approx(1 / 14) and found["fallback"] == pytest.approx(1 / 14)
    assert found["truncated"] == pytest.approx(1 / 14)
    assert (found["tied"], found["asked_again"], found["unanswered"]) == (0.25, 0.25, 0.0)
    assert found["inferences"] == {"planned": 16, "started": 16, "finished": 14, "saved": 2, "second_opinions": 2}


def test_modes_are_compared_with_their_controls() -> None:
    names = ("mode 2", "mode 3", "self-consistency 4", "self-consistency 20")
    found = summarize(contents(*(outcome(0, name, 0) for name in reversed(names))))
    assert names_in(found) == list(names)
    assert [(comparison["a"], comparison["b"]) for comparison in found["comparisons"]] == [
        ("mode 3", "mode 2"),
        ("mode 2", "self-consistency 4"),
        ("mode 3", "self-consistency 20"),
    ]


def test_domains_are_split_where_there_are_several() -> None:
    found = summarize(contents(*TWO_MODES))
    assert [domain["domain"] for domain in found["domains"]] == ["biology", "physics"]
    assert found["domains"][0]["protocols"]["mode 0"]["questions"] == 2
    assert sum(domain["protocols"]["mode 0"]["right"] for domain in found["domains"]) == 2
    assert summarize(contents(TWO_MODES[0]))["domains"] == []


def test_the_cards_claims_stand_beside_gpqa_diamond_only_and_are_called_claims() -> None:
    assert summarize(contents(*TWO_MODES))["claims"] is None
    assert "claim" not in report.markdown(summarize(contents(*TWO_MODES)))
    found = summarize(contents(*TWO_MODES, diamond=True))
    # as the card's table prints them
    printed = {"mode 0": "51.01%", "mode 1": "63.64%", "mode 2": "76.26%", "mode 3": "84.34%"}
    assert {name: f"{one['accuracy']:.2%}" for name, one in found["claims"]["protocols"].items()} == printed
    assert found["claims"]["activation_rate"] == 0.0436
    for text in (report.markdown(found), page(found)):
        assert "card claims" in text and "not measurements made here" in text and "51.01 %" in text
        assert "84.34 %" not in text, "no row for a mode that was not run"


def test_where_the_cards_figures_stand_beside_fewer_than_198_questions_the_report_says_so() -> None:
    found = summarize(contents(*TWO_MODES, diamond=True))
    assert found["claims"]["questions"] == 198
    for text in (report.markdown(found), page(found)):
        assert "for all 198 questions; the measured ones stand beside them for fewer: mode 0 4, mode 1 3." in text
    whole = [outcome(n, "mode 0", 0) for n in range(198)]
    some = [*whole, *(outcome(n, "mode 1", 0) for n in range(197))]
    assert "all 198" not in report.markdown(summarize(contents(*whole, diamond=True, data={"questions": 198})))
    text = report.markdown(summarize(contents(*some, diamond=True, data={"questions": 198})))
    assert "stand beside them for fewer: mode 1 197." in text
    assert "all 198" not in report.markdown(summarize(contents(*TWO_MODES)))


def test_every_question_that_was_left_out_or_changed_is_listed() -> None:
    notes = {"left_out": [f"line {k}: is empty" for k in range(300)], "merged": [f"line 400: {HOSTILE}"]}
    found = summarize(contents(*TWO_MODES, data={"skipped": 300, "merged": 1}, notes=notes))
    assert found["left_out"] == notes["left_out"] and found["merged"] == notes["merged"]
    assert found["names"] == {"model": PLAIN, "data": PLAIN, "diamond": False}
    for text in (report.markdown(found), page(found)):
        assert all(f"line {k}: is empty" in text for k in range(300)) and "line 400: " in text
        assert "300 questions of the file were left out" in text and "1 questions of the file have equal" in text
        assert "<script>alert" not in text and "\u202e" not in text
    # a ledger of an older version has the number alone
    older = summarize(contents(*TWO_MODES, data={"skipped": 2}))
    assert older["left_out"] == [] and "2 questions of the file were left out" in report.markdown(older)
    assert "left out or changed" not in report.markdown(older)


def test_time_is_in_one_place() -> None:
    one, other = contents(*TWO_MODES), contents(*TWO_MODES)
    slow = [ledger_lines.Outcome(**{**vars(o), "seconds": 99.0}) for o in other.outcomes]
    moved = ledger_lines.Contents(other.settings, other.names, tuple(slow), (other.sessions[0],))
    a, b = summarize(one), summarize(moved)
    assert a.pop("timing") != b.pop("timing")
    assert a == b
    whole, changed = report.markdown(summarize(one)), report.markdown(summarize(moved))
    assert whole != changed
    assert without_time(whole) == without_time(changed)


def without_time(markdown: str) -> str:
    return re.sub(r"## Time\n.*?(?=\n## )", "", markdown, flags=re.DOTALL)


def test_an_unfinished_run_says_so() -> None:
    text = report.markdown(summarize(contents(*TWO_MODES)))
    assert "Answered so far, of the file's 4 questions: mode 1 3." in text
    assert "Not told apart from guessing by these questions: mode 0" in text


def test_a_ledger_without_answers_makes_a_report(tmp_path: Path) -> None:
    report.write(tmp_path, summarize(contents()))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "report.html"}


# --- texts


def hostile() -> dict[str, Any]:
    rows = [
        outcome(i, name, i % 3, domain=HOSTILE, question=f"{HOSTILE}{i}")
        for i in range(3)
        for name in ("mode 0", "mode 2")
    ]
    rows.append(outcome(3, "mode 0", 0, domain="</td></table>", question="</summary>"))
    return summarize(contents(*rows, word=HOSTILE))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("found", [summarize(contents(*TWO_MODES, diamond=True)), hostile(), summarize(contents())])
def test_the_page_is_well_formed_without_script_or_network(found: dict[str, Any]) -> None:
    html, tags = page(found), Tags()
    tags.feed(html)
    assert tags.open == [] and not tags.seen & {"script", "img", "iframe", "object", "form", "a"}
    assert not any(name.startswith("on") for name in tags.attributes)
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,"]
    assert "default-src 'none'" in html and "script-src" not in html
    assert not any(c in html for c in "\u202e\x1b\u2028")


def test_hostile_names_are_no_markdown_and_no_html() -> None:
    text = report.markdown(hostile())
    assert not any(c in text for c in "\u202e\x1b\u2028")
    assert text.count("```") == 2 and "\n## title" not in text
    fenced = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script" not in fenced and "<img" not in fenced
    assert "](http" not in re.sub(r"\\\[x\]\(http", "", fenced)
    for line in fenced.splitlines():
        if line.startswith("| mode") or line.startswith("| ---"):
            continue
        assert not re.search(r"(?<!\\)[`]", line) or "report.json" in line
    table = [line for line in text.splitlines() if line.startswith("|")]
    for header, rule in pairwise(table):
        if set(rule) <= set("|-: "):
            assert cells(header) == cells(rule)


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_all_tables_have_rows_as_wide_as_their_header() -> None:
    for found in (summarize(contents(*TWO_MODES, diamond=True)), hostile()):
        for table in report_tables.tables(found):
            assert all(len(row) == len(table.header) for row in table.rows), table.title


@pytest.mark.parametrize("name", ["demo-eval", "confidence/answers-demo", "confidence/answers-gemma"])
def test_the_committed_report_is_what_its_json_gives(name: str) -> None:
    folder = ROOT / "docs" / name
    found = json.loads((folder / "report.json").read_text("utf-8"))
    assert report.markdown(found) == (folder / "report.md").read_text("utf-8")
    assert page(found) == (folder / "report.html").read_text("utf-8")


def test_the_figures_of_the_documentation_are_those_of_the_committed_report() -> None:
    text = (ROOT / "docs" / "confidence.md").read_text("utf-8")
    rated = json.loads((ROOT / "docs/confidence/answers-demo/report.json").read_text("utf-8"))["confidence"]["mode 1"]
    auroc = {name: figures["auroc"] for name, figures in rated["signals"].items()}
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", text, re.MULTILINE)
    shown = ("mean_entropy", "last_quarter_entropy", "letter_entropy", "letter_logprob", "logprob",
             "true_mean_entropy", "true_letter_entropy")  # fmt: skip
    expected = [(auroc[name]["value"], *auroc[name]["interval"]) for name in shown]
    assert rows == [tuple(f"{value:.3f}" for value in row) for row in expected]
    # "no signal is told apart from chance"
    assert all(low < 0.5 < high for low, high in (figures["interval"] for figures in auroc.values()))
    assert f"Of the {rated['questions']} answers that were read {rated['wrong']} are wrong" in text


def test_what_the_documentation_says_of_the_second_model_is_in_its_report() -> None:
    text = " ".join((ROOT / "docs/confidence.md").read_text("utf-8").split())
    found = json.loads((ROOT / "docs/confidence/answers-gemma/report.json").read_text("utf-8"))
    ratings = [found["confidence"][f"mode {mode}"] for mode in (1, 2, 3)]
    intervals = {
        (mode, name): figures["auroc"]["interval"]
        for mode, rating in enumerate(ratings, 1)
        for name, figures in rating["signals"].items()
    }
    apart = {key: interval for key, interval in intervals.items() if not interval[0] <= 0.5 <= interval[1]}
    (low, high) = apart.pop((2, "margin"))
    assert (
        not apart and f"Of {len(intervals)} signals and modes one has" in text and f"({low:.3f} to {high:.3f})" in text
    )
    simulated = found["spending"]["simulated"]
    gains = [point[name]["difference"]["interval"] for point in simulated for name in ("random", "margin")]
    assert gains and all(gain[0] <= 0 for gain in gains), "auto beats neither control at any cost"


def test_the_json_is_json(tmp_path: Path) -> None:
    report.write(tmp_path, hostile())
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == json.loads(json.dumps(hostile()))
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["format"] == summary.FORMAT


# --- the page in a browser


@pytest.mark.slow
def test_hostile_names_stay_text_in_a_browser(opened: Any) -> None:
    tab = opened(page(hostile()))
    assert tab.locator("img, script").count() == 0 and "<script>alert(1)" in tab.locator("h1").inner_text()
    tab.locator("summary").click()
    assert "</summary>" in tab.locator("#questions ~ details").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_can_be_read_in_light_dark_print_and_on_a_phone(opened: Any, scheme: str, width: int) -> None:
    tab = opened(page(summarize(contents(*TWO_MODES, diamond=True))), color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 800})
    style = "getComputedStyle(document.querySelector('{}')).{}"
    paper = tab.evaluate(style.format("body", "backgroundColor"))
    tab.locator("summary").click()
    for element, least in (("body", 7), ("p", 4.5), ("thead th", 4.5), ("td.r", 4.5), ("td.x", 4.5)):
        assert contrast(paper, tab.evaluate(style.format(element, "color"))) > least, element
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert "mode 0 50.0 %, interval" in tab.locator("svg").get_attribute("aria-label")
    assert tab.locator("svg .dot").count() == 2 and tab.locator("svg .claim").count() == 2
    tab.emulate_media(media="print")
    assert tab.locator("h1").is_visible()


@pytest.mark.slow
def test_the_chart_shows_the_figures(opened: Any) -> None:
    tab = opened(page(summarize(contents(*TWO_MODES))))
    ticks = {t.text_content(): t.bounding_box() for t in tab.locator("svg text").all()}
    centre = {name: box["x"] + box["width"] / 2 for name, box in ticks.items()}
    scale = centre["100 %"] - centre["0 %"]
    dots = [dot.bounding_box() for dot in tab.locator("svg .dot").all()]
    shares = [(box["x"] + box["width"] / 2 - centre["0 %"]) / scale for box in dots]
    assert shares == pytest.approx([0.5, 1.0], abs=0.01)
