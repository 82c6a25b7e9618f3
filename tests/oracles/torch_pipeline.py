"""Greedy decoding with transformers in float32 on the CPU, recording what the LM head sees at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Decoded:
    """What greedy decoding gave.

    tokens [n]. hidden [n, hidden]: the LM head's input that each token was chosen from. margins [n]: by how much the
    logit of the choice leads.
    """

    tokens: list[int]
    hidden: np.ndarray
    margins: np.ndarray


@torch.no_grad()
def greedy(model: torch.nn.Module, prompt: list[int], n: int) -> Decoded:
    hidden: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _module, args: hidden.append(args[0][0, -1].float()))
    try:
        ids, cache, tokens, margins = torch.tensor([prompt]), None, [], []
        for _ in range(n):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            top = out.logits[0, -1].float().topk(2)
            tokens.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            ids = torch.tensor([[tokens[-1]]])
    finally:
        hook.remove()
    return Decoded(tokens, torch.stack(hidden).numpy(), np.array(margins))


@torch.no_grad()
def torch_head(tensors: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """The NEG head as PyTorch users would write it."""
    x = torch.from_numpy(np.ascontiguousarray(hidden))
    weight = {name: torch.from_numpy(value) for name, value in tensors.items()}
    u = torch.nn.functional.gelu(
        torch.nn.functional.linear(x, weight["head.proj_down.weight"], weight["head.proj_down.bias"])
    )
    z = torch.nn.functional.linear(u, weight["head.proj_out.weight"], weight["head.proj_out.bias"])
    return torch.nn.functional.softplus(z)[:, 0].numpy()
