"""The shell of web pages, and the package's style sheets and scripts, parsed by the browser that will read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import darwin_neg_cpp
from darwin_neg_cpp.files.web_page import build_page, read_data

DATA = Path(darwin_neg_cpp.__file__).parent / "data"
SHEETS = sorted(path.relative_to(DATA).as_posix() for path in DATA.rglob("*.css"))
SCRIPTS = sorted(path.relative_to(DATA).as_posix() for path in DATA.rglob("*.js"))
PAGES = sorted(path.relative_to(DATA).as_posix() for path in DATA.rglob("*.html"))
MODULES = "serve/"  # where scripts are modules

# every style rule that the browser keeps, media queries unfolded: its selector, and the given properties it knows
RULES = """([css, properties]) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  const unfolded = (rules) => [...rules].flatMap((rule) => rule.selectorText ? [rule] : unfolded(rule.cssRules));
  return unfolded(sheet.cssRules).map((rule, i) => [
    rule.selectorText, (properties[i] || []).filter((name) => rule.style.getPropertyValue(name) !== '')]);
}"""


def written_rules(css: str) -> list[tuple[str, list[str]]]:
    """Selector and properties of each rule as the file has them."""
    plain = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return [
        (" ".join(selector.split()), [part.partition(":")[0].strip() for part in body.split(";") if part.strip()])
        for selector, body in re.findall(r"([^{};]+)\{([^{}]*)\}", plain)
    ]


def dropped(tab: Any, css: str) -> list[str]:
    """What of a style sheet the browser does not take."""
    written = written_rules(css)
    kept = tab.evaluate(RULES, [css, [properties for _, properties in written]])
    if [selector for selector, _ in kept] != [selector for selector, _ in written]:
        return ["rules"]
    return [
        f"{selector}: {name}"
        for (selector, names), (_, known) in zip(written, kept, strict=True)
        for name in names
        if name not in known
    ]


def syntax_error(tab: Any, name: str, script: str) -> str:
    """What the browser says about a script that it parses, or about a module, which it parses before it looks for what
    the module imports."""
    if not name.startswith(MODULES):
        parse = "(text) => { try { new Function(text); return ''; } catch (e) { return String(e); } }"
        return str(tab.evaluate(parse, script))
    parse = """async (text) => {
      const url = URL.createObjectURL(new Blob([text], { type: 'text/javascript' }));
      try { await import(url); return ''; } catch (e) { return e instanceof SyntaxError ? String(e) : ''; }
    }"""
    return str(tab.evaluate(parse, f"import './nothing.js';\n{script}"))


@pytest.fixture
def tab(browser: Any) -> Any:
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("name", SHEETS)
def test_the_browser_takes_every_rule_and_property_of_a_style_sheet(tab: Any, name: str) -> None:
    css = read_data(name)
    assert len(written_rules(css)) > 10 and css.count("{") == css.count("}")
    assert dropped(tab, css) == []


def test_a_faulty_style_sheet_would_be_found(tab: Any) -> None:
    assert dropped(tab, "p { colour: red; margin: 0; }") == ["p: colour"]
    assert dropped(tab, "p { color: reddish; }") == ["p: color"]
    assert dropped(tab, "p {{ color: red; } a { margin: 0; }") != []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(tab: Any, name: str) -> None:
    assert syntax_error(tab, name, read_data(name)) == ""
    assert syntax_error(tab, name, read_data(name) + "}") != "", "a faulty one would be found"


def test_all_data_is_looked_at_and_lines_are_short() -> None:
    assert SHEETS == ["page.css", "report.css", "serve/style.css", "trace.css"] and "trace.js" in SCRIPTS
    assert {path.parent.name for path in DATA.rglob("*.js")} == {"data", "serve"} and len(SCRIPTS) > 5
    assert {path.suffix for path in DATA.rglob("*") if path.is_file()} == {".css", ".js", ".html", ".json", ".gguf"}
    for name in [*SHEETS, *SCRIPTS, *PAGES]:
        assert max(map(len, read_data(name).splitlines())) <= 120, name


def test_a_page_runs_its_own_script_and_no_other(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import darwin_neg_cpp.files.web_page as module

    script = "document.title = JSON.parse(document.getElementById('data').textContent).title;"
    monkeypatch.setattr(module, "read_data", lambda name: script if name == "x.js" else read_data(name))
    data = {"title": "</script><script>$title & \u202e"}
    tab = opened(build_page("a $policy <b>\u202e", "<p>b</p>", style="trace.css", script="x.js", data=data))
    assert tab.evaluate("document.title") == data["title"]
    html = build_page("a $policy <b>\u202e", "<p>b</p>", style="trace.css")
    assert "<title>a $policy &lt;b&gt;[U+202E]</title>" in html and "script" not in html
    context = opened(html).context.new_page()
    refused: list[str] = []
    context.on("console", lambda message: refused.append(message.text))
    (tmp_path / "foreign.html").write_text(
        html.replace("<p>b</p>", "<script>document.title = 'taken'</script>"), "utf-8"
    )
    context.goto((tmp_path / "foreign.html").as_uri())
    assert context.title() != "taken" and "Content Security Policy" in refused[0]
