"""Fits the temporal distance of a trained model: a quasimetric on its frozen latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.model.distance import DistanceConfig, TemporalDistance
from foretell.objective.quasimetric import excess, stretch


@dataclass(frozen=True, kw_only=True)
class DistanceFit:
    """How a temporal distance is learned from recorded episodes; 0 steps leave it out."""

    steps: int = 1000
    """Optimiser steps."""
    states: int = 200_000
    """Recorded steps that it is learned on, at most; whole episodes are left out beyond."""
    batch: int = 512
    """Pairs of states in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; it falls to zero along a cosine."""
    reach: float = 30.0
    """Latent steps beyond which states are no longer pushed apart."""
    constraint: float = 50.0
    """Weight of recorded steps that are longer than one."""
    width: int = 128
    """Width of the embedding's layers."""
    depth: int = 2
    """Residual blocks of the embedding."""

    def __post_init__(self) -> None:
        for name, low in {"steps": 0, "states": 1, "batch": 1, "width": 1, "depth": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < low:
                raise SpecError(f"distance: {name} must be a whole number of at least {low}, got {value!r}")
        for name in ("learning_rate", "reach", "constraint"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SpecError(f"distance: {name} must be above 0, got {getattr(self, name)!r}")


def fit_distance(
    latents: Sequence[Tensor],
    block: int,
    config: DistanceFit,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> TemporalDistance:
    """The temporal distance, in latent steps, of the world that these episodes are of.

    latents: of every raw step of each episode, (steps, N, D), frozen. block: raw steps in a latent step.
    States of one episode are pushed apart while recorded steps must not be longer than one (`stretch`, `excess`):
    what is left is the length of the shortest way. on_step: called with the number of steps done.
    Raises DataError where no episode is longer than one block.
    """
    z = torch.cat(list(latents))
    lengths = torch.tensor([len(x) for x in latents])
    starts = lengths.cumsum(0) - lengths
    episode = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    rows = torch.arange(len(z))[starts[episode] + lengths[episode] - torch.arange(len(z)) > block]
    if not len(rows):
        raise DataError(f"temporal distance: episodes of more than {block} steps expected")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TemporalDistance(
            DistanceConfig(latent=z.shape[-2] * z.shape[-1], width=config.width, depth=config.depth)
        )
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(config.steps, 1))
    for step in range(config.steps):
        here = rows[torch.randint(len(rows), (config.batch,), generator=generator)]
        of = episode[here]
        other = starts[of] + (torch.rand(config.batch, generator=generator) * lengths[of]).long()
        now, after, goal = head.embedding(torch.cat([z[here], z[here + block], z[other]])).chunk(3)
        apart = stretch(head.between(now, goal), config.reach)
        loss = apart + config.constraint * excess(head.between(now, after))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1)
    return head.eval().requires_grad_(False)
