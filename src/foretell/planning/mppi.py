"""MPPI: model predictive path integral control, a mean weighted by the exponential of the negative cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.noise import noise
from foretell.planning.planner import Best, Cost, Plan, PlanState, copied, offered, score, settle


@dataclass(frozen=True, kw_only=True)
class MPPI:
    """Model predictive path integral control (Williams et al. 2017, "Information theoretic MPC for model-based
    reinforcement learning", ICRA), the base distribution moving with the mean (alpha = 1 there).

    Each iteration scores `samples` plans per episode, the current mean and draws of fixed deviation around it
    clipped to the bounds, and moves the mean to their average under the weights of `path_weights`.

    std: deviation, as a share of the action's scale; decay: its factor from one iteration to the next.
    temperature: in standard deviations of an iteration's finite costs, or, with `absolute`, in the cost's
        own units (lambda of the paper).
    answer: "mean", the last mean, or "best", the cheapest plan scored.
    Raises SpecError for settings out of range, PlanningError where no candidate has a finite cost.
    """

    samples: int = 256
    iterations: int = 4
    std: float = 0.5
    decay: float = 0.7
    temperature: float = 0.1
    absolute: bool = False
    answer: Literal["best", "mean"] = "mean"

    def __post_init__(self) -> None:
        if self.samples < 1 or self.iterations < 1:
            raise SpecError(f"MPPI: at least one sample and one iteration expected, got {self}")
        if not (self.std > 0 and 0 < self.decay <= 1 and self.temperature > 0):
            raise SpecError(f"MPPI: std > 0, 0 < decay <= 1 and temperature > 0 expected, got {self}")
        if self.answer not in ("best", "mean"):
            raise SpecError(f"MPPI: answer must be 'best' or 'mean', got {self.answer!r}")

    @torch.no_grad()
    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        """The plan found from `state`."""
        generator = copied(state.generator)
        given = torch.cat(offered(state, self.samples), dim=1)
        mean, deviation = given[:, 0], self.std * state.scale
        best = Best.none(state)
        for iteration in range(self.iterations):
            fixed = given if iteration == 0 else mean.unsqueeze(1)
            draws = noise((self.samples - fixed.shape[1], *mean.shape[1:]), generator, mean)
            candidates = torch.cat([fixed, mean.unsqueeze(1) + deviation * draws], dim=1)
            candidates.clamp_(state.low, state.high)
            costs = score(cost, candidates)
            best = best.of(candidates, costs)
            weights = path_weights(costs, self.temperature, absolute=self.absolute)
            known = costs.isfinite().any(dim=1)[:, None, None]
            mean = torch.where(known, torch.einsum("bs,bska->bka", weights, candidates), mean)
            deviation = self.decay * deviation
        best = settle(cost, best, mean if self.answer == "mean" else None, state)
        return Plan(
            best.actions, best.cost, replace(state, mean=best.actions, generator=generator, elites=None, proposals=None)
        )


def path_weights(costs: Tensor, temperature: float, *, absolute: bool = False) -> Tensor:
    """Weights (B, S) of candidates with costs (B, S): exp(-(cost - lowest) / temperature), summing to 1.

    Williams et al. 2017, algorithm 2. Unless `absolute`, the temperature is in standard deviations of the
    episode's finite costs. Candidates of infinite cost weigh nothing; a row without a finite cost is all 0.
    """
    finite = costs.isfinite()
    above = torch.where(finite, costs - costs.amin(dim=1, keepdim=True), 0)
    unit: Tensor | float = 1.0
    if not absolute:
        count = finite.sum(dim=1, keepdim=True).clamp_min(1)
        centre = above.sum(dim=1, keepdim=True) / count
        unit = torch.where(finite, above - centre, 0).square().sum(dim=1, keepdim=True).div(count).sqrt()
        unit = unit.clamp_min(torch.finfo(costs.dtype).tiny)
    weights = torch.where(finite, torch.exp(-above / (temperature * unit)), 0)
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(costs.dtype).tiny)
