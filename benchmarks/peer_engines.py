"""The engines that peers.py compares, each behind the same few methods and in a process of its own.

    python benchmarks/peer_engines.py NAME     reads one JSON object a line and answers each with one

All get the same threads, context, batch sizes and, where they have them, number of sequences; everything else is as
each comes. Greedy decoding is temperature 0, sampling is SAMPLING. ignore_eos is asked for where it costs nothing:
llama-cpp-python would run Python over all logits of every token for it, so peers.py checks the lengths instead.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 512
SAMPLING = {"temperature": 1.0, "top_k": 40, "top_p": 0.95, "min_p": 0.05}


def memory(pid: int | str) -> dict[str, int]:
    """MiB of a process. peak: of what was resident at once. own: not backed by a file, now; mapped: backed by one."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():  # no Linux: the peak alone, of this process alone
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak": (peak >> 20 if sys.platform == "darwin" else peak >> 10) if pid == "self" else 0}
    fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
    names = {"peak": "VmHWM", "own": "RssAnon", "mapped": "RssFile"}
    return {name: int(fields[field].split()[0]) >> 10 for name, field in names.items()}


class Ours:
    def __init__(self, model: str, threads: int, n_ctx: int, slots: int) -> None:
        from darwin_neg_cpp import DarwinNEG

        self.llm = DarwinNEG(
            model,
            n_ctx=n_ctx,
            n_parallel=slots,
            n_batch=BATCH,
            n_ubatch=BATCH,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=0,
            file_sampling=False,
        )

    def tokenize(self, text: str) -> list[int]:
        return self.llm.tokenize(text, add_special=False)

    def complete(self, prompt: list[int], n: int) -> int:
        return len(self.llm.generate(prompt, temperature=0.0, max_tokens=n, ignore_eos=True).token_ids)

    def sample(self, prompt: list[int], samples: int, n: int) -> int:
        results = self.llm.generate(prompt, n=samples, max_tokens=n, ignore_eos=True, seed=1, **SAMPLING)
        return sum(len(result.token_ids) for result in ([results] if samples == 1 else results))

    def chat(self, messages: list[dict[str, str]], n: int) -> Iterator[str | dict[str, int]]:
        before = self.llm.stats()
        tokens = 0
        for chunk in self.llm.stream_chat(messages, temperature=0.0, max_tokens=n, ignore_eos=True):
            tokens += len(chunk.chunk.token_ids)
            yield chunk.reasoning + chunk.text
        after = self.llm.stats()
        used = {name: after[name] - before[name] for name in ("n_prompt_decoded", "n_prompt_reused", "n_steps")}
        decoded, reused = used["n_prompt_decoded"], used["n_prompt_reused"]
        yield {"prompt": decoded + reused, "cached": reused, "tokens": tokens, "steps": used["n_steps"]}

    def json(self, messages: list[dict[str, str]], schema: dict[str, Any], n: int) -> tuple[str, int]:
        reply = self.llm.chat(messages, temperature=0.0, max_tokens=n, json_schema=schema)
        return reply.text, len(reply.generation.token_ids)

    def memory(self) -> dict[str, int]:
        return memory("self")

    def close(self) -> None:
        self.llm.close()


class LlamaCppPython:
    def __init__(self, model: str, threads: int, n_ctx: int, slots: int) -> None:
        from llama_cpp import Llama

        self.llm = Llama(
            model,
            n_ctx=n_ctx,
            n_batch=BATCH,
            n_ubatch=BATCH,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,  # as the others do by default
            verbose=False,
        )

    def tokenize(self, text: str) -> list[int]:
        return list(self.llm.tokenize(text.encode(), add_bos=False, special=True))

    def complete(self, prompt: list[int], n: int) -> int:
        return int(self.llm.create_completion(prompt, temperature=0.0, max_tokens=n)["usage"]["completion_tokens"])

    def sample(self, prompt: list[int], samples: int, n: int) -> int:
        calls = (self.llm.create_completion(prompt, max_tokens=n, seed=i, **SAMPLING) for i in range(samples))
        return sum(int(call["usage"]["completion_tokens"]) for call in calls)

    def chat(self, messages: list[dict[str, str]], n: int) -> Iterator[str | dict[str, int]]:
        for chunk in self.llm.create_chat_completion(messages, temperature=0.0, max_tokens=n, stream=True):
            yield chunk["choices"][0]["delta"].get("content") or ""
            reason = chunk["choices"][0]["finish_reason"]
        # a stream counts nothing; the last token of an answer is not decoded
        yield {"prompt": self.llm.n_tokens - (n - 1), "tokens": n if reason == "length" else -1}

    def json(self, messages: list[dict[str, str]], schema: dict[str, Any], n: int) -> tuple[str, int]:
        form = {"type": "json_object", "schema": schema}
        reply = self.llm.create_chat_completion(messages, temperature=0.0, max_tokens=n, response_format=form)
        return reply["choices"][0]["message"]["content"], int(reply["usage"]["completion_tokens"])

    def memory(self) -> dict[str, int]:
        return memory("self")

    def close(self) -> None:
        self.llm.close()


class LlamaServer:
    def __init__(self, model: str, threads: int, n_ctx: int, slots: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [os.environ["PEERS_LLAMA_SERVER"], "-m", model, "--host", "127.0.0.1", "--port", str(port)]
        command += ["-t", str(threads), "-tb", str(threads), "-c", str(n_ctx), "-b", str(BATCH), "-ub", str(BATCH)]
        command += ["-np", str(slots), "--kv-unified", "-ngl", "0", "--no-ui"]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        while not self._ready():
            if self.process.poll() is not None:
                self.log.seek(0)
                raise RuntimeError(self.log.read().decode(errors="replace")[-2000:])
            time.sleep(0.005)

    def _ready(self) -> bool:
        try:
            self.connection.request("GET", "/health")
            response = self.connection.getresponse()
            response.read()
            return response.status == 200
        except OSError:
            self.connection.close()
            return False

    def _post(self, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
        self.connection.close()  # while other engines had their turn the server has closed it; a new one takes 0.1 ms
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {response.read().decode()}")
        return response

    def tokenize(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": True}
        return list(json.load(self._post("/tokenize", body))["tokens"])

    def complete(self, prompt: list[int], n: int) -> int:
        body = {"prompt": prompt, "temperature": 0.0, "n_predict": n, "ignore_eos": True}
        return int(json.load(self._post("/completion", body))["tokens_predicted"])

    def sample(self, prompt: list[int], samples: int, n: int) -> int:
        body = {"prompt": prompt, "n_predict": n, "n_cmpl": samples, "ignore_eos": True, "seed": 1, **SAMPLING}
        results = json.load(self._post("/completion", body))
        return sum(int(result["tokens_predicted"]) for result in ([results] if samples == 1 else results))

    def chat(self, messages: list[dict[str, str]], n: int) -> Iterator[str | dict[str, int]]:
        body = {"messages": messages, "temperature": 0.0, "max_tokens": n, "ignore_eos": True, "stream": True}
        response = self._post("/v1/chat/completions", body | {"stream_options": {"include_usage": True}})
        counts: dict[str, int] = {}
        while line := response.readline():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            for choice in chunk["choices"]:
                yield (choice["delta"].get("reasoning_content") or "") + (choice["delta"].get("content") or "")
            if usage := chunk.get("usage"):
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                counts = {"prompt": usage["prompt_tokens"], "cached": cached, "tokens": usage["completion_tokens"]}
        yield counts

    def json(self, messages: list[dict[str, str]], schema: dict[str, Any], n: int) -> tuple[str, int]:
        form = {"type": "json_schema", "json_schema": {"schema": schema}}
        body = {"messages": messages, "temperature": 0.0, "max_tokens": n, "response_format": form}
        reply = json.load(self._post("/v1/chat/completions", body))
        return reply["choices"][0]["message"]["content"], int(reply["usage"]["completion_tokens"])

    def memory(self) -> dict[str, int]:
        return memory(self.process.pid)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Transformers:
    """The same weights as 32-bit floats where transformers reads the file; of Qwen3.5 random ones of the same shape."""

    def __init__(self, model: str, threads: int, n_ctx: int, slots: int) -> None:
        import torch
        import transformers

        from darwin_neg_cpp.gguf_file.header import architecture, read_header

        torch.set_num_threads(threads)
        path = Path(model)
        if architecture(read_header(path)) == "qwen35":
            from random_qwen35 import config

            self.model = transformers.Qwen3_5ForCausalLM._from_config(config(), dtype=torch.float32)
        else:
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
        self.model.eval()

    def complete(self, prompt: list[int], n: int) -> int:
        import torch

        ids = torch.tensor([prompt])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=n,
            max_new_tokens=n,
            pad_token_id=0,
        )
        return int(out.shape[1]) - len(prompt)

    def memory(self) -> dict[str, int]:
        return memory("self")

    def close(self) -> None:
        pass


ENGINES: dict[str, Any] = {
    "ours": Ours,
    "llama-server": LlamaServer,
    "llama-cpp-python": LlamaCppPython,
    "transformers": Transformers,
}


def load(name: str, **options: Any) -> tuple[Any, float]:
    """The engine, and the seconds until it had made a token: imports, weights and first use included."""
    begin = time.perf_counter()
    engine = ENGINES[name](**options)
    engine.complete([1, 2, 3], 1)
    return engine, time.perf_counter() - begin


def decode(engine: Any, prompt: list[int], n: int) -> dict[str, Any]:
    """Tokens a second at batch 1: n more tokens than one, in the difference of their times, so that the prompt's time
    is not in it."""
    engine.complete(prompt, 1)
    begin = time.perf_counter()
    engine.complete(prompt, 1)
    middle = time.perf_counter()
    made = engine.complete(prompt, n + 1)
    end = time.perf_counter()
    return {"per_second": n / (end - middle - (middle - begin)), "tokens": made - 1}


def sample(engine: Any, prompt: list[int], samples: int, n: int) -> dict[str, Any]:
    begin = time.perf_counter()
    made = engine.sample(prompt, samples, n)
    return {"per_second": made / (time.perf_counter() - begin), "tokens": made}


def chat(engine: Any, questions: list[str], n: int) -> dict[str, Any]:
    """A conversation in which the engine's own answers go back. Seconds to the first text of each answer."""
    messages: list[dict[str, str]] = []
    turns = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        text, first = "", None
        begin = time.perf_counter()
        for piece in engine.chat(messages, n):
            if isinstance(piece, dict):
                turns.append({"first": first, **piece})
                break
            text += piece
            if first is None and piece:
                first = time.perf_counter() - begin
        messages.append({"role": "assistant", "content": text})
    return {"turns": turns, "texts": [m["content"] for m in messages if m["role"] == "assistant"]}


def answer_json(engine: Any, question: str, schema: dict[str, Any], n: int) -> dict[str, Any]:
    begin = time.perf_counter()
    text, tokens = engine.json([{"role": "user", "content": question}], schema, n)
    return {"seconds": time.perf_counter() - begin, "tokens": tokens, "text": text}


def document(engine: Any, document: list[int], questions: list[list[int]], n: int) -> dict[str, Any]:
    seconds, tokens = [], []
    for question in questions:
        begin = time.perf_counter()
        tokens.append(engine.complete(document + question, n))
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds, "tokens": tokens}


WORKS: dict[str, Any] = {
    "tokenize": lambda engine, texts: [engine.tokenize(text) for text in texts],
    "decode": decode,
    "sample": sample,
    "chat": chat,
    "json": answer_json,
    "document": document,
    "memory": lambda engine: engine.memory(),
}


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    engine = None
    for line in sys.stdin:
        request = json.loads(line)
        work = request.pop("work")
        try:
            if work == "load":
                engine, answer = load(sys.argv[1], **request)
            elif work == "close":
                engine, answer = engine.close(), None
            else:
                answer = WORKS[work](engine, **request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
