"""The model as Python users hold it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from .checks import check_flag
from .engine.async_methods import AsyncMethods
from .engine.chat import Message, TemplateOptions
from .engine.model_options import KeyValue, Lora, ModelOptions, NumaStrategy, RopeScaling, SplitMode
from .engine.session import Session
from .engine.sync_methods import SyncMethods
from .errors import RequestError
from .results import Scores

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .engine.token_ids import Prompt
    from .protocols import Answer, ModeConfig, Question
    from .protocols.modes import Mode, ModeOptions


__all__ = ["DarwinNEG", "ModelOptions", "load_darwin_neg"]


class DarwinNEG(SyncMethods, AsyncMethods):
    """A GGUF model with (or without) a NEG head, ready to generate.

    model: path of a GGUF file. neg: path of a NEG side-car; without it the head inside the model file is used, if any.
    n_ctx: tokens that fit in memory, of all running sequences together and at most of one; 0: what the model was
        trained for.
    n_parallel: sequences that generate side by side.
    prefix_cache: how many beginnings of earlier texts stay evaluated in the context, so that a prompt which begins with
        one pays for the rest alone; 0: none. prefix_cache_bytes: host memory for more of them.
    n_batch, n_ubatch: tokens decoded in one step.
    n_threads: 0 chooses. n_gpu_layers: -1 puts all on the GPU, if this build has one.
    devices: names of the GPUs to use (`darwin-neg doctor` lists them), [] for none. tensor_split: proportions of the
        model for each of them. split_mode: by layers, rows or ("tensor") all of it in parallel; "none": on main_gpu.
    rpc_servers: HOST:PORT of other machines on which `darwin-neg rpc-server` runs; their devices come first, before the
        GPUs here, and take what n_gpu_layers and tensor_split give them (docs/scale.md). They see text and weights, and
        nothing is encrypted. While one is lost, requests end with an error that names it.
    type_k, type_v: types of the KV cache, "f16", "q8_0" ... offload_kqv: keep it on the GPU. swa_full: False keeps of
        sliding-window layers the window alone. op_offload: let the GPU compute with weights that lie on the CPU.
    override_tensor: where tensors go, {pattern of names: buffer type}, as {"exps": "CPU"}. n_cpu_moe: layers whose
        experts stay with the CPU.
    rope_scaling_type, rope_freq_*, yarn_*: positions beyond the trained context, as in llama.cpp; 0 (or a negative
        number for YaRN's factors) is the model's own.
    lora: path of a LoRA adapter (GGUF), (path, scale), or a list of them, which all requests use.
    kv_overrides: values for keys of the model file, in the place of its own. numa: how threads and memory are spread
        over the nodes of a NUMA machine, for the whole process.
    mtp: tokens that the model's own multi-token-prediction block drafts in each step, 0 for none. draft: "ngram" drafts
        up to draft_max tokens by looking for what was last said in the text so far. A decode then checks a whole draft;
        the answers are the same. While more than mtp_max_parallel sequences generate, no drafts are made.
    chat_template: jinja text instead of the model's own. file_sampling: what a request leaves out of its sampling
        parameters is as the model file says (`general.sampling.*`, see sampling_defaults); False: as llama.cpp has it.
    progress: called with 0..1 while loading; False stops it.

    Safe to use from several threads. Errors: ModelFileError, NegHeadError, RequestError, and DarwinNegError for an RPC
    server that does not answer.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        neg: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int = 4096,
        n_parallel: int = 8,
        prefix_cache: int = 4,
        prefix_cache_bytes: int = 256 << 20,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int = 0,
        n_threads_batch: int = 0,
        n_gpu_layers: int = -1,
        main_gpu: int = 0,
        split_mode: SplitMode = "layer",
        tensor_split: Sequence[float] | None = None,
        devices: Sequence[str] | None = None,
        rpc_servers: Sequence[str] | None = None,
        flash_attn: Literal["auto", "on", "off"] = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        use_mmap: bool = True,
        use_mlock: bool = False,
        offload_kqv: bool = True,
        op_offload: bool = True,
        swa_full: bool = True,
        rope_scaling_type: RopeScaling | None = None,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = -1.0,
        yarn_beta_fast: float = -1.0,
        yarn_beta_slow: float = -1.0,
        yarn_orig_ctx: int = 0,
        lora: Lora | Sequence[Lora] | None = None,
        override_tensor: Mapping[str, str] | None = None,
        n_cpu_moe: int = 0,
        kv_overrides: Mapping[str, KeyValue] | None = None,
        numa: NumaStrategy | bool | None = None,
        mtp: int = 0,
        draft: Literal["none", "ngram"] = "none",
        draft_max: int = 4,
        mtp_max_parallel: int = 2,
        chat_template: str | None = None,
        file_sampling: bool = True,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        self.session = Session(
            model,
            neg,
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            prefix_cache=prefix_cache,
            prefix_cache_bytes=prefix_cache_bytes,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_threads=n_threads,
            n_threads_batch=n_threads_batch,
            n_gpu_layers=n_gpu_layers,
            main_gpu=main_gpu,
            split_mode=split_mode,
            tensor_split=tensor_split,
            devices=devices,
            rpc_servers=rpc_servers,
            flash_attn=flash_attn,
            type_k=type_k,
            type_v=type_v,
            use_mmap=use_mmap,
            use_mlock=use_mlock,
            offload_kqv=offload_kqv,
            op_offload=op_offload,
            swa_full=swa_full,
            rope_scaling_type=rope_scaling_type,
            rope_freq_base=rope_freq_base,
            rope_freq_scale=rope_freq_scale,
            yarn_ext_factor=yarn_ext_factor,
            yarn_attn_factor=yarn_attn_factor,
            yarn_beta_fast=yarn_beta_fast,
            yarn_beta_slow=yarn_beta_slow,
            yarn_orig_ctx=yarn_orig_ctx,
            lora=lora,
            override_tensor=override_tensor,
            n_cpu_moe=n_cpu_moe,
            kv_overrides=kv_overrides,
            numa=numa,
            mtp=mtp,
            draft=draft,
            draft_max=draft_max,
            mtp_max_parallel=mtp_max_parallel,
            chat_template=chat_template,
            file_sampling=file_sampling,
            progress=progress,
        )

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        *,
        quant: str | None = None,
        file: str | None = None,
        neg: str | os.PathLike[str] | None = None,
        token: str | None = None,
        revision: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> DarwinNEG:
        """Downloads a GGUF file (and the NEG side-car beside it) from a Hugging Face repository, and loads it.

        A repository of safetensors is converted on the way, head included, and the result kept in the cache, where it
        is looked for first. repo: OWNER/NAME, OWNER/NAME:Q4_K_M, or the address of its page. quant: "Q4_K_M", picks
        among several files, or the type to convert to; file: names one; both may be patterns ("*q4*"). neg: a local
        side-car instead of the repository's.
        """
        from .pretrained import fetch

        model, side_car = fetch(repo, quant=quant, file=file, token=token, revision=revision, side_car=neg is None)
        return cls(model, neg if neg is not None else side_car, **options)

    # --- the model

    @property
    def path(self) -> str:
        """The model file."""
        return self.session.path

    @property
    def info(self) -> Mapping[str, Any]:
        """Architecture, sizes and special tokens of the loaded model."""
        return self.session.info

    @property
    def neg(self) -> Mapping[str, Any] | None:
        """Threshold, top_k, temp_scale, source ... of the NEG head, or None when the model has none."""
        return self.session.neg

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """The fields of SamplingParams that the model file sets, for requests that do not set them."""
        return dict(self.session.defaults)

    @property
    def metadata(self) -> dict[str, str]:
        """The GGUF keys as text."""
        return self.session.engine.metadata()

    def stats(self) -> dict[str, Any]:
        """Counters of the engine: prompt tokens decoded, tokens generated, steps, places in use."""
        return self.session.engine.stats()

    # --- text and tokens

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`; add_special puts the start token in front where the model wants one and text has none.

        parse_special: read control tokens written out in the text ("<|im_start|>") as such; False for untrusted text.
        """
        return self.session.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD. special: write control tokens out."""
        return self.session.detokenize(tokens, special=special)

    # --- requests, which SyncMethods and AsyncMethods make

    def cancel(self) -> None:
        """Cancels everything that runs, from any thread; the answers so far are returned as "cancelled"."""
        self.session.engine.cancel_all()

    # --- given texts

    def score(self, prompt: Prompt, *, hidden: bool = False, top: int = 0) -> Scores:
        """Runs a given text (or token ids) through the model, and returns its view of every position.

        hidden: also the LM head's input at each. top: number of most likely next tokens to report.
        Runs beside generation, in a context of its own; the text may be as long as n_ctx.
        Errors: RequestError, ContextFullError.
        """
        return next(self.score_many([prompt], hidden=hidden, top=top))

    def score_many(
        self, prompts: Sequence[Prompt], *, hidden: bool = False, top: int = 0
    ) -> Generator[Scores, None, None]:
        """`score` for any number of texts, in order, many of them in one batch; their number does not add to memory."""
        return self.session.score(prompts, hidden=hidden, top=top)

    # --- beginnings of texts

    def save_prefix(
        self,
        path: str | os.PathLike[str],
        prompt: Prompt | None = None,
        *,
        messages: Sequence[Message] | None = None,
        force: bool = False,
    ) -> int:
        """Writes what the model has made of the beginning of a text to a file; evaluates it first where needed.

        prompt: the text (its last token is left out, since the text that follows may join it) or its token ids;
        messages: a conversation, which others continue; neither: the text evaluated last. force: replace a file.
        Returns the number of tokens saved. After load_prefix, prompts that begin with these tokens pay for the rest
        alone. A file may be large: for a 9B model about 50 MiB and 32 KiB for each token.
        Errors: RequestError, ContextFullError, OutputError.
        """
        if prompt is not None and messages is not None:
            raise RequestError("prompt and messages are both given; give one of them")
        tokens = None
        if messages is not None:
            tokens = self.session.chat_tokens(messages, add_generation_prompt=False)
        elif prompt is not None:
            tokens = self.session.tokenize_prompt(prompt)
            tokens = tokens[:-1] if isinstance(prompt, str) and len(tokens) > 1 else tokens
        return self.session.save_prefix(path, tokens, force=check_flag("force", force))

    def load_prefix(self, path: str | os.PathLike[str]) -> int:
        """Reads a file of save_prefix, and keeps it until the model is closed. Returns its number of tokens.

        Errors: ModelFileError for a file that is damaged, or written with another model, build or other options.
        """
        return self.session.load_prefix(path)

    # --- conversations

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool | None = None,
        **options: Unpack[TemplateOptions],
    ) -> str:
        """The text that the template makes of a conversation, start token included. Its token ids are `chat_tokens`.

        add_generation_prompt: write the beginning of the answer too; None: unless continue_final_message is given.
        """
        return self.session.chat_text(messages, add_generation_prompt=add_generation_prompt, **options)

    def chat_tokens(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool | None = None,
        **options: Unpack[TemplateOptions],
    ) -> list[int]:
        """Token ids of a conversation as `chat` submits it, with the start token where the model wants one."""
        return self.session.chat_tokens(messages, add_generation_prompt=add_generation_prompt, **options)

    # --- multiple-choice questions

    @overload
    def answer(
        self,
        question: Question,
        mode: Mode = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        abstain_above: float | None = None,
        abstain_signal: str = "mean_entropy",
        **options: Unpack[ModeOptions],
    ) -> Answer: ...
    @overload
    def answer(
        self,
        question: Sequence[Question],
        mode: Mode = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        abstain_above: float | None = None,
        abstain_signal: str = "mean_entropy",
        **options: Unpack[ModeOptions],
    ) -> list[Answer]: ...

    def answer(
        self,
        question: Question | Sequence[Question],
        mode: Mode = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        abstain_above: float | None = None,
        abstain_signal: str = "mean_entropy",
        **options: Unpack[ModeOptions],
    ) -> Any:
        """Answers a multiple-choice question, or several side by side, in one of the modes of docs/protocols.md.

        mode: 0 greedy without the gate, 1 greedy with it, 2 majority over orderings of the choices, 3 ensemble with
        second opinions, "auto" as much of these as the model's own uncertainty calls for.
        Options are those of ModeConfig and override `config`.
        early_stop: cancel what can no longer change the winner. abstain_above: withhold an answer whose uncertainty,
        the signal `abstain_signal` (docs/confidence.md), is larger; Answer.abstained then says why. True entropies are
        recorded where a signal is one.
        Returns an Answer, or a list of them for a list. Errors: RequestError, ContextFullError, NegHeadError.
        """
        from .protocols.escalation import needs_true_entropy
        from .protocols.modes import merge as merge_modes
        from .protocols.runner import answer_any
        from .protocols.sampler import EngineSampler

        merged = merge_modes(config, options)
        return answer_any(
            EngineSampler(self.session, true_entropy=needs_true_entropy([mode], merged, abstain_above, abstain_signal)),
            question,
            mode,
            config=merged,
            early_stop=early_stop,
            abstain_above=abstain_above,
            abstain_signal=abstain_signal,
        )

    # --- end

    def close(self) -> None:
        """Cancels what runs, whose answers still arrive as "cancelled", and frees the memory. Safe to call twice."""
        self.session.close()

    def __enter__(self) -> DarwinNEG:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_darwin_neg(
    path_or_repo: str | os.PathLike[str], hf_token: str | None = None, **options: Unpack[ModelOptions]
) -> DarwinNEG:
    """Loads a model from a GGUF file or a Hugging Face repository, like the helper on the model card.

    A repository is named as in `from_pretrained`: OWNER/NAME, OWNER/NAME:Q4_K_M, or the address of its page.
    """
    name = os.fspath(path_or_repo)
    is_page = re.match(r"(\w+://|huggingface\.co/|hf\.co/)", name, re.IGNORECASE) is not None
    is_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[^/:]+)?", name) is not None and not name.endswith(".gguf")
    if os.path.exists(name) or not (is_page or is_id):
        return DarwinNEG(name, **options)
    return DarwinNEG.from_pretrained(name, token=hf_token, **options)
