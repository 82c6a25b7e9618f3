"""Lines of prompts: JSON objects with a prompt or a conversation each, and settings of their own."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checks import check_flag, check_text, json_text
from ..engine.chat import TemplateOptions, check_messages, check_template_options
from ..engine.token_ids import is_one_prompt
from ..errors import NegHeadError, RequestError
from ..files.input_file import not_a_text, shown, shown_path
from ..files.input_text import decode_text
from ..sampling import Neg, SamplingParams, merge

Messages = Sequence[Mapping[str, Any]]

IDS = ("custom_id", "id")
CONTENT = ("prompt", "messages")
NEG = ("neg", "return_neg")
# names that other programs' files have for our parameters
SAME = {"max_new_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}
IGNORED = ("model",)  # OpenAI's files must name one; the model that answers is the one that was loaded
SAMPLING = (*(parameter.name for parameter in dataclasses.fields(SamplingParams)), "top_logprobs", *SAME)
TEMPLATE = tuple(TemplateOptions.__annotations__)
KNOWN = (*IDS, *CONTENT, *SAMPLING, *TEMPLATE, *NEG, *IGNORED)
# OpenAI's batch files: the request in an envelope
ENVELOPE = (*IDS, "method", "url", "body")
URLS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
NAMES = re.compile(rf'(?<![\w."\'])(?:{"|".join(name for name in (*SAMPLING, *TEMPLATE) if "_" in name)})(?![\w"\'])')


@dataclass(frozen=True)
class Request:
    """One line. number: of the line in its file. id: as the line has it, or else that number.

    prompt: text or token ids; messages: a conversation; one of them is None. template: options of the chat template.
    return_neg: whether the answer lists the entropy of every token.
    """

    number: int
    id: str | int
    prompt: str | Sequence[int] | None
    messages: Messages | None
    params: SamplingParams
    template: Mapping[str, Any]
    return_neg: bool = False

    @cached_property
    def digest(self) -> str:
        """Differs where anything differs that the answer depends on."""
        fields = dataclasses.asdict(self)
        del fields["number"]
        text = json.dumps(fields, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]


def read_requests(
    data: bytes,
    name: str,
    *,
    params: SamplingParams | None = None,
    chat: bool = False,
    template: Mapping[str, Any] | None = None,
    return_neg: bool = False,
) -> list[Request]:
    """Reads a file of prompts, whose lines' own settings come before these.

    name: of the file, for errors. chat: a prompt of text is a user's message. template: options of the chat template.
    Errors: RequestError that names the line and the field.
    """
    if (wrong := not_a_text(data)) is not None:
        raise RequestError(f"{name}: {wrong}")
    base = _Base(params or SamplingParams(), check_flag("chat", chat), dict(template or {}), return_neg)
    check_template_options(base.template)
    check_flag("return_neg", return_neg)
    requests: list[Request] = []
    # not splitlines(): JSON may hold U+2028 as it is
    for number, line in enumerate(decode_text(data, f"{name}:", RequestError).split("\n"), start=1):
        if line.strip():
            try:
                requests.append(_read_line(number, line, base))
            except RequestError as error:
                raise RequestError(f"{name}: line {number}: {_quoted(str(error))}") from None
    if not requests:
        raise RequestError(
            f'{name}: holds no prompts; write one {{"prompt": ...}} or {{"messages": [...]}} on each line'
        )
    _check_ids(name, requests)
    return requests


def read_file(path: Path) -> bytes:
    """The content of a file of prompts; pipes are fine. Errors: RequestError."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(f"{shown_path(path)}: cannot be read ({why}); check the path") from None


def for_model(name: str, requests: Sequence[Request], *, has_head: bool) -> list[Request]:
    """The requests as a model takes them. Errors: NegHeadError for one that needs the head which the model lacks."""
    if has_head:
        return list(requests)
    taken = []
    for request in requests:
        neg = request.params.neg
        gates = neg is not None and neg.enabled and neg.action != "off"
        if gates or request.return_neg:
            raise NegHeadError(
                f'{name}: line {request.number}: asks for "{"neg" if gates else "return_neg"}", and the model has no '
                "NEG head; leave it out, or add a side-car"
            )
        taken.append(dataclasses.replace(request, params=dataclasses.replace(request.params, neg=None)))
    return taken


@dataclass(frozen=True)
class _Base:
    """Settings of lines that say nothing else."""

    params: SamplingParams
    chat: bool
    template: dict[str, Any]
    return_neg: bool


def _read_line(number: int, line: str, base: _Base) -> Request:
    fields = _fields(line)
    request_id = _id(number, fields)
    if "body" in fields:
        fields = _body(fields)
    if unknown := [field for field in fields if field not in KNOWN]:
        raise RequestError(_unknown(unknown[0], KNOWN))
    prompt, messages = _content(fields)
    template = {key: fields[key] for key in TEMPLATE if key in fields}
    if messages is None and isinstance(prompt, str) and base.chat:
        prompt, messages = None, [{"role": "user", "content": prompt}]
    if messages is None and template:
        raise RequestError(f'"{next(iter(template))}" is for conversations; write "messages" instead of "prompt"')
    check_template_options(template)
    return Request(
        number=number,
        id=request_id,
        prompt=prompt,
        messages=messages,
        params=_params(fields, base.params),
        template={} if messages is None else {**base.template, **template},
        return_neg=check_flag('"return_neg"', fields.get("return_neg", base.return_neg)),
    )


def _fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line, object_pairs_hook=_without_repeated)
    except RecursionError:
        raise RequestError("is nested too deeply; flatten it") from None
    except ValueError as error:
        column = getattr(error, "colno", 1)
        raise RequestError(f"column {column}: is not JSON; write one object on each line") from None
    if not isinstance(fields, dict):
        raise RequestError('is not an object; write {"prompt": ...} or {"messages": [...]}, one on each line')
    return fields


def _without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RequestError(f'"{shown(next(key for key in keys if keys.count(key) > 1))}" is given twice; give it once')
    return fields


def _id(number: int, fields: Mapping[str, Any]) -> str | int:
    given = [key for key in IDS if key in fields]
    if len(given) > 1:
        raise RequestError('"id" and "custom_id" are both given; give one')
    if not given:
        return number
    value = fields[given[0]]
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise RequestError(f'"{given[0]}" must be text or a whole number, got {shown(str(value)) or "nothing"}')
    return check_text(f'"{given[0]}"', value) if isinstance(value, str) else value


def _body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a line in OpenAI's envelope."""
    if unknown := [field for field in fields if field not in ENVELOPE]:
        raise RequestError(_unknown(unknown[0], ENVELOPE, 'beside "body"'))
    body, url = fields["body"], fields.get("url")
    if not isinstance(body, dict):
        raise RequestError('"body" must be an object with the fields of a request')
    if fields.get("method", "POST") != "POST":
        raise RequestError(f'"method" must be "POST", got {shown(str(fields["method"]))}')
    if url is not None:
        if url not in URLS:
            raise RequestError(f'"url" must be one of {", ".join(URLS)}, got {shown(str(url))}')
        if URLS[url] not in body:
            raise RequestError(f'"body" needs "{URLS[url]}" for {url}')
    if inside := [key for key in IDS if key in body]:
        raise RequestError(f'"{inside[0]}" belongs beside "body"')
    return body


def _unknown(field: str, known: Sequence[str], where: str = "") -> str:
    near = difflib.get_close_matches(field, known, 1)
    remedy = f'did you mean "{near[0]}"?' if near else "leave it out"
    return f'unknown field "{shown(field)}"{f" {where}" if where else ""}; {remedy}'


def _content(fields: Mapping[str, Any]) -> tuple[str | Sequence[int] | None, Messages | None]:
    given = [key for key in CONTENT if fields.get(key) is not None]
    if len(given) != 1:
        raise RequestError(
            '"prompt" and "messages" are both given; give one' if given else 'has neither "prompt" nor "messages"'
        )
    if given == ["messages"]:
        messages = fields["messages"]
        check_messages(messages)
        json_text("messages", messages)
        return None, messages
    prompt = fields["prompt"]
    if isinstance(prompt, str):
        return check_text('"prompt"', prompt), None
    if not is_one_prompt(prompt):
        raise RequestError('"prompt" must be text or a list of token ids; write a line for each of several prompts')
    return prompt, None


def _params(fields: Mapping[str, Any], base: SamplingParams) -> SamplingParams:
    given = {key: fields[key] for key in SAMPLING if key in fields and key != "neg"}
    for key, ours in SAME.items():
        if key in given:
            if ours in given:
                raise RequestError(f'"{ours}" and "{key}" are both given; give one')
            given[ours] = given.pop(key)
    if isinstance(given.get("logit_bias"), dict):
        # keys of JSON are texts
        given["logit_bias"] = {
            int(key) if key.isdecimal() else key: value for key, value in given["logit_bias"].items()
        }
    if "grammar" in given or "json_schema" in given:
        base = dataclasses.replace(base, grammar=None, json_schema=None)
    if "n" in given and isinstance(base.temperature, Sequence):
        base = dataclasses.replace(base, temperature=None)
    if fields.get("neg") is not None:
        given["neg"] = _neg(fields["neg"], base.neg)
    return merge(base, given)


def _neg(value: Any, base: Neg | None) -> Neg:
    """The field "neg", in the form that the HTTP server takes."""
    if value is False:
        return dataclasses.replace(base or Neg(), enabled=False)
    if value is True:
        return dataclasses.replace(base, enabled=True) if base is not None and base.action != "off" else Neg()
    if not isinstance(value, dict):
        raise RequestError('"neg" must be true, false or an object, as {"threshold": 1.5}')
    known = [field.name for field in dataclasses.fields(Neg)]
    if unknown := [field for field in value if field not in known]:
        raise RequestError(_unknown(unknown[0], known, 'in "neg"'))
    return dataclasses.replace(base or Neg(), **{key: item for key, item in value.items() if item is not None})


def _quoted(message: str) -> str:
    """The message with names of fields in quotes, as the line spells them."""
    message = re.sub(rf"^(?:{'|'.join(SAMPLING)})(?= )", lambda found: f'"{found[0]}"', message)
    return NAMES.sub(lambda found: f'"{found[0]}"', message)


def _check_ids(name: str, requests: Sequence[Request]) -> None:
    seen: dict[str, Request] = {}
    for request in requests:
        first = seen.setdefault(str(request.id), request)
        if first is not request:
            raise RequestError(
                f"{name}: line {request.number}: has the id {shown(str(request.id))!r}, like line {first.number}; give "
                "each line an id of its own"
            )


def input_name(path: str) -> str:
    """What errors call the file."""
    return "standard input" if path == "-" else shown_path(path)
