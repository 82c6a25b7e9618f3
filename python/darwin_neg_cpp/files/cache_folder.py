"""Where files that can be rebuilt are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """$DARWIN_NEG_CACHE, or the platform's cache folder for this project. May not exist yet."""
    if value := os.environ.get("DARWIN_NEG_CACHE"):
        return Path(value)
    if value := os.environ.get("XDG_CACHE_HOME"):
        return Path(value) / "darwin-neg-cpp"
    if sys.platform == "win32" and (value := os.environ.get("LOCALAPPDATA")):
        return Path(value) / "darwin-neg-cpp"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "darwin-neg-cpp"
    return Path.home() / ".cache" / "darwin-neg-cpp"
