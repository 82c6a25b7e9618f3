"""The command line of a verb that reads texts, as its report shows it."""

from __future__ import annotations

import argparse
import os
import shlex

from .options import without_folder
from .server_options import without_key


def command_with_texts(args: argparse.Namespace) -> str:
    """Returns the command line for the report: files without their folders, and a long list of texts as its number."""
    texts = [os.path.basename(name) for name in args.text]
    verb, *given = without_key(args.argv)
    words = []
    for word in given:
        if os.path.basename(word) not in texts:
            words.append(shlex.quote(without_folder(word)))
        elif texts and texts[0] == os.path.basename(word):
            words += map(shlex.quote, texts) if len(texts) <= 5 else [f"({len(texts)} files)"]
    return " ".join(["darwin-neg", verb, *words])
