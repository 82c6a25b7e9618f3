"""What an evaluation asks: a model in this process, or anything else that has a sampler and can say what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..files.input_file import shown_path
from ..files.progress import Progress
from ..protocols.sampler import EngineSampler, Job, Sampler
from . import settings

if TYPE_CHECKING:
    from ..llm import DarwinNEG


class Source(Protocol):
    """What answers: a LocalModel, remote.engine.RemoteEngine, or cluster.evaluation.ClusterModel."""

    @property
    def title(self) -> str:
        """How errors name it."""
        ...

    @property
    def more_context(self) -> str:
        """What to do for a larger context, in words."""
        ...

    @property
    def info(self) -> Mapping[str, Any]:
        """n_ctx: tokens of one request. n_parallel: requests side by side."""
        ...

    @property
    def neg(self) -> Mapping[str, Any] | None:
        """The NEG head, None when there is none."""
        ...

    def sampler(self) -> Sampler:
        """One for each run of a protocol, which closes it."""
        ...

    def count_tokens(self, job: Job) -> int:
        """Tokens of a job's prompt, or more where that fits the context, too."""
        ...

    def describe_model(self, *, progress: Progress) -> tuple[dict[str, Any], dict[str, str]]:
        """What identifies the weights, and names of files. progress: called with (bytes so far, bytes in total)."""
        ...

    def describe_build(self) -> dict[str, Any]:
        """llama.cpp's build."""
        ...

    def describe_engine(self) -> dict[str, Any]:
        """Options that change the output."""
        ...

    def describe_machine(self) -> dict[str, Any]:
        """What does not change it."""
        ...


class LocalModel:
    """A model in this process. side_car: the file of its head, if it is not in the model file."""

    def __init__(self, llm: DarwinNEG, side_car: str | None = None, *, true_entropy: bool = False) -> None:
        self._llm, self._side_car, self._true_entropy = llm, side_car, true_entropy
        self._counter: EngineSampler | None = None

    @property
    def title(self) -> str:
        return shown_path(self._llm.path)

    @property
    def more_context(self) -> str:
        return "raise n_ctx"

    @property
    def info(self) -> Mapping[str, Any]:
        return self._llm.info

    @property
    def neg(self) -> Mapping[str, Any] | None:
        return self._llm.neg

    def sampler(self) -> EngineSampler:
        return EngineSampler(self._llm.session, true_entropy=self._true_entropy)

    def count_tokens(self, job: Job) -> int:
        self._counter = self._counter or self.sampler()
        return len(self._counter.prompt_tokens(job))

    def describe_model(self, *, progress: Progress) -> tuple[dict[str, Any], dict[str, str]]:
        return settings.describe_model(self._llm.path, self._side_car, progress=progress)

    def describe_build(self) -> dict[str, Any]:
        return settings.describe_build()

    def describe_engine(self) -> dict[str, Any]:
        # true entropies change no answer, but a ledger has them of all or of none; older ledgers can be resumed without
        recorded = {"true_entropy": True} if self._true_entropy else {}
        return {**{key: self.info[key] for key in ("n_ctx", "n_parallel")}, **recorded}

    def describe_machine(self) -> dict[str, Any]:
        return {"threads": self.info["n_threads"]}
