"""What a controller does about a monitor's verdicts: carry on, slow down, or hand over to the safe action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from foretell.errors import SpecError
from foretell.planning.guard import Advice
from foretell.trust.monitor import Monitor, Watched


@dataclass(frozen=True)
class Watching:
    """A stream's state, for how many steps on end it was not to be trusted, and for how many it stays handed over."""

    watched: Watched
    doubted: int = 0
    handed: int = 0


class Abstention:
    """Hands over while the monitor finds surprise or novelty, and slows down while a channel is missing.

    patience: untrusted steps on end during which it only slows down. rest: steps for which it stays handed over once
    it has been, so that it does not act on every lull. Raises SpecError for numbers below 0.
    """

    def __init__(self, monitor: Monitor, *, patience: int = 0, rest: int = 10) -> None:
        for name, value in (("patience", patience), ("rest", rest)):
            if value < 0:
                raise SpecError(f"abstention: {name} of at least 0 expected, got {value!r}")
        self.monitor, self.patience, self.rest = monitor, patience, rest

    def start(self) -> Watching:
        """Of an episode before its first observation."""
        return Watching(Watched())

    def advise(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor], action: Tensor | None, state: Watching
    ) -> tuple[Advice, Watching]:
        """What to do at one episode's observations, and its state for the next step; see `planning.guard.Guard`."""
        verdict, watched = self.monitor.judge(
            state.watched,
            {n: x.cpu().numpy() for n, x in observations.items()},
            None if action is None else action.cpu().numpy(),
            {n: x.cpu().numpy() for n, x in valid.items()},
        )
        doubted = 0 if verdict.trusted else state.doubted + 1
        serious = verdict.kind in ("surprise", "novelty") and doubted > self.patience
        handed = self.rest if serious else max(0, state.handed - 1)
        now = replace(state, watched=watched, doubted=doubted, handed=handed)
        if serious or handed:
            return Advice("hand_over", verdict.reasons or ("not trusted a moment ago",)), now
        return Advice("carry_on" if verdict.trusted else "slow_down", verdict.reasons), now
