"""Costs of plans: imagined latents scored against goals and targets, and penalties on the actions themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning.planner import Cost

Distance = Callable[[Tensor, Tensor], Tensor]
"""Latents (B, S, K, N, D) and goal latents (B, N, D) -> distances (B, S, K), 0 or more."""

StageCost = Callable[[Tensor], Tensor]
"""Imagined latents (B, S, K, N, D) -> the cost (B, S, K) of being there at each step."""


PlanCost = Callable[[Tensor, Tensor], Tensor]
"""Latents (B, S, K + 1, N, D), now and after each block, and plans (B, S, K, A) -> a cost (B, S) of both together."""


_LATER = 0.2
"""By how much more the nearest step counts for each latent step that it comes later."""


class Imagines(Protocol):
    """What a cost needs of a world model."""

    def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
        """Latents (B, S, K, N, D) that follow context (B, H, N, D), past (B, H-1, A) and plan (B, S, K, A)."""
        ...


def squared_distance(latents: Tensor, goal: Tensor) -> Tensor:
    """Mean squared difference (B, S, K) between latents (B, S, K, N, D) and a goal (B, N, D)."""
    return (latents - goal[:, None, None]).square().mean(dim=(-2, -1))


def weighted_distance(weights: Sequence[float]) -> Distance:
    """The mean squared difference in which the first values of a latent count with `weights` on their differences, the
    others with 1; SpecError where one is negative, or there are more than a latent has values.

    For latents whose values stand for something, such as `objective.cutouts`: what matters more counts more.
    """
    if not all(0 <= w < float("inf") for w in weights):
        raise SpecError(f"cost: weights of 0 or more expected, got {tuple(weights)}")
    if not weights:
        return squared_distance
    first = torch.tensor(weights)

    def distance(latents: Tensor, goal: Tensor) -> Tensor:
        size = goal[0].numel()
        if len(first) > size:
            raise SpecError(f"cost: at most {size} weights expected, as many as a latent has values, got {len(first)}")
        each = torch.nn.functional.pad(first.to(goal), (0, size - len(first)), value=1.0).view(goal.shape[1:])
        return squared_distance(latents * each, goal * each)

    return distance


def towards(goal: Tensor, distance: Distance = squared_distance) -> StageCost:
    """The distance to goal latents (B, N, D)."""
    return lambda latents: distance(latents, goal)


def within(readout: Callable[[Tensor], Tensor], *, low: Tensor, high: Tensor, scale: Tensor | None = None) -> StageCost:
    """How far named quantities lie outside their ranges: ((value - nearest bound) / scale)^2, summed over quantities.

    readout: latents (..., N, D) -> quantities (..., Q). low, high, scale: (Q,) or one row per episode (B, Q),
    in the quantities' units; equal bounds are a target, infinite ones ask for nothing.
    Raises SpecError where low is above high, shapes differ, or a scale is not positive.
    """
    scale = torch.ones_like(low) if scale is None else scale
    if low.shape != high.shape or low.shape[-1:] != scale.shape[-1:] or low.ndim not in (1, 2):
        raise SpecError(
            f"target: low, high and scale of shape (Q,) or (B, Q) expected,"
            f" got {tuple(low.shape)}, {tuple(high.shape)} and {tuple(scale.shape)}"
        )
    if not bool((low <= high).all()) or not bool(((scale > 0) & scale.isfinite()).all()):
        raise SpecError(
            f"target: low <= high and scale > 0 expected, got low {low.tolist()}, high {high.tolist()},"
            f" scale {scale.tolist()}"
        )
    low, high, scale = (x[:, None, None] if x.ndim == 2 else x for x in (low, high, scale))

    def cost(latents: Tensor) -> Tensor:
        values: Tensor = readout(latents)
        outside = (low - values).clamp_min(0) + (values - high).clamp_min(0)
        return (outside / scale).square().sum(dim=-1)

    return cost


def rollout_cost(
    model: Imagines,
    context: Tensor,
    past: Tensor,
    stage: StageCost,
    *,
    terminal: float = 4.0,
    discount: float = 1.0,
    nearest: float = 0.0,
    inside: PlanCost | None = None,
    at_once: int | None = None,
) -> Cost:
    """The cost of what the model imagines: sum over steps k of discount^k stage(z_k), the last `terminal` times; and
    `nearest` times the least of them, one step later counting a fifth more.

    Where being at the goal once is what is asked for, a sum over steps keeps plans from leaving a place that is nearly
    there for a better way in, and the last step alone lets them put off arriving at each replanning.
    context: (B, H, N, D) latents up to now; past: (B, H-1, A) actions between them. inside: added to it, such as what
    keeps plans where the model was trained. at_once: candidates (B * S) imagined together, which bounds the memory of
    large batches; None imagines all together.
    """
    if not (terminal >= 0 and 0 < discount <= 1 and nearest >= 0):
        raise SpecError(
            "cost: terminal >= 0, 0 < discount <= 1 and nearest >= 0 expected,"
            f" got {terminal}, {discount} and {nearest}"
        )

    def cost(plans: Tensor) -> Tensor:
        weights = discount ** torch.arange(plans.shape[2], dtype=plans.dtype, device=plans.device)
        weights[-1] *= terminal
        later = 1 + _LATER * torch.arange(plans.shape[2], dtype=plans.dtype, device=plans.device)
        size = plans.shape[1] if at_once is None else max(1, at_once // len(plans))
        parts = []
        for part in torch.split(plans, size, dim=1):
            imagined = model.rollout(context, past, part)
            costs = stage(imagined)
            parts.append(costs @ weights)
            if nearest:
                parts[-1] = parts[-1] + nearest * (costs * later).amin(dim=-1)
            if inside is not None:
                now = context[:, -1, None, None].expand(-1, part.shape[1], -1, -1, -1)
                parts[-1] = parts[-1] + inside(torch.cat([now, imagined], dim=2), part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    return cost


def goal_cost(
    model: Imagines,
    context: Tensor,
    past: Tensor,
    goal: Tensor,
    *,
    distance: Distance = squared_distance,
    terminal: float = 4.0,
    discount: float = 1.0,
    at_once: int | None = None,
) -> Cost:
    """The distance of imagined latents to goal latents (B, N, D), summed over the plan as `rollout_cost` does."""
    return rollout_cost(
        model, context, past, towards(goal, distance), terminal=terminal, discount=discount, at_once=at_once
    )


def target_cost(
    model: Imagines,
    context: Tensor,
    past: Tensor,
    readout: Callable[[Tensor], Tensor],
    *,
    low: Tensor,
    high: Tensor,
    scale: Tensor | None = None,
    terminal: float = 1.0,
    discount: float = 1.0,
    at_once: int | None = None,
) -> Cost:
    """Read-out quantities outside their ranges (see `within`), summed over the plan as `rollout_cost` does."""
    stage = within(readout, low=low, high=high, scale=scale)
    return rollout_cost(model, context, past, stage, terminal=terminal, discount=discount, at_once=at_once)


def effort(scale: Tensor, neutral: Tensor | None = None) -> Cost:
    """Mean over steps of the squared action, or of its distance from `neutral`, in units of `scale` (both raw A,)."""

    def cost(plans: Tensor) -> Tensor:
        raw = _raw(plans, scale)
        return ((raw if neutral is None else raw - neutral) / scale).square().sum(dim=-1).mean(dim=-1)

    return cost


def change(scale: Tensor, previous: Tensor | None = None) -> Cost:
    """Mean over steps of the squared difference between raw actions that follow each other, in units of `scale`.

    scale: (raw A,). previous: (B, raw A) the action taken last; without it the first action is free.
    """

    def cost(plans: Tensor) -> Tensor:
        raw = _raw(plans, scale) / scale
        if previous is not None:
            last = (previous / scale)[:, None, None].expand(-1, raw.shape[1], -1, -1)
            raw = torch.cat([last, raw], dim=2)
        if raw.shape[2] == 1:
            return raw.new_zeros(raw.shape[:2])
        return raw.diff(dim=2).square().sum(dim=-1).mean(dim=-1)

    return cost


def _raw(plans: Tensor, scale: Tensor) -> Tensor:
    """Plans (B, S, K, block * A) as raw steps (B, S, K * block, A)."""
    return plans.reshape(*plans.shape[:2], -1, scale.numel())


def combined(*terms: tuple[float, Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """The weighted sum of costs, or of stage costs, which then share one rollout: (weight, cost) pairs."""
    if not terms:
        raise SpecError("cost: at least one (weight, cost) term expected, got none")

    def cost(x: Tensor) -> Tensor:
        total = terms[0][0] * terms[0][1](x)
        for weight, term in terms[1:]:
            total = total + weight * term(x)
        return total

    return cost
