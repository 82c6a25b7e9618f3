"""The shell of a self-contained web page: no network, no library, and a policy that lets only its own script run."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from string import Template
from typing import Any

from .shown_text import escape_html

SHELL, SHARED_STYLE = "page.html", "page.css"


def build_page(title: str, body: str, *, style: str, script: str | None = None, data: Any = None) -> str:
    """Puts the whole HTML document together.

    title: plain text. body: HTML, in which text from outside has been escaped. style, script: names of files of the
    package's data; without a script, the content security policy forbids all of them. data: for the script, which finds
    it as JSON in the element `#data`.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script is not None:
        source = read_data(script)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        body += f'\n<script type="application/json" id="data">{_inert_json(data)}</script>\n<script>{source}</script>'
    shell = Template(read_data(SHELL))
    styles = read_data(SHARED_STYLE) + read_data(style)
    return shell.substitute(policy=policy, title=escape_html(title), style=styles, body=body)


def read_data(name: str) -> str:
    """A text file of the package's data folder."""
    return resources.files(__package__.partition(".")[0]).joinpath("data").joinpath(name).read_text("utf-8")


def _inert_json(data: Any) -> str:
    # in ASCII, so that no character in it can turn or hide what stands around it in the page's source
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    # nothing in it may end the script element, or be read as its beginning
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
