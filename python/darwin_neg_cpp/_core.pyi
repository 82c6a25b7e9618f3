"""The compiled engine. Typed for darwin_neg_cpp itself; users take darwin_neg_cpp.DarwinNEG."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, type_check_only

import numpy as np
import numpy.typing as npt

@type_check_only
class SampleUpdate(TypedDict):
    index: int
    token_ids: npt.NDArray[np.int32]
    pieces: list[str]
    entropy: npt.NDArray[np.float32] | None
    active: npt.NDArray[np.bool_] | None
    logprobs: npt.NDArray[np.float32] | None
    top_ids: npt.NDArray[np.int32] | None
    top_logprobs: npt.NDArray[np.float32] | None
    finish_reason: str | None
    stop: str | None
    error: str | None

@type_check_only
class Update(TypedDict):
    finished: bool
    seed: int
    n_prompt_tokens: int
    prompt_seconds: float
    generate_seconds: float
    samples: list[SampleUpdate]

class ChatPrompt:
    @property
    def prompt(self) -> str: ...
    @property
    def stops(self) -> list[str]: ...
    @property
    def supports_thinking(self) -> bool: ...

class Engine:
    def __init__(
        self,
        model_path: str,
        *,
        neg_path: str | None = None,
        n_ctx: int = 4096,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_parallel: int = 8,
        n_threads: int = 0,
        n_threads_batch: int = 0,
        n_gpu_layers: int = -1,
        main_gpu: int = 0,
        split_mode: str = "layer",
        flash_attn: str = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        use_mmap: bool = True,
        use_mlock: bool = False,
        chat_template: str | None = None,
        progress: Callable[[float], bool] | None = None,
    ) -> None: ...
    def close(self) -> None: ...
    def model_info(self) -> dict[str, Any]: ...
    def metadata(self) -> dict[str, str]: ...
    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: Sequence[int], special: bool) -> bytes: ...
    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n: int,
        max_tokens: int,
        temperature: Sequence[float],
        top_k: int,
        top_p: float,
        min_p: float,
        typical_p: float,
        repeat_penalty: float,
        repeat_last_n: int,
        frequency_penalty: float,
        presence_penalty: float,
        seed: int,
        stop: Sequence[bytes],
        logit_bias: Sequence[tuple[int, float]],
        logprobs: int,
        grammar: str,
        json_schema: str,
        ignore_eos: bool,
        neg_action: str,
        neg_threshold: float | None,
        neg_top_k: int,
        neg_use_temp_scale: int,
        stream: bool,
        chat: ChatPrompt | None = None,
    ) -> list[int]: ...
    def wait(self, request_id: int, timeout: float) -> Update | None: ...
    def wait_any(self, timeout: float) -> list[int]: ...
    def cancel(self, request_id: int) -> None: ...
    def cancel_all(self) -> None: ...
    def release(self, request_id: int) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def evaluate(
        self, texts: Sequence[Sequence[int]], *, hidden: bool = False, logits: bool = False, top: int = 0
    ) -> dict[str, Any]: ...
    def apply_chat_template(
        self,
        messages_json: str,
        *,
        tools_json: str = "",
        tool_choice: str = "auto",
        enable_thinking: bool = True,
        add_generation_prompt: bool = True,
        template_kwargs_json: str = "",
        grammar: str = "",
        json_schema: str = "",
    ) -> ChatPrompt: ...
    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str: ...

def build_info() -> dict[str, str]: ...
def devices() -> list[dict[str, Any]]: ...
def supports_gpu_offload() -> bool: ...
def sample_seed(seed: int, index: int) -> int: ...
def drain_log() -> list[tuple[int, str]]: ...
def gate_apply(
    logits: npt.NDArray[np.float32], entropy: npt.NDArray[np.float32], threshold: float, top_k: int, temp_scale: float
) -> npt.NDArray[np.float32]: ...
def gate_apply_graph(
    logits: npt.NDArray[np.float32],
    entropy: npt.NDArray[np.float32],
    threshold: float,
    top_k: int,
    temp_scale: float,
    device: str = "CPU",
) -> npt.NDArray[np.float32]: ...

class QuantizeProgress:
    def __init__(self) -> None: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    def cancel(self) -> None: ...

def quantize(
    model: str,
    out: str,
    ftype: int,
    *,
    imatrix: str,
    allow_requantize: bool,
    n_threads: int,
    progress: QuantizeProgress,
) -> None: ...
