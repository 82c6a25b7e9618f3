"""llama.cpp's log as Python logging. Silent unless the application configures a handler."""

from __future__ import annotations

import logging
import re

logger = logging.getLogger("darwin_neg_cpp.llama")
# Not worth a warning: seven lines, most of them empty or in capitals, about a file without tokenizer.ggml.pre, of which
# the session says it in one; a full memory, in which the engine then makes room; and no room for a kept prefix.
DETAILS = re.compile(
    r"missing pre-tokenizer type|^load: [A-Z!* ]*$|failed to find a memory slot|^state_(read_meta|seq_set_data): "
)
logger.addHandler(logging.NullHandler())


def forward() -> None:
    """Hands what llama.cpp has logged since the last call to the logger `darwin_neg_cpp.llama`.

    Called after loading, after each request and on close, from Python's side: the engine's threads never take
    Python's lock.
    """
    from .. import _core

    for level, line in _core.drain_log():
        logger.log(logging.DEBUG if DETAILS.search(line) else level, "%s", line)
