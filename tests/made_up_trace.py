"""A trace without a model, with what a hostile one could write."""

from __future__ import annotations

from typing import Any

from darwin_neg_cpp.trace import Trace, TraceToken

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">]]>--></span>&amp;\u202eabc\x1b[31m\u2028'


# a direction override, an Arabic letter mark, zero-width space and joiner, a byte order mark, a tag letter, C1,
# a Hangul filler, a variation selector
UNSEEN = "\u202e\u061c\u200b\u200d\ufeff\U000e0041\x9b\u3164\ufe0f\x1b\u2029"


def made_up(texts: list[str], *, threshold: float | None = 1.0, prompt_tokens: int = 2) -> Trace:
    tokens = tuple(
        TraceToken(
            id=i,
            text=text,
            generated=i >= prompt_tokens,
            predicted=None if threshold is None or not i else (i * 0.37) % 6,
            true=(i * 0.31) % 6 if i else None,
            active=bool(threshold is not None and i and (i * 0.37) % 6 > threshold),
            logprob=-0.5 if i else None,
            top=((HOSTILE, 0.5), ("b", 0.25)) if i else (),
        )
        for i, text in enumerate(texts)
    )
    action: Any = None if threshold is None else "mask"
    return Trace("m<b>odel.gguf", "<i>source</i>", action, threshold, 20, prompt_tokens, tokens)
