"""Options of a chat template, checked before anything is rendered: each is obeyed, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import check_choice, check_flag, json_text, shown
from ..errors import RequestError
from ..json_schema import keywords, llama

CHOICES = ("auto", "none", "required")

# what a template gets from the conversation, from the vocabulary or from the template engine
RESERVED = {
    "messages": "pass messages",
    "tools": "pass tools=",
    "tool_choice": "pass tool_choice=",
    "add_generation_prompt": "pass add_generation_prompt= to apply_chat_template",
    "continue_final_message": "it is not a variable of templates",
    "chat_template": "pass chat_template= when loading the model",
    "json_schema": "pass json_schema=",
    **dict.fromkeys(("bos_token", "eos_token"), "it comes from the vocabulary"),
    **dict.fromkeys(
        ("loop", "range", "namespace", "raise_exception", "strftime_now", "true", "false", "none"),
        "it belongs to the template language",
    ),
}


@dataclass(frozen=True)
class Tools:
    """tools: OpenAI's list, as it is shown to the model. choice: one of CHOICES. callable: those that it may call."""

    tools: list[Mapping[str, Any]]
    choice: str
    callable: list[Mapping[str, Any]]


def read_kwargs(kwargs: Mapping[str, Any] | None, enable_thinking: object = None) -> tuple[dict[str, Any], bool | None]:
    """More variables of the template, and the switch, which may be given as one of them; None: the template's own."""
    thinking = None if enable_thinking is None else check_flag("enable_thinking", enable_thinking)
    if kwargs is None:
        return {}, thinking
    if not isinstance(kwargs, Mapping):
        raise RequestError(f"chat_template_kwargs must be a dict, got {type(kwargs).__name__}")
    variables = dict(kwargs)
    for name in variables:
        if not isinstance(name, str) or not name.isidentifier():
            raise RequestError(f"chat_template_kwargs: {shown(name)} is not a name that a template can use; rename it")
        if name.lower() in RESERVED:
            raise RequestError(f"chat_template_kwargs: {name!r} is reserved: {RESERVED[name.lower()]}")
    if "enable_thinking" in variables:
        value = variables.pop("enable_thinking")
        same = None if value is None else check_flag('chat_template_kwargs["enable_thinking"]', value)
        if None not in (thinking, same) and thinking is not same:
            raise RequestError(
                f"enable_thinking={thinking} and chat_template_kwargs say different things; give one of them"
            )
        thinking = thinking if same is None else same
    return variables, thinking


def read_tools(tools: Sequence[Mapping[str, Any]] | None, tool_choice: object = "auto") -> Tools:
    """OpenAI's tools and tool_choice, which is one of CHOICES or a dict that names a function."""
    if tools is not None and (
        not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools)
    ):
        raise RequestError('tools must be a list like [{"type": "function", "function": {"name": ...}}]')
    offered = [_without_empty_description(tool) for tool in tools or ()]
    for tool in offered:
        _check_strict(tool)
    choice, names = _read_choice("auto" if tool_choice is None else tool_choice)
    if not offered:
        if choice == "required":
            raise RequestError(f"tool_choice={shown(tool_choice)} needs tools; pass tools=, or leave it out")
        return Tools([], "auto", [])
    if names is None:
        return Tools(offered, choice, offered)
    known = {_name(tool): tool for tool in offered}
    if missing := [name for name in names if name not in known]:
        raise RequestError(
            f"tool_choice names the function {shown(missing[0])}, which is not in tools; there are "
            + ", ".join(sorted(shown(name) for name in known if name is not None))
        )
    return Tools(offered, choice, [known[name] for name in names])


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """JSON for the engine, "" for no tools."""
    return json_text("tools", list(tools)) if tools else ""


def _check_strict(tool: Mapping[str, Any]) -> None:
    """Arguments of a call follow what llama.cpp makes of their schema, which for `strict` must be all of it."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or function.get("strict") is not True:
        return
    parameters = function.get("parameters", {})
    keywords.check(parameters, f"the parameters of {shown(function.get('name'))}, #")
    if not llama.obeys(parameters):
        raise RequestError(
            f"tools: the parameters of {shown(function.get('name'))} are strict, but have keywords that llama.cpp does "
            "not enforce in calls (patterns, bounds below zero ...); leave them out, or leave out strict"
        )


def _without_empty_description(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as classes of data write it out: what has no description has None, and llama.cpp wants text."""
    function = tool.get("function")
    if isinstance(function, Mapping) and function.get("description", "") is None:
        return {**tool, "function": {name: value for name, value in function.items() if name != "description"}}
    return tool


def _read_choice(tool_choice: object) -> tuple[str, list[str] | None]:
    """The word, and the names of the functions that may be called; None for all of them."""
    if not isinstance(tool_choice, Mapping):
        try:
            return check_choice("tool_choice", tool_choice, CHOICES), None
        except RequestError as error:
            example = '{"type": "function", "function": {"name": ...}}'
            raise RequestError(f"{error}; a dict like {example} names a function") from None
    kind = tool_choice.get("type")
    if kind == "function":
        name = _name(tool_choice)
        if name is not None:
            return "required", [name]
    if kind == "allowed_tools":
        allowed = tool_choice.get("allowed_tools", tool_choice)
        entries = allowed.get("tools") if isinstance(allowed, Mapping) else None
        names = [_name(tool) for tool in entries] if isinstance(entries, (list, tuple)) else []
        if names and None not in names:
            mode = check_choice("tool_choice: mode", allowed.get("mode", "auto"), ("auto", "required"))
            return mode, [name for name in names if name is not None]
    raise RequestError(
        'tool_choice must be "auto", "none", "required" or a dict like {"type": "function", "function": {"name": ...}},'
        f" got {shown(dict(tool_choice))}"
    )


def _name(tool: object) -> str | None:
    """The name of a function, which stands in "function" or beside the type."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else None
