"""llama.cpp's HTTP server. Typed for darwin_neg_cpp itself; users take darwin_neg_cpp.serve."""

from collections.abc import Sequence

def llama_server(argv: Sequence[str]) -> int: ...
