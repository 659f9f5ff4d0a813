"""Gradient planning: Adam on the actions themselves, from several starts, projected to the bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.noise import noise
from foretell.planning.planner import Best, Cost, Plan, PlanningError, PlanState, copied, offered, score


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Projected gradient descent on the differentiable cost, with Adam's steps (Kingma and Ba 2015).

    `starts` plans per episode are improved side by side for `steps` steps: the warm start, the proposals and
    Gaussian draws around the warm start. The answer is the cheapest plan met on the way.

    rate: Adam's step size, as a share of the action's scale; it falls to a tenth along a cosine.
    std: deviation of the random starts, as a share of the action's scale.
    Raises SpecError for settings out of range; PlanningError where the cost is not differentiable or
    finite for no start.
    """

    starts: int = 16
    steps: int = 40
    rate: float = 0.2
    std: float = 0.5
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        if self.starts < 1 or self.steps < 1:
            raise SpecError(f"gradient planner: at least one start and one step expected, got {self}")
        if not (self.rate > 0 and self.std > 0 and all(0 <= beta < 1 for beta in self.betas)):
            raise SpecError(f"gradient planner: rate > 0, std > 0 and 0 <= betas < 1 expected, got {self}")

    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        """The plan found from `state`. The model's parameters gather no gradients."""
        # A caller may be in inference mode, whose tensors autograd cannot use.
        with torch.inference_mode(False), torch.no_grad():
            return self._search(cost, state)

    def _search(self, cost: Cost, state: PlanState) -> Plan:
        generator = copied(state.generator)
        given = torch.cat(offered(state, self.starts), dim=1)
        draws = noise((self.starts - given.shape[1], *state.mean.shape[1:]), generator, state.mean)
        plans = torch.cat([given, given[:, :1] + self.std * state.scale * draws], dim=1)
        plans.clamp_(state.low, state.high)
        first, second = torch.zeros_like(plans), torch.zeros_like(plans)
        best = Best.none(state)
        for step in range(1, self.steps + 1):
            costs, slope = self._slope(cost, plans, state.scale)
            best = best.of(plans, costs)
            first.lerp_(slope, 1 - self.betas[0])
            second.lerp_(slope.square(), 1 - self.betas[1])
            deviation = (second / (1 - self.betas[1] ** step)).sqrt_().add_(1e-8)
            rate = self.rate * _cosine(step, self.steps) / (1 - self.betas[0] ** step)
            plans = (plans - rate * state.scale * first / deviation).clamp_(state.low, state.high)
        best = best.of(plans, score(cost, plans)).require()
        return Plan(
            best.actions, best.cost, replace(state, mean=best.actions, generator=generator, elites=None, proposals=None)
        )

    @staticmethod
    def _slope(cost: Cost, plans: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Costs (B, S), and their gradients (B, S, K, A) per unit of `scale`, 0 where they are not finite."""
        with torch.enable_grad():
            plans = plans.detach().requires_grad_()
            costs = score(cost, plans)
            if not costs.requires_grad:
                raise PlanningError(
                    "cost: the gradient planner needs a cost that is differentiable in the actions;"
                    " use CEM, iCEM or MPPI for this one"
                )
            total = torch.where(costs.isfinite(), costs, 0).sum()
            (slope,) = torch.autograd.grad(total, plans, allow_unused=True)
        slope = torch.zeros_like(plans) if slope is None else slope * scale
        # Adam squares it: what overflows would stop a start for good.
        return costs.detach(), torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0).clamp_(-1e15, 1e15)


def _cosine(step: int, steps: int) -> float:
    """1 at the first step, 0.1 after the last."""
    return 0.55 + 0.45 * math.cos(math.pi * (step - 1) / steps)
