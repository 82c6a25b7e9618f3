"""The compiled engine. Typed for darwin_neg_cpp itself; users take darwin_neg_cpp.DarwinNEG."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypedDict, type_check_only

import numpy as np
import numpy.typing as npt

@type_check_only
class SampleUpdate(TypedDict):
    index: int
    token_ids: npt.NDArray[np.int32]
    pieces: list[str]
    ends_inside: npt.NDArray[np.bool_]
    entropy: npt.NDArray[np.float32] | None
    active: npt.NDArray[np.bool_] | None
    true_entropy: npt.NDArray[np.float32] | None
    logprobs: npt.NDArray[np.float32] | None
    top_ids: npt.NDArray[np.int32] | None
    top_logprobs: npt.NDArray[np.float32] | None
    finish_reason: str | None
    stop: str | None
    error: str | None

@type_check_only
class Update(TypedDict):
    request: int
    finished: bool
    seed: int
    n_prompt_tokens: int
    n_cached_tokens: int
    neg_threshold: float | None
    prompt_seconds: float
    generate_seconds: float
    samples: list[SampleUpdate]

class ChatPrompt:
    @property
    def prompt(self) -> str: ...
    @property
    def pieces(self) -> list[str]: ...
    @property
    def stops(self) -> list[str]: ...
    @property
    def supports_thinking(self) -> bool: ...

class NegAction:
    __members__: ClassVar[dict[str, NegAction]]
    off: ClassVar[NegAction]
    mask: ClassVar[NegAction]
    sample: ClassVar[NegAction]
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Notify:
    __members__: ClassVar[dict[str, Notify]]
    token: ClassVar[Notify]
    sample: ClassVar[Notify]
    request: ClassVar[Notify]
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class ModelParams:
    def __init__(self, model_path: str, **values: Any) -> None: ...
    def as_dict(self) -> dict[str, Any]: ...

class RequestParams:
    def __init__(self, **values: Any) -> None: ...
    def as_dict(self) -> dict[str, Any]: ...

class Inbox:
    def wait(self, timeout: float | None = None) -> Update | None: ...
    def close(self) -> None: ...

class Requests:
    @property
    def ids(self) -> list[int]: ...
    def cancel(self, request_id: int | None = None) -> None: ...
    def release(self, request_id: int | None = None) -> None: ...

class Engine:
    def __init__(
        self,
        params: ModelParams,
        *,
        chat_template: str | None = None,
        progress: Callable[[float], bool] | None = None,
    ) -> None: ...
    def close(self) -> None: ...
    def model_info(self) -> dict[str, Any]: ...
    def metadata(self) -> dict[str, str]: ...
    def marker_texts(self) -> list[tuple[str, bool]]: ...
    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: Sequence[int], special: bool) -> bytes: ...
    def inbox(self) -> Inbox: ...
    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        params: RequestParams,
        inbox: Inbox,
        chat: ChatPrompt | None = None,
    ) -> Requests: ...
    def cancel_all(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def save_prefix(self, tokens: Sequence[int]) -> tuple[list[int], bytes]: ...
    def load_prefix(self, tokens: Sequence[int], state: bytes) -> None: ...
    def score(
        self, texts: Sequence[Sequence[int]], *, hidden: bool = False, logits: bool = False, top: int = 0
    ) -> dict[str, Any]: ...
    def apply_chat_template(
        self,
        messages_json: str,
        *,
        tools_json: str = "",
        tool_choice: str = "auto",
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        template_kwargs_json: str = "",
        parallel_tool_calls: bool | None = None,
        json_schema: str = "",
        has_grammar: bool = False,
        callable_json: str = "",
        cut: str = "",
    ) -> ChatPrompt: ...
    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str: ...

def build_info() -> dict[str, str]: ...
def load_backends(folder: str) -> None: ...
def load_backend(path: str) -> bool: ...
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
def quantized_types(model: str, ftype: int, *, with_imatrix: bool) -> dict[str, str]: ...
def imatrix_sizes(path: str) -> dict[str, int]: ...
