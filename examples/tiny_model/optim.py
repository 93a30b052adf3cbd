"""Muon for the weight matrices, AdamW for the rest, on float32 copies of bfloat16 weights.

Knows parameters and gradients. Knows nothing of the model's meaning or of data.
Muon: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the
update's size matched to AdamW's as in "Muon is Scalable for LLM Training" (2025).
"""

from __future__ import annotations

from collections import defaultdict

import torch
from parallel import Team
from torch import Tensor, nn

MUON_MOMENTUM = 0.95
BETAS = (0.9, 0.98)


def orthogonalise(grad: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: a quintic Newton-Schulz iteration.

    `grad` is [matrices, rows, cols].
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = grad.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


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
            self.grads[name] = param.new_zeros(workers, *param.shape).detach().share_memory_()
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
        alike: dict[tuple, list[str]] = defaultdict(list)
        for name, param in self.params.items():
            self.counts[name] += param.grad is not None
            if param.grad is not None and self.owner[name] == team.rank:
                # Matrices of one shape go through Muon together: a GPU starts fewer products.
                alike[(*param.shape,) if name in self.muon else (name,)].append(name)
            param.grad = None
        for names in alike.values():
            updates = self._muon(names) if names[0] in self.muon else [self._adam(names[0])]
            for name, update in zip(names, updates, strict=True):
                rate = lr * next((by for part, by in self.rates.items() if part in name), 1.0)
                if name in self.muon:
                    self.masters[name].mul_(1 - rate * decay)
                self.masters[name].sub_(update, alpha=rate)
                self.params[name].copy_(self.masters[name])
        team.wait()

    def _muon(self, names: list[str]) -> Tensor:
        grads = torch.stack([self.grads[name].float().mean(0) for name in names])
        first = torch.stack([self.first[name] for name in names])
        first.lerp_(grads, 1 - MUON_MOMENTUM)
        for name, moment in zip(names, first, strict=True):
            self.first[name].copy_(moment)
        update = orthogonalise(grads.lerp(first, MUON_MOMENTUM)).float()
        return update * (0.2 * max(update.shape[1:]) ** 0.5)

    def _adam(self, name: str) -> Tensor:
        grad = self.grads[name].float().mean(0)
        first, second, count = self.first[name], self.second[name], self.counts[name]
        first.lerp_(grad, 1 - BETAS[0])
        second.lerp_(grad.square(), 1 - BETAS[1])
        scale = (second / (1 - BETAS[1] ** count)).sqrt() + 1e-8
        update = first / (1 - BETAS[0] ** count) / scale
        # A rare large gradient must not throw the weights: an update's root mean square is 1.
        return update / update.square().mean().sqrt().clamp(min=1.0)

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
