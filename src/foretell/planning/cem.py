"""CEM: the cross-entropy method, a Gaussian refitted to the cheapest plans of each iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from foretell.errors import SpecError
from foretell.model.noise import noise
from foretell.planning.planner import (
    Best,
    Cost,
    Plan,
    PlanState,
    cheapest,
    copied,
    mean_and_deviation,
    offered,
    score,
    settle,
)


@dataclass(frozen=True, kw_only=True)
class CEM:
    """Cross-entropy method (Rubinstein 1999; de Boer et al. 2005, "A tutorial on the cross-entropy method").

    Each iteration scores `samples` plans per episode: the current mean, and draws of a diagonal Gaussian
    around it clipped to the bounds; mean and deviation are refitted to the `elites` cheapest. The draws
    are shared by the episodes of a batch, so that an episode's plan does not depend on its neighbours.

    std: first deviation, as a share of the action's scale; floor: the least deviation, likewise.
    momentum: share of the old mean and deviation that is kept at each refit.
    answer: "best", the cheapest plan scored (never worse than the warm start or a proposal), or "mean",
        the last mean, smoother and less prone to exploit the model's errors.
    Raises SpecError for settings out of range, PlanningError where no candidate has a finite cost.
    """

    samples: int = 256
    iterations: int = 4
    elites: int = 32
    std: float = 1.0
    floor: float = 0.05
    momentum: float = 0.0
    answer: Literal["best", "mean"] = "best"

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.samples or self.iterations < 1:
            raise SpecError(f"CEM: 1 <= elites <= samples and at least one iteration expected, got {self}")
        if not (self.std > 0 and self.floor >= 0 and 0 <= self.momentum < 1):
            raise SpecError(f"CEM: std > 0, floor >= 0 and 0 <= momentum < 1 expected, got {self}")
        if self.answer not in ("best", "mean"):
            raise SpecError(f"CEM: answer must be 'best' or 'mean', got {self.answer!r}")

    @torch.no_grad()
    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        """The plan found from `state`."""
        generator = copied(state.generator)
        given = torch.cat(offered(state, self.samples), dim=1)
        mean, floor = given[:, 0], self.floor * state.scale
        deviation = (self.std * state.scale).expand_as(mean)
        best = Best.none(state)
        for iteration in range(self.iterations):
            fixed = given if iteration == 0 else mean.unsqueeze(1)
            draws = noise((self.samples - fixed.shape[1], *mean.shape[1:]), generator, mean)
            candidates = torch.cat([fixed, mean.unsqueeze(1) + deviation.unsqueeze(1) * draws], dim=1)
            candidates.clamp_(state.low, state.high)
            costs = score(cost, candidates)
            best = best.of(candidates, costs)
            new_mean, new_deviation = mean_and_deviation(*cheapest(candidates, costs, self.elites), mean, deviation)
            mean = torch.lerp(new_mean, mean, self.momentum)
            deviation = torch.lerp(new_deviation, deviation, self.momentum).clamp_min_(floor)
        best = settle(cost, best, mean if self.answer == "mean" else None, state)
        return Plan(
            best.actions, best.cost, replace(state, mean=best.actions, generator=generator, elites=None, proposals=None)
        )
