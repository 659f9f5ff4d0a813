"""What every planner shares: costs, the explicit planning state, plans, and how candidates are scored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import ForetellError, SpecError

Cost = Callable[[Tensor], Tensor]
"""Candidate plans (B, S, K, A) -> costs (B, S), lower is better; differentiable where the model is."""


class PlanningError(ForetellError, RuntimeError):
    """No plan can be chosen: the cost is of the wrong shape, not differentiable, or finite for no candidate."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class PlanState:
    """All a planner starts from, and hands on to its next call. Nothing in it is changed in place.

    B episodes, K latent steps, A = block * (raw action size) values per step, raw steps in order.

    low, high: (A,) bounds in the action's units, infinite where there are none.
    scale: (A,) typical size of an action: what the caller knows of it, half the range at most.
    mean: (B, K, A) warm start.
    generator: the source of randomness; planners work on a copy, so the same state gives the same plan.
    block: raw actions per latent step.
    elites: (B, E, K, A) good plans of the previous call (iCEM), None where there are none.
    proposals: (B, P, K, A) plans offered by anybody, scored with the others in the first iteration, once.
    Raises SpecError where the shapes do not fit together.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    mean: Tensor
    generator: torch.Generator
    block: int = 1
    elites: Tensor | None = None
    proposals: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 3:
            raise SpecError(f"plan mean: shape (B, K, A) expected, got {tuple(self.mean.shape)}")
        batch, horizon, size = self.mean.shape
        if min(batch, horizon, size) < 1:
            raise SpecError(f"plan mean: at least one episode, step and action expected, got {tuple(self.mean.shape)}")
        if self.block < 1 or size % self.block:
            raise SpecError(f"plan: {size} action values per step do not divide into blocks of {self.block}")
        for name in ("low", "high", "scale"):
            if getattr(self, name).shape != (size,):
                raise SpecError(f"plan {name}: shape ({size},) expected, got {tuple(getattr(self, name).shape)}")
        for name in ("elites", "proposals"):
            plans: Tensor | None = getattr(self, name)
            if plans is not None and (plans.ndim != 4 or (plans.shape[0], *plans.shape[2:]) != (batch, horizon, size)):
                raise SpecError(
                    f"plan {name}: shape ({batch}, any, {horizon}, {size}) expected, got {tuple(plans.shape)}"
                )

    @staticmethod
    def start(
        low: Tensor,
        high: Tensor,
        *,
        batch: int,
        horizon: int,
        generator: torch.Generator,
        block: int = 1,
        scale: Tensor | None = None,
    ) -> PlanState:
        """A cold start for plans between raw bounds `low` and `high` (raw A,).

        The mean is the middle of the range, or the value nearest to zero where a bound is infinite.
        `scale` (raw A,) is half the range at most, and that unless given; 1 where a bound is infinite.
        Raises SpecError for bounds that are NaN or in the wrong order, and for scales that are not positive.
        """
        if low.shape != high.shape or low.ndim != 1:
            raise SpecError(f"bounds: two of shape (A,) expected, got {tuple(low.shape)} and {tuple(high.shape)}")
        if not bool((low < high).all()):
            raise SpecError(f"bounds: low must be below high, got {low.tolist()} and {high.tolist()}")
        bounded = low.isfinite() & high.isfinite()
        half = torch.where(bounded, high / 2 - low / 2, torch.full_like(low, math.inf))
        if scale is None:
            scale = torch.where(bounded, half, torch.ones_like(low))
        if scale.shape != low.shape or not bool(((scale > 0) & scale.isfinite()).all()):
            raise SpecError(f"scale: {low.numel()} positive numbers expected, got {scale.tolist()}")
        middle = torch.where(bounded, low / 2 + high / 2, torch.zeros_like(low)).clamp(low, high)
        scale = torch.minimum(scale, half)
        return PlanState(
            low=low.repeat(block),
            high=high.repeat(block),
            scale=scale.repeat(block),
            mean=middle.repeat(block).expand(batch, horizon, -1).clone(),
            generator=generator,
            block=block,
        )

    def shift(self, steps: int) -> PlanState:
        """The same state `steps` raw steps later: mean and elites move up, the last raw action is held."""
        if steps < 0:
            raise SpecError(f"plan: cannot be shifted by {steps} steps")

        def moved(plans: Tensor) -> Tensor:
            raw = plans.reshape(*plans.shape[:-2], plans.shape[-2] * self.block, plans.shape[-1] // self.block)
            at = torch.arange(steps, steps + raw.shape[-2], device=raw.device).clamp_(max=raw.shape[-2] - 1)
            return raw.index_select(-2, at).reshape(plans.shape)

        return replace(self, mean=moved(self.mean), elites=None if self.elites is None else moved(self.elites))


@dataclass(frozen=True)
class Plan:
    """actions: (B, K, A), within bounds. cost: (B,), finite. state: what the planner's next call starts from."""

    actions: Tensor
    cost: Tensor
    state: PlanState


Planner = Callable[[Cost, PlanState], Plan]
"""Searches plans under a cost. Knows neither model nor world."""


def copied(generator: torch.Generator) -> torch.Generator:
    """A generator that continues as `generator` would, without advancing it."""
    copy = torch.Generator(device=generator.device)
    copy.set_state(generator.get_state())
    return copy


def offered(state: PlanState, at_most: int) -> list[Tensor]:
    """The warm start and the proposals as candidates within bounds, one (B, n, K, A) tensor each.

    Raises SpecError where they are not finite or more than `at_most` in all.
    """
    found = [state.mean.unsqueeze(1)]
    if state.proposals is not None and state.proposals.shape[1]:
        found.append(state.proposals.to(state.mean))
    if sum(plans.shape[1] for plans in found) > at_most:
        count = found[-1].shape[1]
        raise SpecError(f"proposals: {count} do not fit beside the warm start among {at_most} candidates; offer fewer")
    for name, plans in zip(("warm start", "proposals"), found, strict=False):
        if not bool(plans.isfinite().all()):
            raise SpecError(f"{name}: finite actions expected, got NaN or infinity")
    return [plans.clamp(state.low, state.high) for plans in found]


def score(cost: Cost, candidates: Tensor) -> Tensor:
    """Costs (B, S) of candidates (B, S, K, A); what is not finite becomes +infinity, so that it is never chosen."""
    costs = cost(candidates)
    if costs.shape != candidates.shape[:2]:
        raise PlanningError(
            f"cost: one value per candidate, shape {tuple(candidates.shape[:2])}, expected, got {tuple(costs.shape)}"
        )
    return torch.where(costs.isfinite(), costs, math.inf)


@dataclass(frozen=True)
class Best:
    """The cheapest plan seen so far for each episode: actions (B, K, A), cost (B,), +infinity before any."""

    actions: Tensor
    cost: Tensor

    @staticmethod
    def none(state: PlanState) -> Best:
        """Nothing seen yet."""
        return Best(state.mean, state.mean.new_full(state.mean.shape[:1], math.inf))

    def of(self, candidates: Tensor, costs: Tensor) -> Best:
        """The best of these candidates (B, S, K, A) with costs (B, S) and of what was seen before."""
        cost, at = costs.min(dim=1)
        better = cost < self.cost
        found = candidates[torch.arange(len(at), device=at.device), at]
        return Best(torch.where(better[:, None, None], found, self.actions), torch.where(better, cost, self.cost))

    def require(self) -> Best:
        """This, or PlanningError where an episode has no candidate with a finite cost."""
        missing = self.cost.isinf().nonzero().flatten().tolist()
        if missing:
            raise PlanningError(
                f"cost: NaN or infinite for every candidate of episode {missing[0]} ({len(missing)} of"
                f" {len(self.cost)} episodes); check the observations and the goal, and that training did not diverge"
            )
        return self


def mean_and_deviation(plans: Tensor, costs: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, K, A) over the plans (B, E, K, A) whose cost (B, E) is finite.

    Episodes without any keep `mean` and `deviation`.
    """
    weights = costs.isfinite().to(plans.dtype)
    count = weights.sum(dim=1)
    known = (count > 0)[:, None, None]
    weights = weights / count.clamp_min(1).unsqueeze(1)
    centre = torch.einsum("be,beka->bka", weights, plans)
    spread = torch.einsum("be,beka->bka", weights, (plans - centre.unsqueeze(1)).square_()).sqrt_()
    return torch.where(known, centre, mean), torch.where(known, spread, deviation)


def cheapest(plans: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` cheapest plans (B, count, K, A) and their costs (B, count), cheapest first."""
    costs, at = costs.topk(min(count, costs.shape[1]), dim=1, largest=False)
    return plans[torch.arange(len(at), device=at.device).unsqueeze(1), at], costs


def settle(cost: Cost, best: Best, mean: Tensor | None, state: PlanState) -> Best:
    """The answer of a sampling planner: `mean` (B, K, A) where it is given and its cost finite, else the best."""
    if mean is not None:
        plans = mean.clamp(state.low, state.high).unsqueeze(1)
        costs = score(cost, plans).squeeze(1)
        known = costs.isfinite()
        best = Best(
            torch.where(known[:, None, None], plans.squeeze(1), best.actions), torch.where(known, costs, best.cost)
        )
    return best.require()
