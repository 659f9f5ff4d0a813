"""What a controller does about a monitor's verdicts: carry on, slow down, or hand over to the safe action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from foretell.errors import SpecError
from foretell.planning.guard import Advice, Mode, Planned
from foretell.trust.monitor import Monitor, Watched
from foretell.trust.support import Leaves, Support


@dataclass(frozen=True)
class Watching:
    """What is known of one episode.

    doubted: steps on end in which it was not to be trusted. handed: steps for which it stays handed over; times: how
    often it has been. acted: steps in which the controller acted since the start, or since it was handed over.
    failed: whether a surprise came of its careful actions. left: where the plan that is followed leaves what training
    covered.
    """

    watched: Watched
    doubted: int = 0
    handed: int = 0
    times: int = 0
    acted: int = 0
    failed: bool = False
    left: tuple[Leaves, ...] = ()


class Abstention:
    """Hands over while the monitor finds surprise or novelty, and slows down while a channel is missing.

    careful: share of each action that is executed until what the first ones led to has been judged, at the start and
    after each time that it was handed over: a broken actuator shows by its doings only, and a safe action may hide it.
    Where these surprise, it stays handed over: trying again and again would do the harm in small steps. They are judged
    by themselves, too, at the monitor's level: the lowest of their `reach` p-values (Bonferroni).
    patience: untrusted steps on end during which it only slows down. rest: steps for which it stays handed over; each
    time twice as many. support: looks at plans, too, at its own `level`; leaving: what to do while a plan is followed
    that leaves what training covered. Raises SpecError for numbers below 0, a share above 1 and an unknown mode,
    DataError where calibration plans are too few for the level.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        careful: float = 0.25,
        patience: int = 0,
        rest: int = 10,
        support: Support | None = None,
        level: float = 0.05,
        leaving: Mode = "slow_down",
    ) -> None:
        if leaving not in get_args(Mode):
            raise SpecError(f"abstention: leaving must be one of {', '.join(get_args(Mode))}, got {leaving!r}")
        if support is not None:
            support.limits(level)
        self.support, self.level, self.leaving = support, level, leaving
        for name, value in (("patience", patience), ("rest", rest)):
            if value < 0:
                raise SpecError(f"abstention: {name} of at least 0 expected, got {value!r}")
        if not 0 < careful <= 1:
            raise SpecError(f"abstention: careful must be a share above 0, at most 1, got {careful!r}")
        self.monitor, self.careful, self.patience, self.rest = monitor, careful, patience, rest

    def start(self) -> Watching:
        """Of an episode before its first observation."""
        return Watching(Watched())

    def advise(
        self,
        observations: Mapping[str, Tensor],
        valid: Mapping[str, Tensor],
        action: Tensor | None,
        plan: Planned | None,
        state: Watching,
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
        handed, times = max(0, state.handed - 1), state.times
        if serious:
            times += state.handed == 0
            handed = max(handed, self.rest * 2 ** (times - 1))
        # What careful actions led to is judged with the step after the last of them.
        trial = self.careful < 1 and 0 < state.acted <= self.monitor.reach
        rare = verdict.surprise is not None and verdict.surprise * self.monitor.reach <= self.monitor.level
        failed = state.failed or (trial and (rare or (serious and verdict.kind == "surprise")))
        left = state.left
        if plan is not None and self.support is not None:
            left = self.support.leaves(plan.latents.cpu(), plan.actions.cpu(), level=self.level)
        abstains = bool(serious or handed or failed)
        unchecked = self.careful < 1 and state.acted < self.monitor.reach
        modes: list[Mode] = ["carry_on" if verdict.trusted and not unchecked else "slow_down"]
        reasons = [*verdict.reasons, *map(str, left)]
        if abstains:
            modes.append("hand_over")
            reasons = reasons or [
                "careful actions did not do what was predicted" if failed else "not trusted a moment ago"
            ]
        elif unchecked:
            reasons = reasons or ["what the first actions lead to has not been judged yet"]
        if left:
            modes.append(self.leaving)
        mode = max(modes, key=get_args(Mode).index)
        now = replace(
            state,
            watched=watched,
            doubted=doubted,
            handed=handed,
            times=times,
            acted=0 if mode == "hand_over" else state.acted + 1,
            failed=failed,
            left=left,
        )
        share = self.careful if unchecked and mode == "slow_down" else None
        return Advice(mode, tuple(reasons), share), now
