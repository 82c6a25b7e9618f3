"""What a request came to: an answer in OpenAI's form, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ContextFullError, DarwinNegError, ModelFileError, NegHeadError, OutputError, RequestError
from ..files.shown_text import replace_surrogates
from ..results import ChatReply, Generation
from .requests import Request

if TYPE_CHECKING:
    from ..llm import DarwinNEG

# of the request, not of the machine: the same request would fail again
REFUSED = (RequestError, NegHeadError, ModelFileError, OutputError)
# ends of lines for some readers, which JSON may hold as they are
LINE_ENDS = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"}


@dataclass(frozen=True)
class Reply:
    """body: OpenAI's object; None where there is none, and then code and message say why.

    fault: whether that was the machine's, so that other requests may fail as well.
    """

    body: dict[str, Any] | None
    code: str = ""
    message: str = ""
    fault: bool = False


async def answer(llm: DarwinNEG, request: Request) -> Reply:
    """Answers one request. Errors of this package become a reply that says so."""
    try:
        out: Any
        if request.messages is not None:
            template: Any = request.template
            out = await llm.achat(request.messages, request.params, **template)
        else:
            assert request.prompt is not None
            out = await llm.agenerate(request.prompt, request.params)
    except ContextFullError as error:
        return Reply(None, "context_length_exceeded", str(error))
    except REFUSED as error:
        return Reply(None, "invalid_request", str(error))
    except DarwinNegError as error:
        return Reply(None, "server_error", str(error), fault=True)
    samples = out if isinstance(out, list) else [out]
    if all(sample.finish_reason == "cancelled" for sample in samples):
        return Reply(None, "cancelled", "the request was cancelled", fault=True)
    return Reply(_join(samples, return_neg=request.return_neg))


def encode(request: Request, reply: Reply) -> bytes:
    """The line of an answer, in the form of OpenAI's batch files."""
    response = None
    if reply.body is not None:
        response = {"status_code": 200, "request_id": reply.body["id"], "body": reply.body}
    line = {
        "id": f"batch_req_{request.digest}",
        "custom_id": request.id,
        "response": response,
        "error": None if reply.body is not None else {"code": reply.code, "message": reply.message},
    }
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    for end, escaped in LINE_ENDS.items():
        text = text.replace(end, escaped)
    return replace_surrogates(text).encode() + b"\n"


def _join(samples: Sequence[Generation | ChatReply], *, return_neg: bool) -> dict[str, Any]:
    """One object with a choice for each sample. return_neg: with the entropy of every token, too."""
    bodies = [sample.to_openai() for sample in samples]
    choices = [choice for body in bodies for choice in body["choices"]]
    for choice in choices:
        if "neg" in choice and not return_neg:
            choice["neg"] = {name: choice["neg"][name] for name in ("activation_rate", "mean_entropy")}
    first = bodies[0]
    tokens = sum(body["usage"]["completion_tokens"] for body in bodies)
    usage = {**first["usage"], "completion_tokens": tokens, "total_tokens": first["usage"]["prompt_tokens"] + tokens}
    return {**first, "choices": choices, "usage": usage}
