"""Results in OpenAI's form. The engine is scripted (fake_core)."""

from __future__ import annotations

import json

from darwin_neg_cpp import DarwinNEG


def test_openai_objects_have_openai_names_and_are_json(llm: DarwinNEG) -> None:
    out = json.loads(json.dumps(llm.generate("a B", logprobs=1).to_openai(), allow_nan=False))
    assert out["object"] == "text_completion" and out["id"].startswith("cmpl-")
    choice = out["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["index"]) == ("a B ", "stop", 0)
    assert choice["logprobs"]["tokens"] == ["a ", "B "] and choice["logprobs"]["text_offset"] == [0, 2]
    assert out["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert choice["neg"]["active"] == [False, True]
    reply = llm.chat([{"role": "user", "content": "thinker"}], logprobs=0)
    out = json.loads(json.dumps(reply.to_openai(), allow_nan=False))
    assert out["object"] == "chat.completion" and out["id"].startswith("chatcmpl-")
    assert out["choices"][0]["message"] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    assert out["choices"][0]["logprobs"]["content"][3]["token"] == "42"
