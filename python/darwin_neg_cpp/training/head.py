"""The training itself. Everything that needs torch is here."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DarwinNegError
from ..files.output_file import replacing
from ..neg.head import NegHead, check

F32 = npt.NDArray[np.float32]
# hidden states [positions, n_embd], and the true entropy at each of them, nats
Data = tuple[F32, F32]
# called after each epoch with its number, the mean squared error on validation data, and whether it is the best so far
OnEpoch = Callable[[int, float, bool], None]

BLOCK = 8192  # positions that are converted at once


@dataclass(frozen=True)
class Recipe:
    """reduced: width of the inner layer, 0 for a quarter of the hidden size. patience: epochs without a better
    validation error after which the training ends."""

    reduced: int = 0
    epochs: int = 40
    patience: int = 5
    batch: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """validation_errors: mean squared, one per epoch. best_epoch: the head's, from 0. interrupted: by Ctrl-C."""

    head: NegHead
    validation_errors: tuple[float, ...]
    best_epoch: int
    interrupted: bool


@dataclass
class _State:
    """Where a training stands. model, optimizer, schedule: of the last epoch. best: the weights of the best one.

    fingerprint: of recipe and data; a saved state with another one is not used.
    """

    torch: Any
    model: Any
    optimizer: Any
    schedule: Any
    fingerprint: str
    best: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = -1
    errors: list[float] = field(default_factory=list)

    def finish_epoch(self, error: float) -> bool:
        """Notes the validation error of an epoch; whether it is the best so far."""
        self.schedule.step(error)
        better = error < min(self.errors, default=np.inf)
        if better:
            self.best, self.best_epoch = copy.deepcopy(self.model.state_dict()), len(self.errors)
        self.errors.append(error)
        return bool(better)

    def save(self, path: Path) -> None:
        value = {
            "fingerprint": self.fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "errors": self.errors,
        }
        with replacing(path) as (file, _):
            self.torch.save(value, file)

    def load(self, path: Path) -> None:
        """Takes up a saved training, if there is one of the same recipe and data."""
        if not path.exists():
            return
        try:
            value = self.torch.load(path, weights_only=True)
        except Exception:  # damaged, or of another version: it only saves time
            return
        if value.get("fingerprint") != self.fingerprint or "errors" not in value:
            return
        self.model.load_state_dict(value["model"])
        self.optimizer.load_state_dict(value["optimizer"])
        self.schedule.load_state_dict(value["schedule"])
        self.best, self.best_epoch, self.errors = value["best"], value["best_epoch"], value["errors"]


def train(
    hidden: F32,
    entropy: F32,
    validation: Data,
    recipe: Recipe,
    *,
    state: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Trains the head with the least squared error on validation data. Its threshold is infinite; the caller sets it.

    hidden: [positions, n_embd]. entropy: nats, [positions]. state: file that keeps the training after every epoch; a
    training with the same recipe and data resumes from it. KeyboardInterrupt ends the training with the best so far.
    """
    torch = import_torch()
    torch.manual_seed(recipe.seed)
    moments = _moments(hidden)
    training = (hidden, entropy)
    current = _start(torch, recipe, training, validation)
    if state is not None:
        current.load(state)
    interrupted = False
    try:
        for epoch in range(len(current.errors), recipe.epochs):
            if epoch - current.best_epoch > recipe.patience:
                break
            _train_epoch(current, training, moments, recipe, epoch)
            error = _error(current, validation, moments, recipe.batch)
            better = current.finish_epoch(error)
            if on_epoch is not None:
                on_epoch(epoch, error, better)
            if state is not None:
                current.save(state)
    except KeyboardInterrupt:
        if current.best_epoch < 0:
            raise
        interrupted = True
    if current.best_epoch < 0:
        raise DarwinNegError(
            f"learning_rate {recipe.learning_rate} is too high: the training gives no finite numbers; lower it"
        )
    head = _without_standardization(current.best, *moments)
    return Trained(head, tuple(current.errors), current.best_epoch, interrupted)


def predict(head: NegHead, hidden: F32) -> F32:
    """Predicted entropies, nats [positions], as the runtime computes them: exact GELU, softplus, float32."""
    torch = import_torch()
    out = np.empty(len(hidden), np.float32)
    for begin in range(0, len(hidden), BLOCK):
        x = torch.from_numpy(np.array(hidden[begin : begin + BLOCK]))
        u = torch.nn.functional.gelu(x @ torch.from_numpy(head.down_w).T + torch.from_numpy(head.down_b))
        e = torch.nn.functional.softplus(u @ torch.from_numpy(head.out_w) + torch.from_numpy(head.out_b))
        out[begin : begin + BLOCK] = e.numpy()
    return out


def import_torch() -> Any:
    """Imports PyTorch, or raises DarwinNegError that says how to install it."""
    try:
        import torch
    except ImportError:
        raise DarwinNegError("training needs PyTorch; install it with `pip install 'darwin-neg-cpp[train]'`") from None
    return torch


def _start(torch: Any, recipe: Recipe, training: Data, validation: Data) -> _State:
    """A network before its first epoch."""
    hidden, entropy = training
    n_embd = hidden.shape[1]
    reduced = recipe.reduced or max(1, n_embd // 4)
    model = torch.nn.Sequential(
        torch.nn.Linear(n_embd, reduced),
        torch.nn.GELU(),
        torch.nn.Dropout(recipe.dropout),
        torch.nn.Linear(reduced, 1),
        torch.nn.Softplus(),
    )
    with torch.no_grad():
        # starts at the mean, from where the error falls at once
        model[3].weight.mul_(0.1)
        model[3].bias.fill_(float(np.log(np.expm1(max(1e-3, float(entropy.mean()))))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    parts = [[list(x.shape), float(y.sum(dtype=np.float64))] for x, y in (training, validation)]
    return _State(torch, model, optimizer, schedule, json.dumps([asdict(recipe), parts]))


def _train_epoch(state: _State, data: Data, moments: Data, recipe: Recipe, epoch: int) -> None:
    torch = state.torch
    # what is drawn depends on the epoch alone, so that a resumed training equals one that was never interrupted
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)
    order = np.random.default_rng([recipe.seed, epoch]).permutation(len(data[1]))
    state.model.train()
    for x, y in _batches(torch, data, moments, order, recipe.batch):
        state.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(state.model(x).squeeze(1), y)
        loss.backward()
        state.optimizer.step()


def _error(state: _State, data: Data, moments: Data, batch: int) -> float:
    """Mean squared error."""
    order = np.arange(len(data[1]), dtype=np.int64)
    state.model.eval()
    with state.torch.no_grad():
        total = sum(
            float(((state.model(x).squeeze(1) - y) ** 2).sum())
            for x, y in _batches(state.torch, data, moments, order, batch)
        )
    return total / len(order)


def _batches(
    torch: Any, data: Data, moments: Data, order: npt.NDArray[np.int64], batch: int
) -> Iterator[tuple[Any, Any]]:
    """Standardized hidden states and entropies, `batch` positions at a time."""
    (hidden, entropy), (mean, scale) = data, moments
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        yield torch.from_numpy((hidden[rows] - mean) / scale), torch.from_numpy(np.ascontiguousarray(entropy[rows]))


def _moments(hidden: F32) -> Data:
    """Mean and standard deviation of each dimension; a few dimensions of a language model are hundreds of times larger
    than the others."""
    total, squares = np.zeros((2, hidden.shape[1]))
    for begin in range(0, len(hidden), BLOCK):
        block = hidden[begin : begin + BLOCK].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(hidden)
    scale = np.sqrt(np.maximum(squares / len(hidden) - mean**2, 1e-12))
    return mean.astype(np.float32), scale.astype(np.float32)


def _without_standardization(weights: dict[str, Any], mean: F32, scale: F32) -> NegHead:
    """The head for hidden states as they are: the standardization goes into the first layer, in float64."""
    w, b = weights["0.weight"].double().numpy(), weights["0.bias"].double().numpy()
    w = w / scale.astype(np.float64)
    head = NegHead(
        down_w=w.astype(np.float32),
        down_b=(b - w @ mean.astype(np.float64)).astype(np.float32),
        out_w=weights["3.weight"].numpy().reshape(-1).astype(np.float32),
        out_b=weights["3.bias"].numpy().astype(np.float32),
        threshold=float("inf"),
    )
    return check(head, "the trained head")
