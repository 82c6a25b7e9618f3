"""The documentation site: it builds without a warning, holds all that is public, and needs no other host."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import darwin_neg_cpp
from conftest import ROOT

DOCS = ROOT / "docs"
SECTIONS = ["Install", "First answer", "Uncertainty", "Serve", "Convert", "Train", "Evaluate", "Scale", "Format"]
# what evaluation and training ask of it, and users do not
INTERNAL = {
    "RemoteEngine": {"title", "more_context", "sampler", "count_tokens", "write", "check_runs"}
    | {f"describe_{what}" for what in ("model", "build", "engine", "machine")}
}
PUBLIC = sorted(set(darwin_neg_cpp.__all__) - {"__version__"})


class Page(HTMLParser):
    """Ids, links and fetched addresses of a page, and the links of its table of contents."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text("utf-8")
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.contents: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        for name, value in given.items():
            if tag == "a" and name == "href":
                self.links.append(value)
                self.contents += [value] * ("md-nav__link" in given.get("class", ""))
            elif name in ("src", "href", "data", "poster", "action"):
                self.fetched.append(value)
            elif name == "srcset":
                self.fetched += [part.split()[0] for part in value.split(",")]
            elif name == "style":
                self.fetched += addresses(value)


def addresses(css: str) -> list[str]:
    """What a style sheet fetches."""
    return [a or b for a, b in re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", css)]


def words(text: str) -> str:
    """A text without its punctuation and line ends, so that a docstring can be looked for in a page."""
    return " ".join(["", *re.findall(r"\w+", text), ""])


def shown(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    result = build(ROOT, out)
    assert result.returncode == 0 and "WARNING" not in result.stderr, result.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="module")
def api(pages: dict[Path, Page], site: Path) -> dict[str, str]:
    """The HTML of each object of the API reference, by its path: from its heading to the next one."""
    html = pages[site / "api.html"].html
    html = html[html.index("<article") : html.index("</article>")]
    found = re.split(r'<h[2-6] id="([^"]+)"', html)
    return dict(zip(found[1::2], found[2::2], strict=True))


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documentation_site", ROOT / "scripts" / "documentation_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the pages


def test_every_page_is_in_the_table_of_contents_once(pages: dict[Path, Page], site: Path) -> None:
    contents = [link for link in pages[site / "index.html"].contents if not link.startswith("#")]
    # the page that is open, and the first of a section, stand there more than once
    assert {path.with_suffix(".html").name for path in DOCS.glob("*.md")} == set(contents)
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"[\w-]+\.md$", config[config.index("\nnav:") : config.index("\nnot_in_nav:")], re.MULTILINE)
    assert len(listed) == len(set(listed))


def test_the_sections_are_those_of_a_first_contact() -> None:
    config = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2].partition("\nnot_in_nav:")[0]
    assert re.findall(r"^  - ([\w ]+):", config, re.MULTILINE) == ["Home", *SECTIONS, "Reference"]


def test_broken_links_missing_anchors_and_forgotten_pages_are_errors(tmp_path: Path) -> None:
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "install.md").open("a", encoding="utf-8") as page:
        page.write("\n[a](no-page.md) [b](serve.md#no-anchor) [c](../README.md) [d](/install.md)\n")
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n", "utf-8")
    (tmp_path / "docs" / "api.md").unlink()
    result = build(tmp_path, tmp_path / "out")
    assert result.returncode == 1 and "strict mode" in result.stdout + result.stderr
    said = re.sub(r"\n +- ", " ", result.stderr)
    warnings = [line for line in said.splitlines() if line.startswith("WARNING")]
    for fault in (
        "'no-page.md'",
        "#no-anchor",
        "'../README.md'",
        "'/install.md'",
        "forgotten.md",
        "reference to 'api.md'",
    ):
        assert [fault in line for line in warnings].count(True) == 1, (fault, said)


def test_every_link_of_the_site_leads_somewhere(pages: dict[Path, Page], site: Path) -> None:
    count = 0
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            folder = site if parts.path.startswith("/") else path.parent  # the page for what is missing is such a one
            target = (folder / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            assert target.is_file() or (target / "index.html").is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"
            count += 1
    assert count > 1000


def test_the_markdown_is_read_as_on_github(pages: dict[Path, Page]) -> None:
    """Lists that hang three spaces in, or follow a line without a gap, are lists there and text on the site."""
    for path in DOCS.glob("*.md"):
        text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert re.findall(r"^ {1,3}(?:[-*]|\d+\.) .*", text, re.MULTILINE) == [], f"{path.name}: four spaces in"
    read = {path.name: re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", page.html, re.DOTALL) for path, page in pages.items()}
    left = re.compile(r"^\s*(?:[-*|] |\d+\. |```)|\]\(|\*\*\w")
    assert sum(map(len, read.values())) > 500
    faults = [(name, shown(part)) for name, parts in read.items() for part in parts if left.search(shown(part))]
    assert [fault for fault in faults if "2**31" not in fault[1]] == []


# --- nothing from elsewhere


def test_nothing_is_fetched_from_another_host(pages: dict[Path, Page], site: Path) -> None:
    fetched = [(path.name, address) for path, page in pages.items() for address in page.fetched]
    for path in site.rglob("*.css"):
        fetched += [(path.name, address) for address in addresses(path.read_text("utf-8"))]
    for page in pages.values():
        fetched += [("style", one) for css in re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
                    for one in addresses(css)]  # fmt: skip
    assert len(fetched) > 200
    assert [(name, one) for name, one in fetched if not one.startswith("data:") and "//" in one] == []


@pytest.mark.slow
def test_it_is_read_and_searched_from_the_disk(site: Path, browser: Any) -> None:
    said: list[str] = []
    tab = browser.new_page()
    tab.set_default_timeout(120_000)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: said.append(request.url) if urlsplit(request.url).netloc else None)
    for name in ("index.html", "api.html", "confidence/answers-demo/report.html", "demo-head/report.html"):
        tab.goto((site / name).as_uri(), wait_until="networkidle")
    tab.goto((site / "index.html").as_uri())
    assert tab.locator("article img").evaluate("image => image.naturalWidth") > 500
    tab.get_by_role("link", name="First answer").first.click()
    assert tab.url.endswith("/first-answer.html") and "demo model" in tab.locator("article").inner_text()
    # wide screens show the field, narrow ones a button for it
    tab.locator(".md-search__input").press_sequentially("uncertain_spans")
    found = tab.locator(".md-search-result__item a").first
    found.wait_for(timeout=60_000)
    assert urlsplit(found.get_attribute("href")).path.endswith((".html", ".html/"))
    found.click()
    tab.wait_for_url(re.compile(r"/(api|uncertainty|confidence-tokens|cli)\.html"))
    tab.close()
    assert said == []


# --- the API reference


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_on_the_api_page_with_its_docstring(name: str, api: dict[str, str]) -> None:
    thing = getattr(darwin_neg_cpp, name)
    members = dict(inspect.getmembers(thing)) if inspect.isclass(thing) else {}
    expected = {name: thing} | {
        f"{name}.{member}": value
        for member, value in members.items()
        if not member.startswith("_") and member not in INTERNAL.get(name, ()) and is_ours(value)
    }
    for path, value in expected.items():
        text = words(shown(api[f"darwin_neg_cpp.{path}"]))
        assert words(inspect.getdoc(value) or "") in text, f"{path}\n{text}"


def is_ours(member: object) -> bool:
    """Whether a member of a class has a docstring in this package."""
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return inspect.isfunction(function) and "darwin_neg_cpp" in function.__module__ and bool(function.__doc__)


def test_the_version_is_mentioned(api: dict[str, str], pages: dict[Path, Page], site: Path) -> None:
    assert "darwin_neg_cpp.__version__" in shown(pages[site / "api.html"].html)


def test_signatures_are_those_of_the_program(api: dict[str, str]) -> None:
    """Names, kinds and defaults, which the site reads from the sources, against what Python makes of these."""
    compared = 0
    for path, html in api.items():
        code = re.search(r"doc-signature.*?<code>(.*?)</code>", html, re.DOTALL)
        value: Any = darwin_neg_cpp
        for part in path.split(".")[1:]:
            value = getattr(value, part, None)
        if code is None or not callable(value):
            continue
        (function,) = ast.parse(f"def {shown(code[1]).strip()}: ...").body
        assert isinstance(function, ast.FunctionDef), path
        real = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
        assert list(parameters(function.args)) == [(p.name, p.kind) for p in real], path
        for (_, default), parameter in zip(defaults(function.args), real, strict=True):
            if default is None:
                assert parameter.default is parameter.empty, f"{path}: {parameter}"
                continue
            assert parameter.default is not parameter.empty, f"{path}: {parameter}"
            try:
                written = eval(compile(ast.Expression(default), path, "eval"), {})
            except NameError:  # a constant of the module
                continue
            if repr(parameter.default) != "<factory>":
                assert written == parameter.default, f"{path}: {parameter}"
            compared += 1
    assert compared > 150


def parameters(args: ast.arguments) -> Iterator[tuple[str, object]]:
    """Names and kinds, as inspect has them."""
    kinds = inspect.Parameter
    for arg in args.args:
        yield arg.arg, kinds.POSITIONAL_OR_KEYWORD
    for arg in args.kwonlyargs:
        yield arg.arg, kinds.KEYWORD_ONLY
    if args.kwarg:
        yield args.kwarg.arg, kinds.VAR_KEYWORD


def defaults(args: ast.arguments) -> Iterator[tuple[str, ast.expr | None]]:
    required = len(args.args) - len(args.defaults)
    for arg, default in zip(args.args, [None] * required + args.defaults, strict=True):
        yield arg.arg, default
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield arg.arg, default
    if args.kwarg:
        yield args.kwarg.arg, None


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Does it.", "", "Does it."),
        ("Does it.\n\na: one. b, c (nats): two;\n    more. d: no field.", "a b c",
         "Does it.\n\n- `a`: one.\n- `b`, `c` (nats): two; more. d: no field."),
        ("a: first\nand last; b: second.\nAfter it.", "a b", "- `a`: first and last\n- `b`: second.\n\nAfter it."),
        ("a: one. Errors: E.", "a", "- `a`: one.\n\nErrors: E."),
        ("yarn_*, rope: two. x: other.", "yarn_base rope", "- `yarn_*`, `rope`: two. x: other."),
        ("a (0: off), b: more.", "a b", "- `a` (0: off), `b`: more."),
        ('("*q4*") and <model>, `a*b` too; see docs/cli.md.', "",
         '("\\*q4\\*") and &lt;model>, `a*b` too; see [docs/cli.md](cli.md).'),
    ],
)  # fmt: skip
def test_docstrings_become_lists_of_what_they_describe(
    text: str, names: str, expected: str, plugin: ModuleType
) -> None:
    assert plugin.as_markdown(text, names.split()) == expected


# --- links in the repository


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    out: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        out[slug] = out.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, count in out.items() for n in range(count + 1)}


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "examples" / "README.md"], ids=lambda path: path.name
)
def test_the_links_of_a_page_lead_to_files_of_the_repository(path: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = [urlsplit(link) for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    for link in links:
        if link.scheme:
            continue
        target = (path.parent / link.path).resolve() if link.path else path
        assert target.exists() and target.is_relative_to(ROOT), f"{path.name}: {link.path}"
        # the anchors of the API reference are made with the site
        if link.fragment and target.suffix == ".md" and target != DOCS / "api.md":
            assert link.fragment in slugs(target), f"{path.name}: {link.path}#{link.fragment}"
    assert path != ROOT / "README.md" or len(links) > 20
