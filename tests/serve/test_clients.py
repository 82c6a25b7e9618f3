"""The packages that people's programs use, against `darwin-neg serve`: their calls, their types, their exceptions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from darwin_neg_cpp.neg import files as neg_files
from http_server import EXACT, Models, Server
from tiny_gguf import write_tiny_llama

TOOL_CALL = "<tool_call>\n"  # one token, 258, so that a bias makes a random model begin a call; the grammar does more
CALLING = ("--logit-bias", "258+100", "--logit-bias", "257+200")  # and end after it, as soon as it may
KEY = "sk-of-the-tests"
MESSAGES: Any = [{"role": "user", "content": "hello"}]
N = 12
LETTERS = "root ::= [a-z ]+"  # a random model would write broken characters otherwise
TEXT = {"grammar": LETTERS, "ignore_eos": True}
NEG = {"neg": {"threshold": 0.5, "top_k": 5}, "return_neg": True}
LONG = (
    "--override-kv",
    "llama.context_length=int:8192",
)  # a token for each byte: tools take a thousand
# a random model fills in a form, as there is nothing else that it may write
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}
OPENAI_TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "now", "parameters": CITY}}
ANTHROPIC_TOOL: Any = {"name": "weather", "description": "now", "input_schema": CITY}


class City(BaseModel):
    city: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def model(server_models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    base = write_tiny_llama(folder / "base.gguf", tags=[TOOL_CALL])
    neg_files.attach(base, server_models.neg.with_name("neg_modules.safetensors"), folder / "tiny.gguf")
    return folder / "tiny.gguf"


def started(model: Path, llama_tree: Path, *more: str) -> Server:
    keys = model.with_name("keys")
    keys.write_text(f"# people\n{KEY}\n")
    template = llama_tree / "models" / "templates" / "Qwen-Qwen2.5-7B-Instruct.jinja"
    options = ["-m", model, "-c", 8192, "--n-parallel", 4, "-t", 1, "--api-key-file", keys, "--", "--no-warmup"]
    return Server(*options, "--chat-template-file", template, *LONG, *EXACT, *more, verb=("serve",))


@pytest.fixture(scope="module")
def server(model: Path, llama_tree: Path) -> Iterator[Server]:
    with started(model, llama_tree) as running:
        yield running
        assert KEY not in running.log.read_text()


@pytest.fixture(scope="module")
def caller(model: Path, llama_tree: Path) -> Iterator[Server]:
    """A server whose model begins with a call wherever it may."""
    with started(model, llama_tree, *CALLING) as running:
        yield running


def gpt_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0)


def claude_of(server: Server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key=KEY, max_retries=0)


@pytest.fixture
def gpt(server: Server) -> Iterator[openai.OpenAI]:
    with gpt_of(server) as client:
        yield client


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with claude_of(server) as client:
        yield client


def langchain(server: Server, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, model="any", temperature=0, max_retries=0, **options
    )


def are_among(values: list[float], others: list[float]) -> bool:
    """A prompt that is kept in memory is not rounded as one that was just read."""
    return all(min(abs(value - other) for other in others) < 2e-3 for value in values)


def chat(client: openai.OpenAI, **options: Any) -> Any:
    extra = {**TEXT, **options.pop("extra_body", {})}
    options = {"temperature": 0, "max_tokens": N, "messages": MESSAGES, **options}
    return client.chat.completions.create(model="any", extra_body=extra, **options)


# --- openai


def test_openai_chat_carries_neg(gpt: openai.OpenAI) -> None:
    reply = chat(gpt, extra_body=NEG)
    (choice,) = reply.choices
    neg, sums = choice.model_extra["neg"], reply.model_extra["timings"]["neg"]
    assert choice.finish_reason == "length" and reply.usage.completion_tokens == N == len(neg["entropy"])
    assert "".join(neg["tokens"]) == choice.message.content
    assert neg["active"] == [entropy > 0.5 for entropy in neg["entropy"]]
    assert sums["n_active"] == sum(neg["active"]) and sums["entropy_sum"] == pytest.approx(sum(neg["entropy"]))


def test_openai_stream_has_the_same_text_and_the_newest_entropy_in_each_chunk(gpt: openai.OpenAI) -> None:
    whole = chat(gpt, extra_body=NEG).choices[0]
    chunks = list(chat(gpt, stream=True, stream_options={"include_usage": True}, extra_body=NEG))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.message.content
    seen = [c.model_extra["neg"]["entropy"] for c in chunks if c.choices and c.choices[0].delta.content]
    assert len(seen) > 1 and are_among(seen, whole.model_extra["neg"]["entropy"])
    assert chunks[-1].usage.completion_tokens == N


def test_openai_n_stop_and_logprobs(gpt: openai.OpenAI) -> None:
    reply = chat(gpt, n=2, temperature=1.5, seed=3, logprobs=True, top_logprobs=2, extra_body=NEG)
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[0].message.content != reply.choices[1].message.content
    for choice in reply.choices:
        entries = choice.logprobs.content
        assert len(entries) == N and all(len(entry.top_logprobs) == 2 for entry in entries)
        assert [entry.model_extra["neg"]["entropy"] for entry in entries] == choice.model_extra["neg"]["entropy"]
    text = chat(gpt).choices[0].message.content
    stop = text[5:7]
    ended = chat(gpt, stop=[stop]).choices[0]
    assert ended.finish_reason == "stop" and ended.message.content == text[: text.index(stop)]


def test_openai_tools_whole_and_streamed(caller: Server) -> None:
    gpt = gpt_of(caller)
    options: Any = {"tools": [OPENAI_TOOL], "tool_choice": "required", "temperature": 0, "max_tokens": 400}
    options["parallel_tool_calls"] = False
    reply = gpt.chat.completions.create(model="any", messages=MESSAGES, **options)
    calls = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls" and calls
    for call in calls:
        assert call.function.name == "weather" and City.model_validate_json(call.function.arguments)
    streamed = [""] * len(calls)
    for chunk in gpt.chat.completions.create(model="any", messages=MESSAGES, stream=True, **options):
        for piece in (piece for choice in chunk.choices for piece in choice.delta.tool_calls or ()):
            streamed[piece.index] += piece.function.arguments or ""
    assert [json.loads(text) for text in streamed] == [json.loads(call.function.arguments) for call in calls]
    again: Any = [*MESSAGES, reply.choices[0].message.model_dump(exclude_none=True)]
    again += [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    assert chat(gpt, messages=again, max_tokens=1).usage.prompt_tokens > 100


def test_openai_parses_answers_that_follow_a_schema(gpt: openai.OpenAI) -> None:
    reply = gpt.chat.completions.parse(model="any", messages=MESSAGES, response_format=City, max_tokens=100)
    assert reply.choices[0].message.parsed.city in ("Paris", "Rome")


def test_openai_completions_and_responses(gpt: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "any", "temperature": 0, "extra_body": {**TEXT, **NEG}}
    completion = gpt.completions.create(prompt="hello", max_tokens=N, **options)
    assert completion.choices[0].model_extra["neg"]["mean_entropy"] > 0
    response = gpt.responses.create(input="hello", max_output_tokens=N, **options)
    assert response.output_text and len(response.model_extra["neg"]["tokens"]) == N
    stream = gpt.responses.create(input="hello", max_output_tokens=N, stream=True, **options)
    deltas = [event for event in stream if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == response.output_text
    assert all("entropy" in event.model_extra["neg"] for event in deltas)
    assert gpt.responses.input_tokens.count(model="any", input="hello").input_tokens == response.usage.input_tokens


def test_openai_lists_the_model_by_its_name_and_not_by_its_path(gpt: openai.OpenAI) -> None:
    assert [model.id for model in gpt.models.list()] == ["tiny"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"extra_body": {"neg": {"top_k": 0}}}, "BadRequestError", "neg.top_k must be"),
        ({"extra_body": {"neg": {"treshold": 1}}}, "BadRequestError", "treshold"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, "BadRequestError", "context"),
        ({"messages": "hello"}, "BadRequestError", "messages"),
    ],
)
def test_openai_errors_are_of_the_class_that_is_documented(
    gpt: openai.OpenAI, options: dict[str, Any], error: str, said: str
) -> None:
    with pytest.raises(getattr(openai, error)) as caught:
        chat(gpt, **options)
    assert said in caught.value.message


def test_a_wrong_key_a_wrong_path_and_no_server_have_classes_of_their_own(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}"
    with pytest.raises(openai.AuthenticationError):
        chat(openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0))
    with pytest.raises(openai.NotFoundError):
        chat(openai.OpenAI(base_url=f"{url}/v7", api_key=KEY, max_retries=0))
    with pytest.raises(openai.APIConnectionError):
        chat(openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key=KEY, max_retries=0))
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0).messages.create(
            model="any", max_tokens=1, messages=MESSAGES
        )


def test_a_full_queue_is_retried_until_there_is_room(server_models: Models) -> None:
    long: dict[str, Any] = {"model": "any", "messages": MESSAGES, "extra_body": TEXT, "max_tokens": 3000}
    options = ("-m", server_models.neg, "-c", 4096, "--n-parallel", 1, "-t", 1, "--max-queue", 0, "--", "--no-warmup")
    options += LONG
    with Server(*options, verb=("serve",)) as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(stream=True, **long)
        next(iter(stream))
        with pytest.raises(openai.InternalServerError) as caught:
            chat(client)
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "1"
        stream.close()
        assert chat(client.with_options(max_retries=10)).usage.completion_tokens == N


def test_openai_async_streams_side_by_side(server: Server) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model="any", messages=MESSAGES, max_tokens=N, temperature=0, stream=True, extra_body=TEXT
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY) as client:
            return await asyncio.gather(*(ask(client) for _ in range(8)))

    texts = asyncio.run(main())
    assert len(texts) == 8 and all(len(text) >= N for text in texts)


# --- anthropic


def ask_claude(client: anthropic.Anthropic, **options: Any) -> Any:
    extra = {"temperature": 0, **options.pop("extra_body", {})}
    return client.messages.create(
        **{"model": "any", "max_tokens": N, "messages": MESSAGES, "extra_body": extra, **options}
    )


def test_anthropic_message_and_stream_carry_neg(claude: anthropic.Anthropic) -> None:
    reply = ask_claude(claude, extra_body=NEG, system="Be short.")
    neg = reply.model_extra["neg"]
    assert reply.stop_reason == "max_tokens" and len(neg["tokens"]) == N == reply.usage.output_tokens
    assert "".join(neg["tokens"]) == reply.content[0].text
    entropies = []
    with claude.messages.stream(
        model="any", max_tokens=N, messages=MESSAGES, system="Be short.", extra_body={**NEG, "temperature": 0}
    ) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                entropies.append(event.model_extra["neg"]["entropy"])
    assert stream.get_final_text() == reply.content[0].text
    assert len(entropies) > 1 and are_among(entropies, neg["entropy"])


def test_anthropic_tools(caller: Server) -> None:
    claude = claude_of(caller)
    options: Any = {"max_tokens": 400, "tools": [ANTHROPIC_TOOL], "extra_body": {"temperature": 0}}
    options["tool_choice"] = {"type": "any"}
    reply = claude.messages.create(model="any", messages=MESSAGES, **options)
    calls = [block for block in reply.content if block.type == "tool_use"]
    # nothing that Anthropic's API has forbids further calls here, so that the model makes them until it must stop
    assert reply.stop_reason in ("tool_use", "max_tokens") and calls
    assert all(call.name == "weather" and call.input["city"] in ("Paris", "Rome") for call in calls[:1])
    fields = {"type", "id", "name", "input"}
    again: Any = [*MESSAGES, {"role": "assistant", "content": [call.model_dump(include=fields) for call in calls]}]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    again.append({"role": "user", "content": results})
    counts = [claude.messages.count_tokens(model="any", messages=one).input_tokens for one in (MESSAGES, again)]
    assert counts[0] < counts[1]


def test_anthropic_stop_sequences_and_token_counts(claude: anthropic.Anthropic) -> None:
    stop = re.findall("[a-z]", ask_claude(claude, max_tokens=60).content[0].text)[-1]
    ended = ask_claude(claude, max_tokens=60, stop_sequences=[stop])
    # llama.cpp names the sequence, and calls the reason an end of the turn
    assert (ended.stop_reason, ended.stop_sequence) == ("end_turn", stop) and ended.usage.output_tokens < 60
    counted = claude.messages.count_tokens(model="any", messages=MESSAGES)
    assert counted.input_tokens == ended.usage.input_tokens + (ended.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra_body": {"neg": {"threshold": -1}}}, "neg.threshold must be"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, "context"),
    ],
)
def test_anthropic_errors_are_bad_requests(claude: anthropic.Anthropic, options: dict[str, Any], said: str) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask_claude(claude, **options)
    assert said in str(caught.value)


# --- langchain


def test_langchain_invokes_streams_and_reports_log_probabilities(server: Server) -> None:
    model = langchain(server, max_tokens=N, extra_body={**TEXT, **NEG})
    reply = model.invoke("hello")
    assert isinstance(reply, AIMessage) and reply.usage_metadata["output_tokens"] == N
    assert "".join(part.text for part in model.stream("hello")) == reply.text
    entries = model.bind(logprobs=True, top_logprobs=1).invoke("hello").response_metadata["logprobs"]["content"]
    assert [set(entry["neg"]) for entry in entries] == [{"entropy", "active"}] * N


def test_langchain_calls_tools_and_fills_in_forms(server: Server, caller: Server) -> None:
    model = langchain(caller, max_tokens=400)
    calls = (
        model.bind_tools([OPENAI_TOOL], tool_choice="required", parallel_tool_calls=False).invoke("hello").tool_calls
    )
    assert calls and all(call["name"] == "weather" and call["args"]["city"] in ("Paris", "Rome") for call in calls)
    form = langchain(server, max_tokens=400).with_structured_output(City, method="json_schema").invoke("hello")
    assert isinstance(form, City)
