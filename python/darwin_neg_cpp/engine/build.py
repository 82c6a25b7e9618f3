"""How the compiled engine was built."""

from __future__ import annotations


def build_info() -> dict[str, str]:
    """llama.cpp's commit, the patches' key, and the compiler's options."""
    from .. import _core

    return _core.build_info()
