"""Fits the temporal distance of a trained model: a quasimetric on its frozen latents, recorded and imagined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import DataError, SpecError, require_whole
from foretell.model.distance import DistanceConfig, TemporalDistance
from foretell.model.world_model import WorldModel
from foretell.objective.quasimetric import excess, stretch

_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class DistanceFit:
    """How a temporal distance is learned from recorded episodes; 0 steps leave it out."""

    steps: int = 800
    """Optimiser steps."""
    batch: int = 512
    """Pairs of states in a step."""
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; it falls to zero along a cosine."""
    reach: float = 30.0
    """Latent steps beyond which states are no longer pushed apart."""
    lenient: float = 2.0
    """Weight of steps that are longer than one, at the first optimiser step: low, so that walls are learned."""
    constraint: float = 50.0
    """The same at the last one; the weight grows by a constant factor. High, so that ways through doors keep their
    length: distances in proportion, which are scaled afterwards."""
    longest: float = 0.9
    """Quantile of the steps' distances that is scaled to one: the others were shorter moves."""
    paths: int = 8
    """Paths imagined from each episode's states, so that places meet that no single episode joins."""
    blocks: int = 20
    """Latent steps of an imagined path."""
    width: int = 128
    """Width of the embedding's layers."""
    depth: int = 2
    """Residual blocks of the embedding."""

    def __post_init__(self) -> None:
        require_whole("distance", self, 0, "steps")
        require_whole("distance", self, 1, "batch", "paths", "blocks", "width", "depth")
        for name in ("learning_rate", "reach", "lenient", "constraint"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SpecError(f"distance: {name} must be above 0, got {getattr(self, name)!r}")
        if not 0 < self.longest <= 1:
            raise SpecError(f"distance: longest must be in (0, 1], got {self.longest!r}")


@dataclass(frozen=True)
class _States:
    """States of G episodes, an episode's side by side. latents: (n, N, D). starts, counts: (G,). episode: (n,).

    steps: (m, 2) rows that one latent step leads from and to.
    """

    latents: Tensor
    starts: Tensor
    counts: Tensor
    episode: Tensor
    steps: Tensor


def fit_distance(
    model: WorldModel,
    latents: Sequence[Tensor],
    actions: Sequence[Tensor],
    config: DistanceFit,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> TemporalDistance:
    """The temporal distance, in latent steps, of the world that these episodes are of.

    latents: of every raw step of each episode, (steps, N, D), frozen. actions: theirs, (steps - 1, A), raw units.
    States of one episode are pushed apart while no step may be longer than one (`stretch`, `excess`): what is left
    is the length of the shortest way. From recorded states go imagined paths, with actions recorded elsewhere; so
    the distance knows the latents that plans are made of, and states far from each other in one layout.
    on_step: called with the number of steps done. Raises DataError where no episode is longer than one block.
    """
    generator = torch.Generator().manual_seed(seed)
    if max((len(x) for x in latents), default=0) <= model.config.block:
        raise DataError(f"temporal distance: episodes of more than {model.config.block} steps expected")
    states = _gathered(latents, _imagined(model, latents, actions, config, generator), model.config.block)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = states.latents.shape[-2] * states.latents.shape[-1]
        head = TemporalDistance(DistanceConfig(latent=size, width=config.width, depth=config.depth))
    optimiser = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(config.steps, 1))
    for step in range(config.steps):
        here, after = states.steps[torch.randint(len(states.steps), (config.batch,), generator=generator)].unbind(1)
        of = states.episode[here]
        other = states.starts[of] + (torch.rand(config.batch, generator=generator) * states.counts[of]).long()
        now, then, goal = head.embedding(states.latents[torch.cat([here, after, other])]).chunk(3)
        apart = stretch(head.between(now, goal), config.reach)
        weight: float = config.lenient * (config.constraint / config.lenient) ** (step / config.steps)
        loss = apart + weight * excess(head.between(now, then))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1)
    _scale(head, states, config.longest)
    return head.eval().requires_grad_(False)


@torch.no_grad()
def _scale(head: TemporalDistance, states: _States, quantile: float) -> None:
    """Make the `quantile` of recorded and imagined steps one long."""
    some = states.steps[:: max(1, len(states.steps) // 10_000)]
    lengths = head.between(head.embedding(states.latents[some[:, 0]]), head.embedding(states.latents[some[:, 1]]))
    longest = float(lengths.quantile(quantile))
    if longest > 0:
        head.config = replace(head.config, scale=head.config.scale / longest)


@torch.no_grad()
def _imagined(
    model: WorldModel,
    latents: Sequence[Tensor],
    actions: Sequence[Tensor],
    config: DistanceFit,
    generator: torch.Generator,
) -> Tensor:
    """Paths (G, paths, blocks + 1, N, D) from random states of each episode, on actions of random others."""
    count, block = len(latents), model.config.block
    shape = (count * config.paths,)
    begin = torch.stack([latents[i // config.paths][k] for i, k in enumerate(_drawn(latents, shape[0], generator))])
    flat = torch.cat([torch.zeros(0, model.spec.action.size), *actions])
    # A stretch may run over from one recording into the next: that is one more change of mind.
    at = torch.randint(len(flat), shape, generator=generator)[:, None] + torch.arange(config.blocks * block)
    plans = flat[at % len(flat)].view(*shape, config.blocks, -1)
    found = []
    for first in range(0, shape[0], _AT_ONCE):
        start, plan = (x[first : first + _AT_ONCE].to(model.device) for x in (begin, plans))
        path = model.rollout(start[:, None], plan.new_zeros(len(plan), 0, plan.shape[-1]), plan[:, None])[:, 0]
        found.append(torch.cat([start[:, None], path], dim=1).float().cpu())
    return torch.cat(found).view(count, config.paths, config.blocks + 1, *begin.shape[1:])


def _drawn(latents: Sequence[Tensor], count: int, generator: torch.Generator) -> list[int]:
    """A random step of an episode for each of its paths, `count` in all."""
    lengths = torch.tensor([len(x) for x in latents]).repeat_interleave(count // len(latents))
    drawn: list[int] = (torch.rand(count, generator=generator) * lengths).long().tolist()
    return drawn


def _gathered(latents: Sequence[Tensor], paths: Tensor, block: int) -> _States:
    """Recorded and imagined states, by episode."""
    counts = torch.tensor([len(x) + p.shape[0] * p.shape[1] for x, p in zip(latents, paths, strict=True)])
    starts = counts.cumsum(0) - counts
    steps = []
    for start, recorded in zip(starts.tolist(), latents, strict=True):
        rows = start + torch.arange(max(len(recorded) - block, 0))
        steps.append(torch.stack([rows, rows + block], dim=1))
        imagined = start + len(recorded) + torch.arange(paths.shape[1] * paths.shape[2]).view(paths.shape[1:3])
        steps.append(torch.stack([imagined[:, :-1], imagined[:, 1:]], dim=-1).flatten(0, 1))
    return _States(
        latents=torch.cat([part for x, p in zip(latents, paths, strict=True) for part in (x, p.flatten(0, 1))]),
        starts=starts,
        counts=counts,
        episode=torch.repeat_interleave(torch.arange(len(counts)), counts),
        steps=torch.cat(steps),
    )
