"""What another plan would lead to, and whether the logs can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.readout import Reads
from foretell.model.world_model import WorldModel
from foretell.spec import Episode, check_actions
from foretell.trust.calibration import see
from foretell.trust.intervals import Intervals
from foretell.trust.overlap import LEAST, Overlap

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """Of H steps ahead, in raw steps, and the F fields of a channel.

    plan, other: (H, F) what is expected under each plan. effect: (H, F) what the other adds. low, high: (H, F) around
    `other`, None without intervals. All None where it abstains. compared: by action that the plans differ in, the share
    of comparable training steps at which it differed as much for no reason that was seen. doubts: why it abstains.
    """

    channel: str
    fields: tuple[str, ...]
    units: tuple[str, ...]
    steps: tuple[int, ...]
    compared: dict[str, float]
    doubts: tuple[str, ...]
    plan: list[list[float]] | None = None
    other: list[list[float]] | None = None
    effect: list[list[float]] | None = None
    low: list[list[float]] | None = None
    high: list[list[float]] | None = None

    @property
    def answered(self) -> bool:
        """Whether it says what the effect is."""
        return not self.doubts

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""
        return {**asdict(self), "answered": self.answered}


def what_if(
    model: WorldModel,
    reads: Reads,
    overlap: Overlap,
    history: Episode,
    plan: Array,
    other: Array,
    *,
    longest: int,
    intervals: Intervals | None = None,
    level: float = 0.9,
    least: float = LEAST,
) -> WhatIf:
    """Compare two plans (K, A), raw, from the last step of a history on, a forecast for every block of them.

    It abstains where an action differs between the plans more than it ever did in comparable states for no reason that
    was seen, at fewer than a share `least` of them: what it would lead to cannot be told from such logs. longest: raw
    steps of the longest training episode. Raises SpecError, naming the action, for plans that do not fit the spec, are
    longer than that, or not a number of whole blocks.
    """
    action, block = model.spec.action, model.config.block
    names = {c.name for c in model.spec.observations}
    history = replace(
        history,
        observations={n: x for n, x in history.observations.items() if n in names},
        valid={n: x for n, x in history.valid.items() if n in names},
    )
    history.check(replace(model.spec, quantities=()), "what-if: history")
    for name, each in (("plan", plan), ("other plan", other)):
        if each.ndim != 2 or each.shape[1] != action.size or each.shape != plan.shape:
            raise SpecError(f"what-if: two plans of shape (steps, {action.size}) expected, got {each.shape}")
        check_actions(action, each, f"what-if: {name}")
    if not len(plan) or len(plan) % block:
        raise SpecError(f"what-if: plans of a multiple of {block} steps expected, got {len(plan)}")
    if len(plan) >= longest:
        raise SpecError(
            f"what-if: plans of fewer than {longest} steps expected, got {len(plan)}: no training episode was longer,"
            " so nothing is known of what comes then"
        )
    change, shares = changes(overlap, history, plan, other)
    compared = {n: float(s) for n, s, c in zip(action.names, shares, change, strict=True) if c}
    doubts = tuple(
        f"{name}: up to {abs(change[i]):.3g}{' ' + action.units[i] if action.units[i] else ''}"
        f" {'more' if change[i] > 0 else 'less'} is asked about; in states like this it never varied so but for reasons"
        f" that were seen (at {share:.1%} of steps)"
        for i, (name, share) in enumerate(zip(action.names, shares, strict=True))
        if change[i] and share < least
    )
    steps = tuple(range(block, len(plan) + 1, block))
    said = WhatIf(
        channel=reads.channel, fields=reads.fields, units=reads.units, steps=steps, compared=compared, doubts=doubts
    )
    if doubts:
        return said
    one, two = (_ahead(model, reads, history, each) for each in (plan, other))
    low = high = None
    if intervals is not None and set(steps) <= set(intervals.horizons):
        width = intervals.half_width(level)[[intervals.horizons.index(s) for s in steps]].double()
        low, high = (two - width).tolist(), (two + width).tolist()
    return replace(said, plan=one.tolist(), other=two.tolist(), effect=(two - one).tolist(), low=low, high=high)


def changes(overlap: Overlap, history: Episode, plan: Array, other: Array) -> tuple[Array, Array]:
    """(A,) how far two plans (K, A) differ at most, with the sign of the first difference, and (A,) how often logs did;
    see `Overlap.share`.
    """
    moved = other - plan
    first = moved[(moved != 0).argmax(0), np.arange(moved.shape[1])]
    change = np.sign(first) * np.abs(moved).max(0)
    # With what is told of now.
    now = replace(history, actions=np.concatenate([history.actions, plan[:1]]))
    return change, overlap.share(now, change)


@torch.no_grad()
def _ahead(model: WorldModel, reads: Reads, history: Episode, plan: Array) -> Tensor:
    """(H, F) what is expected of a plan (K, A) at the end of each block."""
    block = model.config.block
    length = min(model.config.history, (len(history) - 1) // block + 1)
    back = (length - 1) * block
    seen = see(model, history, last=not back)
    context = seen.latents[-1 - back :: block][None]
    past = seen.actions[len(seen.actions) - back :].reshape(1, length - 1, model.action_size)
    ahead = torch.from_numpy(np.asarray(plan, np.float32)).reshape(1, 1, -1, model.action_size)
    imagined = model.rollout(*(x.to(model.device) for x in (context, past, ahead)))
    return reads(imagined[0, 0]).double().cpu()
