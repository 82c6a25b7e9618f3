"""Python in a process of its own that takes a server on loopback for the hub, whose address is read at import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 2  # how long the hub may be silent


def python(code: str, url: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` with `home` as the folder of all caches."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    variables |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "DARWIN_NEG_CACHE": str(home), "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": str(SECONDS)}
    variables |= {"HF_HUB_ETAG_TIMEOUT": str(SECONDS), **env}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=100)
