"""Text, ends and limits: stop strings, UTF-8, context, log-probabilities, grammars, chat templates."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from darwin_neg_cpp import ContextFullError, DarwinNEG, DarwinNegError, Neg, RequestError

GREEDY = {"temperature": 0.0, "max_tokens": 40}


def test_stop_string_across_token_borders_ends_the_text_before_it(smol):
    free = smol.generate("The capital of France is", **GREEDY)
    pieces = [smol.detokenize([token]) for token in free.token_ids.tolist()]
    assert len(pieces) > 8
    # from the middle of one token to the middle of a later one
    start = len("".join(pieces[:4])) + len(pieces[4]) // 2
    stop = free.text[start : start + len(pieces[4]) + 3]
    assert not any(stop in piece for piece in pieces)
    got = smol.generate("The capital of France is", stop=stop, **GREEDY)
    assert (got.finish_reason, got.stop) == ("stop", stop)
    assert got.text == free.text[: free.text.index(stop)]
    streamed = list(smol.stream("The capital of France is", stop=[stop, "never there"], **GREEDY))
    assert "".join(chunk.text for chunk in streamed) == got.text


def test_text_that_might_become_a_stop_string_is_held_back(smol):
    free = smol.generate("The capital of France is", **GREEDY)
    stop = free.text[10:16] + "\x00never"
    shown = ""
    for chunk in smol.stream("The capital of France is", stop=stop, **GREEDY):
        shown += chunk.text
    assert shown == free.text


def test_stream_pieces_join_to_the_text_and_to_the_tokens(smol):
    whole = smol.generate("Write a haiku about the sea:", **GREEDY)
    chunks = list(smol.stream("Write a haiku about the sea:", **GREEDY))
    assert len(chunks) > 5
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert np.concatenate([chunk.token_ids for chunk in chunks]).tolist() == whole.token_ids.tolist()
    assert all("".join(chunk.pieces) == chunk.text and len(chunk.pieces) == len(chunk.token_ids) for chunk in chunks)
    assert chunks[-1].finish_reason == whole.finish_reason and all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_utf8_is_held_back_until_complete(tiny_llama):
    """A byte-level vocabulary and a grammar that wants exactly one long character: every piece shown is whole."""
    with DarwinNEG(tiny_llama, n_ctx=256, n_parallel=2) as llm:
        chunks = list(llm.stream("a", grammar='root ::= "안녕😀" "é"', max_tokens=40, temperature=0.0))
        assert "".join(chunk.text for chunk in chunks) == "안녕😀é"
        pieces = [piece for chunk in chunks for piece in chunk.pieces]
        assert pieces[:3] == ["", "", "안"]
        cut = llm.generate("a", grammar='root ::= "안녕"', max_tokens=4, temperature=0.0)
        assert (cut.text, cut.finish_reason) == ("안\ufffd", "length")


def test_random_bytes_come_out_as_valid_text(tiny_llama):
    with DarwinNEG(tiny_llama, n_ctx=512, n_parallel=2) as llm:
        for seed in range(5):
            chunks = list(llm.stream("x", temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, max_tokens=200, seed=seed))
            raw = llm.session.engine.detokenize(np.concatenate([c.token_ids for c in chunks]).tolist(), False)
            assert "".join(chunk.text for chunk in chunks) == raw.decode("utf-8", "replace")


def test_end_token_and_max_tokens(smol):
    answer = smol.chat([{"role": "user", "content": "Say only: yes"}], temperature=0.0, max_tokens=100)
    assert answer.finish_reason == "stop"
    assert answer.token_ids[-1] == smol.info["eos"]
    longer = smol.generate("Count: 1, 2, 3,", temperature=0.0, max_tokens=7)
    assert (longer.finish_reason, len(longer.token_ids)) == ("length", 7)
    assert smol.generate("Hello", max_tokens=0).token_ids.size == 0
    assert smol.generate("Hello", max_new_tokens=3, temperature=0.0).token_ids.size == 3


def test_full_context_ends_with_length_and_leaves_neighbours_alone(smollm2):
    with DarwinNEG(smollm2.model, n_ctx=256, n_parallel=4) as llm:
        endless = llm.tokenize("word " * 200)
        assert 200 <= len(endless) < 256
        alone = llm.generate(endless, temperature=0.0, ignore_eos=True)
        assert alone.finish_reason == "length"
        assert len(endless) + len(alone.token_ids) == 257  # the last token needs no cell of its own
        first, second = llm.generate(
            ["Hello, my name is", "The sky is"], temperature=0.0, max_tokens=150, ignore_eos=True
        )
        assert len(first.token_ids) == len(second.token_ids) == 150
        assert llm.stats()["n_preempted"] >= 1, "two of 150 tokens cannot fit 256 cells at once"
        assert llm.stats()["n_seq_used"] == 0 and llm.stats()["kv_cells_used"] == 0
        with pytest.raises(ContextFullError, match="256"):
            llm.generate("word " * 400)
        assert llm.generate("Hello", temperature=0.0, max_tokens=4).text


def test_logprobs_are_those_of_the_plain_distribution(smollm2):
    # in F32 throughout: quantized kernels round differently in another batch shape
    f32 = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
    with DarwinNEG(smollm2.f32, n_ctx=256, n_parallel=1, **f32) as llm:
        prompt = llm.tokenize("The opposite of hot is")
        out = llm.generate(
            prompt,
            temperature=0.9,
            seed=2,
            max_tokens=12,
            logprobs=4,
            repeat_penalty=1.5,
            neg=Neg(threshold=0.0, top_k=3),
        )
        logits = llm.session.engine.score([prompt + out.token_ids.tolist()], logits=True)["logits"].astype(np.float64)
    logits = logits[len(prompt) - 1 : len(prompt) - 1 + len(out.token_ids)]
    log_p = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )
    np.testing.assert_allclose(out.logprobs.chosen, log_p[np.arange(len(out.token_ids)), out.token_ids], atol=1e-3)
    assert (np.diff(out.logprobs.top, axis=1) <= 0).all()
    np.testing.assert_allclose(out.logprobs.top, np.take_along_axis(log_p, out.logprobs.top_ids, 1), atol=1e-3)


def test_json_schema_and_grammar_are_followed(smol):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
    }
    whole = 0
    for seed in range(6):
        out = smol.generate("Paris as JSON:", json_schema=schema, temperature=1.0, seed=seed, max_tokens=200)
        if out.finish_reason == "stop":
            value = json.loads(out.text)
            assert isinstance(value["city"], str) and isinstance(value["people"], int)
            whole += 1
    assert whole >= 3
    picked = smol.generate("Yes or no?", grammar='root ::= "yes" | "no"', temperature=0.0, max_tokens=20)
    assert picked.text in ("yes", "no") and picked.finish_reason == "stop"


def test_gate_never_empties_what_a_grammar_allows(smol):
    out = smol.generate(
        "Once",
        grammar='root ::= "zzqx" [0-9]+ "!"',
        neg=Neg(threshold=0.0, top_k=1),
        temperature=1.5,
        seed=1,
        max_tokens=12,
    )
    assert out.text.startswith("zzqx")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": "nonsense"}, "grammar"),
        ({"grammar": "root ::= root"}, "grammar"),
        ({"grammar": "(" * 5000}, "nested"),
        ({"json_schema": "{not json"}, "json_schema"),
        ({"json_schema": {"type": "no such type"}}, "json_schema"),
        (
            {
                "json_schema": json.dumps({"type": "array", "items": {}}).replace(
                    "{}", '{"not":' * 300 + "{}" + "}" * 300
                )
            },
            "nested",
        ),
        ({"logit_bias": {10**7: 1.0}}, "vocabulary"),
        ({"logprobs": 10**7}, "logprobs"),
        ({"stop": [""]}, "stop"),
        ({"neg": Neg(threshold=float("inf"), top_k=1), "temperature": -1.0}, "temperature"),
    ],
)
def test_bad_request_is_one_clear_error_and_harms_nothing(smol, options, words):
    with pytest.raises(RequestError, match=words) as caught:
        smol.generate("Hello", max_tokens=4, **options)
    assert "\n" not in str(caught.value)
    assert smol.generate("Hello", max_tokens=2, temperature=0.0).token_ids.size == 2


def test_impossible_grammar_is_an_error_of_that_request(tiny_llama):
    """Banning what the grammar wants leaves no token: an error, never an abort."""
    with DarwinNEG(tiny_llama, n_ctx=128, n_parallel=2) as llm:
        ban = dict.fromkeys(llm.tokenize("q", add_special=False), -math.inf)
        with pytest.raises(RequestError, match="no token"):
            llm.generate("hello", grammar='root ::= "q"', logit_bias=ban, max_tokens=8)
        assert llm.generate("hello", max_tokens=4).token_ids.size > 0


def test_logit_bias_and_penalties_act(smol):
    first = smol.generate("The capital of France is", temperature=0.0, max_tokens=1)
    banned = smol.generate(
        "The capital of France is", temperature=0.0, max_tokens=1, logit_bias={int(first.token_ids[0]): -math.inf}
    )
    assert banned.token_ids[0] != first.token_ids[0]
    # the gate comes before biases, as it acts on the model's own logits; off, so that a token outside its top k can win
    wanted = smol.tokenize("zebra", add_special=False)[0]
    assert (
        smol.generate(
            "Hi", temperature=0.0, max_tokens=1, logit_bias={wanted: 100.0}, neg=Neg(enabled=False)
        ).token_ids[0]
        == wanted
    )
    loop = smol.generate("la la la la la", temperature=0.0, max_tokens=40, ignore_eos=True)
    varied = smol.generate(
        "la la la la la", temperature=0.0, max_tokens=40, ignore_eos=True, repeat_penalty=1.8, repeat_last_n=-1
    )
    assert len(set(varied.token_ids.tolist())) > len(set(loop.token_ids.tolist()))


@pytest.mark.parametrize(
    "penalty", [{"frequency_penalty": 100.0}, {"presence_penalty": 100.0}, {"repeat_penalty": 100.0}], ids=str
)
def test_penalties_look_back_into_the_prompt_as_far_as_repeat_last_n(smol, penalty):
    prompt = smol.tokenize("A B C A B C A B C A B C A B")
    greedy = {"temperature": 0.0, "max_tokens": 1}
    free = int(smol.generate(prompt, **greedy).token_ids[0])
    assert free in prompt and free != prompt[-1], "else there is nothing to show"
    assert int(smol.generate(prompt, repeat_last_n=-1, **penalty, **greedy).token_ids[0]) not in prompt
    # the last token alone is not the repeated one
    assert int(smol.generate(prompt, repeat_last_n=1, **penalty, **greedy).token_ids[0]) == free


def test_a_grammar_that_cannot_be_parsed_is_one_error_with_the_reason_and_nothing_on_stderr(smol, capfd):
    with pytest.raises(RequestError, match=r"cannot be parsed: .*expecting") as caught:
        smol.generate("Hello", grammar="root ::= (\n\nother ::= [", max_tokens=4)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("thinking", [True, False])
def test_chat_template_equals_transformers_rendering(tiny_qwen, thinking):
    from transformers import AutoTokenizer

    tools = [
        {
            "type": "function",
            "function": {
                "name": "add",
                "description": "adds",
                "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
            },
        }
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "안녕 <b>"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen.checkpoint)
    with DarwinNEG(tiny_qwen.model, n_ctx=256, n_parallel=1) as llm:
        assert llm.info["supports_thinking"]
        for given in (None, tools):
            expected = tokenizer.apply_chat_template(
                messages, tools=given, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
            )
            assert llm.apply_chat_template(messages, tools=given, enable_thinking=thinking) == expected


def test_reasoning_is_split_from_the_answer(tiny_qwen):
    from darwin_neg_cpp.engine import chat

    with DarwinNEG(tiny_qwen.model, n_ctx=256, n_parallel=1) as llm:
        prompt = llm.session.engine.apply_chat_template('[{"role": "user", "content": "hi"}]', enable_thinking=True)
        reasoning, text, calls = chat.split(
            llm.session.engine, prompt, "Let me think.\n</think>\n\nThe answer is 4.", partial=False
        )
        assert (reasoning.strip(), text.strip(), calls) == ("Let me think.", "The answer is 4.", ())
        reasoning, text, _ = chat.split(llm.session.engine, prompt, "Let me thi", partial=True)
        assert (reasoning, text) == ("Let me thi", "")
        off = llm.session.engine.apply_chat_template('[{"role": "user", "content": "hi"}]', enable_thinking=False)
        assert chat.split(llm.session.engine, off, "The answer is 4.", partial=False)[:2] == ("", "The answer is 4.")


def test_token_prompts_equal_text_prompts(smol):
    text = "The capital of Italy is"
    by_text = smol.generate(text, **GREEDY)
    by_tokens = smol.generate(np.array(smol.tokenize(text)), **GREEDY)
    assert by_text.token_ids.tolist() == by_tokens.token_ids.tolist()
    assert smol.detokenize(smol.tokenize(text)) == text


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 1},
        {"n_ctx": 2},
        {"n_ctx": 0},
        {"n_ctx": 2**31 - 1},
        {"n_batch": 1},
        {"n_batch": 8, "n_parallel": 8},
        {"n_ubatch": 1},
        {"n_batch": 3, "n_ubatch": 7, "n_parallel": 2},
        {"n_parallel": 255},
        {"n_parallel": 256},
        {"type_k": "q8_0"},
        {"type_k": "nonsense"},
        {"type_v": "q4_0", "flash_attn": "off"},
        {"flash_attn": "on"},
        {"split_mode": "row"},
        {"split_mode": "none", "main_gpu": 3},
        {"use_mmap": False},
        {"chat_template": "{{ broken"},
        {"n_gpu_layers": 99},
    ],
    ids=str,
)
def test_any_model_argument_is_used_or_refused_but_never_aborts(tiny_llama, options):
    try:
        with DarwinNEG(tiny_llama, **options) as llm:
            for one in llm.generate([[104], [105, 106]], max_tokens=5):
                assert one.token_ids.size <= 5
    except DarwinNegError as error:
        assert "\n" not in str(error) and len(str(error)) > 20
