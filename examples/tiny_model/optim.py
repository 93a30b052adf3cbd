"""Muon for the weight matrices, AdamW for the rest, on float32 copies of bfloat16 weights.

Knows parameters and gradients. Knows nothing of the model's meaning or of data.
Muon: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the
update's size matched to AdamW's as in "Muon is Scalable for LLM Training" (2025).
"""

from __future__ import annotations

import torch
from parallel import Team
from torch import Tensor, nn

MUON_MOMENTUM = 0.95
BETAS = (0.9, 0.98)


def orthogonalise(grad: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = grad.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Optimiser:
    """Keeps float32 masters of bfloat16 modules, and writes every step back to the modules.

    Made before the workers fork: weights, masters and gradient sums lie in shared memory, and
    each worker updates its own part of the parameters.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        adam_only: tuple[str, ...] = (),
        workers: int = 1,
        rates: dict[str, float] | None = None,
    ) -> None:
        self.params: dict[str, nn.Parameter] = {}
        self.rates = rates or {}  # part of a name -> factor on the learning rate
        for prefix, module in modules.items():
            for name, param in module.share_memory().named_parameters():
                self.params[f"{prefix}.{name}"] = param
        self.muon = {
            name
            for name, param in self.params.items()
            if param.ndim == 2 and not any(part in name for part in adam_only)
        }
        self.masters, self.first, self.second, self.grads = {}, {}, {}, {}
        for name, param in self.params.items():
            master = param.detach().float().clone()
            self.masters[name] = master.share_memory_()
            self.first[name] = torch.zeros_like(master).share_memory_()
            if name not in self.muon:
                self.second[name] = torch.zeros_like(master).share_memory_()
            self.grads[name] = torch.zeros(workers, *param.shape, dtype=param.dtype).share_memory_()
        self.owner = self._share_out(workers)
        self.counts = dict.fromkeys(self.params, 0)

    def _share_out(self, workers: int) -> dict[str, int]:
        """Which worker updates which parameter: the dearest first, to whoever has least to do."""
        cost = {
            name: param.numel() * (min(param.shape) if name in self.muon else 20)
            for name, param in self.params.items()
        }
        loads, owner = [0] * workers, {}
        for name in sorted(cost, key=cost.get, reverse=True):
            owner[name] = loads.index(min(loads))
            loads[owner[name]] += cost[name]
        return owner

    @torch.no_grad()
    def step(self, team: Team, lr: float, decay: float = 0.01) -> None:
        """Average the workers' gradients, update every parameter that has one, clear them."""
        for name, param in self.params.items():
            if param.grad is None:
                self.grads[name][team.rank].zero_()
            else:
                self.grads[name][team.rank].copy_(param.grad)
        team.wait()
        for name, param in self.params.items():
            self.counts[name] += param.grad is not None
            if param.grad is not None and self.owner[name] == team.rank:
                rate = lr * next((by for part, by in self.rates.items() if part in name), 1.0)
                self._update(name, param, self.grads[name].float().mean(0), rate, decay)
            param.grad = None
        team.wait()

    def _update(
        self, name: str, param: nn.Parameter, grad: Tensor, lr: float, decay: float
    ) -> None:
        master, first = self.masters[name], self.first[name]
        if name in self.muon:
            first.lerp_(grad, 1 - MUON_MOMENTUM)
            update = orthogonalise(grad.lerp(first, MUON_MOMENTUM)).float()
            update *= 0.2 * max(update.shape) ** 0.5
            master.mul_(1 - lr * decay)
        else:
            second, count = self.second[name], self.counts[name]
            first.lerp_(grad, 1 - BETAS[0])
            second.lerp_(grad.square(), 1 - BETAS[1])
            scale = (second / (1 - BETAS[1] ** count)).sqrt() + 1e-8
            update = first / (1 - BETAS[0] ** count) / scale
            # A rare large gradient must not throw the weights: an update's root mean square is 1.
            update /= update.square().mean().sqrt().clamp(min=1.0)
        master.sub_(update, alpha=lr)
        param.copy_(master)

    def state(self) -> dict[str, dict]:
        """Everything needed to go on later."""
        return {
            "masters": self.masters,
            "first": self.first,
            "second": self.second,
            "counts": self.counts,
        }

    @torch.no_grad()
    def load(self, state: dict[str, dict]) -> None:
        """Take over a saved state; parameters that it lacks keep their fresh start."""
        for name, param in self.params.items():
            if name not in state["masters"]:
                continue
            self.masters[name].copy_(state["masters"][name])
            self.counts[name] = state["counts"][name]
            self.first[name].copy_(state["first"][name])
            if name in self.second and name in state["second"]:
                self.second[name].copy_(state["second"][name])
            param.copy_(self.masters[name])
