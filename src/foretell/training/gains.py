"""Gains: each window as another body, sensor or dose would have shown it, so that a model learns to find out which.

Few patients (machines, robots) are learned by heart; what differs between them is, above all, how strongly one thing
answers to another. Scaled at random, everything that is needed to tell stands in what the model looks back on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.episodes.batch import Batch
from foretell.errors import SpecError
from foretell.spec import Spec


@dataclass(frozen=True)
class Gain:
    """names: vector channels and actions that are scaled together. spread: of the logarithm of the gain, normal.
    about: the value that stays what it is.
    """

    names: tuple[str, ...]
    spread: float
    about: float = 0.0


def parse(text: str) -> Gain:
    """`insulin+basal+bolus:0.3`, or `glucose:0.2@110` with what stays as it is; SpecError for anything else."""
    names, _, rest = text.partition(":")
    spread, at, about = rest.partition("@")
    try:
        found = Gain(tuple(n.strip() for n in names.split("+")), float(spread), float(about) if at else 0.0)
    except ValueError:
        found = Gain((), -1.0)
    if not (all(found.names) and found.names and 0 <= found.spread < 5 and abs(found.about) < float("inf")):
        raise SpecError(f"gains: NAME+NAME:SPREAD or NAME:SPREAD@VALUE expected, such as dose:0.3, got {text!r}")
    return found


def check(gains: Sequence[Gain], spec: Spec) -> None:
    """Raise SpecError where a name is neither a vector channel nor an action, or is scaled twice."""
    known = {c.name for c in spec.channels if c.kind == "vector"} | set(spec.action.names)
    every = [name for gain in gains for name in gain.names]
    for name in every:
        if name not in known:
            raise SpecError(f"gains: vector channels and actions are {sorted(known)}, got {name!r}")
        if every.count(name) > 1:
            raise SpecError(f"gains: {name} is scaled twice")


def scaled(
    batch: Batch,
    gains: Sequence[Gain],
    spec: Spec,
    generator: torch.Generator,
    *,
    rank: int = 0,
    ranks: int = 1,
    group: int = 1,
) -> Batch:
    """The batch, each window by gains of its own, drawn for the batches of all ranks together.

    group: neighbours that get the same. Invalid entries stay zero.
    """
    count = len(batch) * ranks // group
    observations, actions = dict(batch.observations), batch.actions
    for gain in gains:
        drawn = torch.exp(gain.spread * torch.randn(count, generator=generator)).repeat_interleave(group)
        factor = drawn[rank * len(batch) : (rank + 1) * len(batch)]
        for name in gain.names:
            if name in observations:
                x = observations[name]
                there = batch.valid.get(name)
                moved = _about(x, factor.view(-1, *(1,) * (x.dim() - 1)), gain.about)
                observations[name] = moved if there is None else moved.masked_fill(~_like(there, x), 0)
            if name in spec.action.names:
                raw = actions.view(*actions.shape[:2], -1, spec.action.size).clone()
                i = spec.action.names.index(name)
                raw[..., i] = _about(raw[..., i], factor.view(-1, 1, 1), gain.about)
                actions = raw.flatten(-2)
    return replace(batch, observations=observations, actions=actions)


def _about(x: Tensor, factor: Tensor, value: float) -> Tensor:
    return value + (x - value) * factor


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.view(*mask.shape, *(1,) * (x.dim() - mask.dim())).expand_as(x)
