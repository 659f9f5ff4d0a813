"""An action at every tick, whatever planning takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from foretell.planning.controller import Controller, State

Seen = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Missed:
    """A tick that planning did not keep: what was seen, and what was done instead."""

    observations: Seen
    actions: Tensor


class RealTime:
    """A controller that never makes anybody wait: planning happens beside it, and where it is late the rest of the last
    plan is executed, then the spec's safe action, or the last action where it names none.

    state: of the controller at the start. seconds: that a step may take. clock: seconds that pass. late: at how many
    steps planning was, so far. A guard of the controller is asked where planning keeps up, and not where it is late.
    Use it as a context, or `close` it.
    """

    def __init__(
        self, controller: Controller, state: State, *, seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.controller, self.seconds, self.late = controller, seconds, 0
        self._state, self._clock = state, clock
        self._missed: list[_Missed] = []
        self._time = state.time
        self._last: Tensor | None = None
        self._pool = ThreadPoolExecutor(1, "planning")
        self._planning: Future[tuple[Tensor, State]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the plan that is being made, if any, and drop it."""
        self._pool.shutdown(cancel_futures=True)

    def step(self, observations: Seen) -> Tensor:
        """Raw actions (B, A) for what is seen now (B, *shape), within the seconds that it may take.

        Raises what planning raises, at the step after which it is known.
        """
        until = self._clock() + self.seconds
        actions: Tensor | None = None
        if self._planning is not None and self._planning.done():
            # A plan for an earlier step, at which it came too late: what was done since then is told with the next one.
            _, self._state = self._planning.result()
            first = self._missed[0].actions
            self._state = self._state.executed(first)
            self._missed, self._planning = self._missed[1:], None
        if self._planning is None:
            self._planning = self._pool.submit(self._plan, self._state, tuple(self._missed), observations)
            self._missed = []
            try:
                actions, self._state = self._planning.result(max(0.0, until - self._clock()))
                self._planning = None
            except Late:
                actions = None
        if actions is None:
            self.late += 1
            actions = self._instead()
            self._missed.append(_Missed(observations, actions))
        self._last = actions
        self._time += 1
        return actions

    def _plan(self, state: State, missed: tuple[_Missed, ...], observations: Seen) -> tuple[Tensor, State]:
        for each in missed:
            state = self.controller.followed(each.observations, state, each.actions)
        return self.controller.step(observations, state)

    def _instead(self) -> Tensor:
        """What the last plan says of now, or what is safe."""
        state, action = self._state, self.controller.spec.action
        if state.plan is not None:
            planned, at = state.plan.actions.reshape(state.batch, -1, action.size), self._time - state.planned_at
            if at < planned.shape[1]:
                low, high = state.search.low[: action.size], state.search.high[: action.size]
                return planned[:, at].clamp(low, high)
        if action.safe is not None:
            return torch.tensor(action.safe).to(state.actions).expand(state.batch, -1)
        return self._last if self._last is not None else state.actions.new_zeros(state.batch, action.size)
