"""Requests on their way into the engine, and news of them on the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ContextFullError, DarwinNegError, RequestError, one_line
from ..sampling import SamplingParams, fill_in, to_engine_values
from . import grammar_errors
from .token_ids import name_prompt

if TYPE_CHECKING:
    from .._core import ChatPrompt as ChatPrompt  # noqa: PLC0414 (rooms above take these types from here)
    from .._core import Engine, Inbox, RequestParams
    from .._core import Requests as Requests  # noqa: PLC0414
    from .._core import Update as Update  # noqa: PLC0414

NotifyName = Literal["token", "sample", "request"]


def request_params(params: SamplingParams, notify: NotifyName) -> RequestParams:
    """The parameters as the engine takes them. notify: what the inbox is told of.

    token: any new token. sample: samples that have ended, each whole. request: one update, when all samples have ended.
    """
    from .. import _core

    values = to_engine_values(params)
    if "neg_action" in values:
        values["neg_action"] = _core.NegAction.__members__[values["neg_action"]]
    return _core.RequestParams(**values, notify=_core.Notify.__members__[notify])


def submit(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    inbox: Inbox,
    notify: NotifyName,
    chat: ChatPrompt | None = None,
    *,
    defaults: Mapping[str, Any],
) -> Requests:
    """Starts a request for each prompt, or with an error none of them. Dropping what it returns cancels them.

    defaults: of the model, for parameters that `params` does not set.
    Bind the result inside the `try` whose `finally` releases it: an exception may come between any two steps of Python.
    """
    if chat is None and params.reasoning_budget_tokens is not None:
        raise RequestError("reasoning_budget_tokens is for chat answers alone; leave it out, or use chat")
    values = request_params(fill_in(params, defaults), notify)
    try:
        with one_line():
            return engine.submit(prompts, values, inbox, chat)
    except ContextFullError as error:
        raise ContextFullError(name_prompt(str(error), prompts)) from None
    except RequestError as error:
        if (said := name_prompt(str(error), prompts)) != str(error):
            raise RequestError(said) from None
        schema = to_engine_values(params)["json_schema"]
        raise grammar_errors.explain(error, schema, of_template=chat is not None and params.grammar is None) from None


def next_update(inbox: Inbox) -> Update:
    """Waits for the next update, which comes even if the model is closed. Ctrl-C raises KeyboardInterrupt."""
    update = inbox.wait()
    if update is None:  # somebody has closed the inbox
        raise DarwinNegError("the request was dropped while its answer was waited for")
    return update
