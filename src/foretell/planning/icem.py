"""iCEM: the cross-entropy method made sample-efficient by coloured noise and by elites that live on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.noise import coloured_noise
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
)


@dataclass(frozen=True, kw_only=True)
class ICEM:
    """Improved cross-entropy method (Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time
    planning", arXiv:2008.06389).

    CEM with noise of power spectrum 1/f^beta along the raw steps of a plan, a population that shrinks by
    `decay` each iteration, a share `keep` of the elites carried over between iterations and, shifted, between
    calls, and the mean among the candidates of the first and the last iteration. The answer is the cheapest
    plan scored.

    std: first deviation, as a share of the action's scale; floor: the least deviation, likewise.
    momentum: share of the old mean and deviation that is kept at each refit.
    Raises SpecError for settings out of range, PlanningError where no candidate has a finite cost.
    """

    samples: int = 256
    iterations: int = 4
    elites: int = 16
    std: float = 0.5
    floor: float = 0.0
    beta: float = 2.0
    decay: float = 1.25
    keep: float = 0.3
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.elites <= self.samples or self.iterations < 1:
            raise SpecError(f"iCEM: 1 <= elites <= samples and at least one iteration expected, got {self}")
        if not (self.std > 0 and self.floor >= 0 and 0 <= self.momentum < 1):
            raise SpecError(f"iCEM: std > 0, floor >= 0 and 0 <= momentum < 1 expected, got {self}")
        if not (self.beta >= 0 and self.decay >= 1 and 0 <= self.keep <= 1):
            raise SpecError(f"iCEM: beta >= 0, decay >= 1 and 0 <= keep <= 1 expected, got {self}")

    @torch.no_grad()
    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        """The plan found from `state`."""
        generator = copied(state.generator)
        kept = math.ceil(self.keep * self.elites)
        given = offered(state, self.samples)
        mean, floor = given[0][:, 0], self.floor * state.scale
        deviation = (self.std * state.scale).expand_as(mean)
        if state.elites is not None:
            given.append(state.elites[:, :kept])
        best = Best.none(state)
        survivors, known = mean.new_empty(len(mean), 0, *mean.shape[1:]), mean.new_empty(len(mean), 0)
        for iteration in range(self.iterations):
            fixed = given if iteration == 0 else [mean.unsqueeze(1)] if iteration == self.iterations - 1 else []
            count = max(int(self.samples * self.decay**-iteration), min(2 * self.elites, self.samples))
            draws = self._draws(count - sum(plans.shape[1] for plans in fixed), state, generator)
            candidates = torch.cat([*fixed, mean.unsqueeze(1) + deviation.unsqueeze(1) * draws], dim=1)
            candidates.clamp_(state.low, state.high)
            costs = score(cost, candidates)
            best = best.of(candidates, costs)
            pool, pooled = torch.cat([candidates, survivors], dim=1), torch.cat([costs, known], dim=1)
            elites, elite_costs = cheapest(pool, pooled, self.elites)
            new_mean, new_deviation = mean_and_deviation(elites, elite_costs, mean, deviation)
            mean = torch.lerp(new_mean, mean, self.momentum)
            deviation = torch.lerp(new_deviation, deviation, self.momentum).clamp_min_(floor)
            survivors, known = elites[:, :kept], elite_costs[:, :kept]
        best = best.require()
        return Plan(
            best.actions,
            best.cost,
            replace(state, mean=best.actions, generator=generator, elites=survivors, proposals=None),
        )

    def _draws(self, count: int, state: PlanState, generator: torch.Generator) -> Tensor:
        _, horizon, size = state.mean.shape
        shape = (max(count, 0), size // state.block, horizon * state.block)
        raw = coloured_noise(shape, self.beta, generator, state.mean)
        return raw.transpose(1, 2).reshape(-1, horizon, size)
