"""Which of the plans that were followed leave what training covered, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foretell.planning.guard import Planned
from foretell.trust.support import KINDS, Leaves, Support

LEVEL = 0.1


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """Of `plans` plans, those that leave: the problem, the step that it was made at, and where it leaves.

    level: at most this share of plans like those of calibration episodes would be told to leave.
    """

    level: float
    plans: int
    found: tuple[tuple[int, int, tuple[Leaves, ...]], ...]

    @property
    def share(self) -> float:
        """Of the plans, those that leave."""
        return len(self.found) / self.plans

    def of(self, what: str) -> list[int]:
        """The steps, from 1, at which plans leave the `states` or the `actions`."""
        return [leaves.step for *_, each in self.found for leaves in each if leaves.what == what]

    def to_json(self) -> dict[str, Any]:
        """level, plans, share, and of each kind its share and the median step; None where no plan leaves."""
        kinds: dict[str, Any] = {
            what: {
                "share": len(self.of(what)) / self.plans,
                "median_step": float(np.median(self.of(what))) if self.of(what) else None,
            }
            for what in KINDS
        }
        return {"level": self.level, "plans": self.plans, "share": self.share, **kinds}


def plans_that_leave(
    support: Support, plans: Sequence[Sequence[tuple[int, Planned]]], *, level: float = LEVEL
) -> Leaving:
    """Look at every plan of every problem, each with the step that it was made at; at least one plan.

    Raises DataError where calibration plans are too few for the level.
    """
    every = [(i, step, plan) for i, made in enumerate(plans) for step, plan in made]
    latents = torch.stack([plan.latents for *_, plan in every])
    actions = torch.stack([plan.actions for *_, plan in every])
    left = support.all_leaves(latents, actions, level=level)
    found = tuple((i, step, each) for (i, step, _), each in zip(every, left, strict=True) if each)
    return Leaving(level=level, plans=len(every), found=found)
