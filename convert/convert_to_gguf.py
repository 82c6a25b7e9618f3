#!/usr/bin/env python3
"""Converts a Hugging Face checkpoint to GGUF from a checkout of this repository; see --help.

The same as `darwin-neg convert`. It needs numpy, gguf and huggingface_hub, and nothing compiled.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

if __name__ == "__main__":
    try:
        from darwin_neg_cpp.cli.main import main
    except ImportError as error:
        sys.exit(f"convert_to_gguf: {error}; install what is missing with `pip install numpy gguf huggingface_hub`")
    sys.exit(main(["convert", *sys.argv[1:]]))
