"""Protocols: run a controller or a policy on a batch of held-out problems and keep what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.errors import SpecError
from foretell.evaluation.intervals import Interval, wilson
from foretell.planning import Controller, Plan, State
from foretell.planning.costs import towards
from foretell.planning.guard import Planned
from foretell.worlds import Scenes, Task

Observations = Mapping[str, NDArray[Any]]
Act = Callable[[Observations, int, NDArray[np.int64]], NDArray[np.float64]]
"""Observations (n, *shape) of the problems still running, the step, and which they are (n,) -> actions (n, A)."""

Policy = Callable[[Task, Scenes], Act]
"""Begins on a batch of problems just reset; returns what acts on them."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One problem step by step: T actions, and what was seen and true before and after each.

    observations: by channel, (T+1, *shape). truth: by quantity, (T+1, F). actions: (T, A).
    goal: by channel, (*shape).
    """

    observations: dict[str, NDArray[Any]]
    truth: dict[str, NDArray[np.float64]]
    actions: NDArray[np.float64]
    goal: dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of B problems.

    solved: (B,) within the budget. steps: (B,) taken, up to the solution or the budget. budget: (B,).
    replan_ms: wall time of every replanning of the batch, all running problems together; empty for policies.
    plans: of each problem, every plan and the step that it was made at; empty for policies.
    traces: the first problems, step by step.
    """

    solved: NDArray[np.bool_]
    steps: NDArray[np.int64]
    budget: NDArray[np.int64]
    seconds: float
    replan_ms: tuple[float, ...] = ()
    plans: tuple[tuple[tuple[int, Planned], ...], ...] = ()
    traces: tuple[Trace, ...] = ()

    @property
    def success(self) -> float:
        """Share of problems solved."""
        return float(self.solved.mean())

    @property
    def interval(self) -> Interval:
        """Wilson's 95% interval of the success."""
        return wilson(int(self.solved.sum()), len(self.solved))


def run_policy(task: Task, seeds: Sequence[int], policy: Policy) -> Outcome:
    """One problem per seed, each acted on by the policy until it is solved or its budget is used up."""
    started = time.perf_counter()
    scenes = _reset(task, seeds)
    solved, steps, _ = _run(task, scenes, policy(task, scenes), 0, blind=getattr(policy, "blind", False))
    return Outcome(solved=solved, steps=steps, budget=task.budget.copy(), seconds=time.perf_counter() - started)


def run_controller(
    task: Task, seeds: Sequence[int], controller: Controller, *, seed: int = 0, keep: int = 0
) -> Outcome:
    """One problem per seed, planned together until each is solved or its budget is used up.

    Problems that have ended are planned no more; since a plan does not depend on the others of its batch,
    that changes nothing else. seed: of the planner. keep: how many problems, the first ones, to trace.
    """
    started = time.perf_counter()
    scenes = _reset(task, seeds)
    driver = _Driver(controller, task, torch.Generator().manual_seed(seed))
    solved, steps, traces = _run(task, scenes, driver, min(keep, len(seeds)))
    return Outcome(
        solved=solved,
        steps=steps,
        budget=task.budget.copy(),
        seconds=time.perf_counter() - started,
        replan_ms=tuple(driver.replan_ms),
        plans=tuple(tuple(driver.plans.get(i, ())) for i in range(len(seeds))),
        traces=tuple(traces),
    )


def replan_times(
    task: Task, seeds: Sequence[int], controller: Controller, *, seed: int = 0, count: int = 30
) -> list[float]:
    """Wall times, ms, of `count` replannings of one problem at a time, from picture to plan, after one to warm up."""
    found: list[float] = []
    for one in seeds:
        scenes = _reset(task, [one])
        driver = _Driver(controller, task, torch.Generator().manual_seed(seed))
        _run(task, scenes, driver, 0, replans=count + 1 - len(found))
        found += driver.replan_ms
        if len(found) > count:
            break
    return found[1 : count + 1] if len(found) > 1 else found


def _reset(task: Task, seeds: Sequence[int]) -> Scenes:
    if not len(seeds):
        raise SpecError("evaluation: at least one problem expected, got none")
    return task.reset(list(seeds))


@dataclass
class _Driver:
    """Acts by a controller on the problems that still run, whose number shrinks."""

    controller: Controller
    task: Task
    generator: torch.Generator
    replan_ms: list[float] = field(default_factory=list)
    plans: dict[int, list[tuple[int, Planned]]] = field(default_factory=dict)
    _state: State | None = None
    _goal: Observations = field(default_factory=dict)
    _running: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __call__(self, seen: Observations, step: int, running: NDArray[np.int64]) -> NDArray[np.float64]:
        state, wanted = self._state, self.task.goal()
        goal = {n: torch.from_numpy(x[running]) for n, x in wanted.items()}
        if state is None:
            state = self.controller.start(goal, generator=self.generator)
        elif len(running) < len(self._running):
            at = torch.from_numpy(np.flatnonzero(np.isin(self._running, running))).to(self.controller.model.device)
            state = _selected(state, at, self.controller)
        if self._goal and wanted is not self._goal:
            state = self.controller.retarget(state, goal)
        self._goal = wanted
        started = time.perf_counter()
        actions, after = self.controller.step({n: torch.from_numpy(np.asarray(x)) for n, x in seen.items()}, state)
        result = actions.cpu().numpy().astype(np.float64)
        if after.planned_at == step:
            self.replan_ms.append(1e3 * (time.perf_counter() - started))
        for problem, plan in zip(running.tolist(), self.controller.planned(after), strict=True):
            if plan is not None:
                kept = Planned(plan.latents.cpu(), plan.actions.cpu())
                self.plans.setdefault(problem, []).append((step, kept))
        self._state, self._running = after, running
        return result


def _selected(state: State, at: Tensor, controller: Controller) -> State:
    """The state of the episodes `at` (n,) of a batch alone."""
    assert state.goal is not None
    goal, search = state.goal[at], state.search
    search = replace(
        search,
        mean=search.mean[at],
        elites=None if search.elites is None else search.elites[at],
        proposals=None if search.proposals is None else search.proposals[at],
    )
    return replace(
        state,
        batch=len(at),
        stage=towards(goal, controller.distance),
        goal=goal,
        latents=tuple(z[at] for z in state.latents),
        actions=state.actions[at],
        search=search,
        plan=None if state.plan is None else Plan(state.plan.actions[at], state.plan.cost[at], search),
        imagined=None if state.imagined is None else state.imagined[at],
        guarded=tuple(state.guarded[i] for i in at.tolist()) if state.guarded else (),
        advice=tuple(state.advice[i] for i in at.tolist()) if state.advice else (),
        adapted=None if state.adapted is None else state.adapted.selected(at),
        looked=None if state.looked is None else state.looked.selected(at),
    )


def _run(
    task: Task, scenes: Scenes, act: Act, keep: int, *, replans: int | None = None, blind: bool = False
) -> tuple[NDArray[np.bool_], NDArray[np.int64], list[Trace]]:
    """Step the problems until all have ended: solved (B,), steps (B,) and the first `keep` traces.

    replans: stop after so many replannings of a controller, to time them. blind: whether `act` does not look.
    """
    count = len(task.budget)
    advance = getattr(task, "step_blindly", task.step) if blind else task.step
    solved = task.solved()
    steps = np.where(solved, 0, task.budget)
    running = ~solved & (task.budget > 0)
    seen: Observations = scenes.observations
    frames, truth, moves = [_first(seen, keep)], [_first(task.truth(), keep)], []
    actions: NDArray[np.float64] | None = None
    for step in range(int(task.budget.max())):
        if not running.any() or (isinstance(act, _Driver) and len(act.replan_ms) == replans):
            break
        at = np.flatnonzero(running)
        chosen = act({n: x[at] for n, x in seen.items()}, step, at)
        # Problems that have ended repeat their last action: it is within bounds, and nothing is scored any more.
        actions = np.zeros((count, chosen.shape[1])) if actions is None else actions.copy()
        actions[at] = chosen
        if step == 0 and len(at) < count:
            actions[~running] = chosen[0]
        seen = advance(actions)
        moves.append(actions[:keep])
        frames.append(_first(seen, keep))
        truth.append(_first(task.truth(), keep))
        now = task.solved() & running
        solved |= now
        steps[now] = step + 1
        running &= ~now & (task.budget > step + 1)
    traces = [
        Trace(
            observations={n: np.stack([f[n][i] for f in frames[: int(steps[i]) + 1]]) for n in frames[0]},
            truth={n: np.stack([f[n][i] for f in truth[: int(steps[i]) + 1]]) for n in truth[0]},
            actions=np.stack([m[i] for m in moves[: int(steps[i])]]) if steps[i] and moves else np.zeros((0, 0)),
            goal={n: np.array(x[i]) for n, x in scenes.goal.items()},
        )
        for i in range(keep)
    ]
    return solved, steps, traces


def _first(values: Mapping[str, NDArray[Any]], keep: int) -> dict[str, NDArray[Any]]:
    return {name: np.array(x[:keep]) for name, x in values.items()}
