"""The training itself. Everything that needs torch is here."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DarwinNegError
from ..files.output_file import replacing
from ..neg.head import NegHead, check

F32 = npt.NDArray[np.float32]
# epoch, mean squared error on validation data, whether it is the best so far
Tell = Callable[[int, float, bool], None]


@dataclass(frozen=True)
class Recipe:
    """reduced: width of the inner layer, 0 for a quarter of the hidden size. patience: epochs without a better validation error until the end."""

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
    """validation_errors: mean squared, of every epoch. best_epoch: the head's, from 0. interrupted: Ctrl-C ended it."""

    head: NegHead
    validation_errors: tuple[float, ...]
    best_epoch: int
    interrupted: bool


def train(
    hidden: F32,
    entropy: F32,
    validation: tuple[F32, F32],
    recipe: Recipe,
    *,
    state: Path | None = None,
    tell: Tell | None = None,
) -> Trained:
    """The head with the least squared error on validation data; threshold infinite, it is the caller's to set.

    hidden: [positions, n_embd]. entropy: nats, [positions]. state: file that keeps the training after every epoch; with one of the
    same recipe and data the training goes on from there. KeyboardInterrupt ends the training with the best so far.
    """
    torch = import_torch()
    torch.manual_seed(recipe.seed)
    n_embd = hidden.shape[1]
    reduced = recipe.reduced or max(1, n_embd // 4)
    mean, scale = _moments(hidden)
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

    def batches(x: F32, y: F32, order: npt.NDArray[np.int64]) -> Any:
        for begin in range(0, len(order), recipe.batch):
            rows = order[begin : begin + recipe.batch]
            yield torch.from_numpy((x[rows] - mean) / scale), torch.from_numpy(np.ascontiguousarray(y[rows]))

    def error_on(x: F32, y: F32) -> float:
        model.eval()
        with torch.no_grad():
            total = sum(
                float(((model(a).squeeze(1) - b) ** 2).sum())
                for a, b in batches(x, y, np.arange(len(y), dtype=np.int64))
            )
        return total / len(y)

    best, best_epoch, interrupted = copy.deepcopy(model.state_dict()), -1, False
    errors: list[float] = []
    parts = ((hidden, entropy), validation)
    fingerprint = json.dumps([asdict(recipe), [[list(x.shape), float(y.sum(dtype=np.float64))] for x, y in parts]])
    saved = _load(torch, state, fingerprint)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        best, best_epoch, errors = saved["best"], saved["best_epoch"], saved["errors"]
    try:
        for epoch in range(len(errors), recipe.epochs):
            if epoch - best_epoch > recipe.patience:
                break
            # what is drawn depends on the epoch alone, so that a resumed training is the uninterrupted one
            torch.manual_seed(recipe.seed * 1_000_003 + epoch)
            order = np.random.default_rng([recipe.seed, epoch]).permutation(len(entropy))
            model.train()
            for x, y in batches(hidden, entropy, order):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x).squeeze(1), y)
                loss.backward()
                optimizer.step()
            error = error_on(*validation)
            schedule.step(error)
            better = error < min(errors, default=np.inf)
            errors.append(error)
            if better:
                best, best_epoch = copy.deepcopy(model.state_dict()), epoch
            if tell is not None:
                tell(epoch, error, better)
            if state is not None:
                _save(
                    torch,
                    state,
                    {
                        "fingerprint": fingerprint,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "best": best,
                        "errors": errors,
                        "best_epoch": best_epoch,
                    },
                )
    except KeyboardInterrupt:
        if best_epoch < 0:
            raise
        interrupted = True
    if best_epoch < 0:
        raise DarwinNegError("--learning-rate: the training gives no finite numbers; lower it")
    return Trained(_folded(best, mean, scale), tuple(errors), best_epoch, interrupted)


def predict(head: NegHead, hidden: F32) -> F32:
    """Predicted entropies, nats [positions], as the runtime computes them: exact GELU, softplus, float32."""
    torch = import_torch()
    out = np.empty(len(hidden), np.float32)
    for begin in range(0, len(hidden), 8192):
        x = torch.from_numpy(np.array(hidden[begin : begin + 8192]))
        u = torch.nn.functional.gelu(x @ torch.from_numpy(head.down_w).T + torch.from_numpy(head.down_b))
        e = torch.nn.functional.softplus(u @ torch.from_numpy(head.out_w) + torch.from_numpy(head.out_b))
        out[begin : begin + 8192] = e.numpy()
    return out


def import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise DarwinNegError("training needs PyTorch; install it with `pip install 'darwin-neg-cpp[train]'`") from None
    return torch


def _moments(hidden: F32) -> tuple[F32, F32]:
    """Mean and standard deviation of each dimension; a few dimensions of a language model are hundreds of times larger than the others."""
    total, squares = np.zeros((2, hidden.shape[1]))
    for begin in range(0, len(hidden), 8192):
        block = hidden[begin : begin + 8192].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(hidden)
    scale = np.sqrt(np.maximum(squares / len(hidden) - mean**2, 1e-12))
    return mean.astype(np.float32), scale.astype(np.float32)


def _folded(weights: dict[str, Any], mean: F32, scale: F32) -> NegHead:
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


def _save(torch: Any, path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as (file, _):
        torch.save(value, file)


def _load(torch: Any, path: Path | None, fingerprint: str) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        value = torch.load(path, weights_only=True)
    except Exception:  # damaged, or of another version: it is only a saving of time
        return None
    return value if value.get("fingerprint") == fingerprint and "errors" in value else None
