"""The folder for files that can be downloaded or made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """Returns $DARWIN_NEG_CACHE, or this project's folder among the platform's caches. It may not exist yet."""
    if value := os.environ.get("DARWIN_NEG_CACHE"):
        return Path(value)
    if value := os.environ.get("XDG_CACHE_HOME"):
        return Path(value) / "darwin-neg-cpp"
    if sys.platform == "win32" and (value := os.environ.get("LOCALAPPDATA")):
        return Path(value) / "darwin-neg-cpp"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "darwin-neg-cpp"
    return Path.home() / ".cache" / "darwin-neg-cpp"
