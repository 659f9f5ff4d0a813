"""What may stop a controller: advice, from whoever watches over it, to slow down or to hand over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

Mode = Literal["carry_on", "slow_down", "hand_over"]


@dataclass(frozen=True)
class Advice:
    """What to do now, and why, in words for people.

    share: of the way from the safe action to the planned one; None: 1 to carry on, 1/2 to slow down, 0 to hand over.
    """

    mode: Mode = "carry_on"
    reasons: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True)
class Planned:
    """What a controller has just planned for one episode.

    latents: (K + 1, N, D), now and what the plan is expected to lead to after each block. actions: (K, block * A) raw.
    """

    latents: Tensor
    actions: Tensor


class Guard(Protocol):
    """Watches over each episode of a batch. Its state of an episode is passed in and out, never changed in place."""

    def start(self) -> Any:
        """Of an episode before its first observation."""
        ...

    def advise(
        self,
        observations: Mapping[str, Tensor],
        valid: Mapping[str, Tensor],
        action: Tensor | None,
        plan: Planned | None,
        state: Any,
    ) -> tuple[Advice, Any]:
        """What to do at one episode's observations (*shape) by channel, with masks, and its state for the next step.

        action: (A,) raw, what was done since the observations before; None at the first. plan: the one made at this
        step; None while an earlier one is followed.
        """
        ...
