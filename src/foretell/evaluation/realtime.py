"""A controller in real time: the simulator runs in another process and waits for nobody."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foretell import worlds
from foretell.errors import ForetellError, SpecError
from foretell.planning import Controller, RealTime

_SHARE = 0.8
"""Of a tick, for an answer; the rest is for its way."""
_PATIENCE = 120.0
"""s that the simulator may take to start."""


@dataclass(frozen=True, kw_only=True)
class Ticks:
    """What became of problems in real time. solved: (B,). count: ticks in all. missed: those at whose end no action had
    come, so that the last one was executed again. late: those answered from the plan before.
    """

    solved: NDArray[np.bool_]
    count: int
    missed: int
    late: int


def run_real_time(
    world: str,
    options: Mapping[str, Any],
    task: Mapping[str, Any],
    problems: Sequence[int],
    controller: Controller,
    *,
    hz: float,
    seed: int = 0,
) -> Ticks:
    """One problem after the other of a built-in world, at `hz` ticks a second: at each the simulator shows what is seen
    and, at its end, moves on with the action that came, or with the last one.

    Raises what the world does where it cannot be made, ForetellError where the simulator's process dies.
    """
    if not 0 < hz < float("inf"):
        raise SpecError(f"real time: ticks a second above 0 expected, got {hz!r}")
    worlds.make(world, **options).task(**task)
    safe = controller.spec.action.safe
    rest = [0.0] * controller.spec.action.size if safe is None else list(safe)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    settings = (there, world, dict(options), dict(task), list(problems), hz, rest)
    process = context.Process(target=_simulate, args=settings, daemon=True)
    process.start()
    there.close()
    solved, count, missed, late = [], 0, 0, 0
    try:
        for _ in problems:
            goal = _told(here, process, _PATIENCE)
            generator = torch.Generator().manual_seed(seed)
            state = controller.start(_tensors(goal), generator=generator)
            with RealTime(controller, state, seconds=_SHARE / hz) as live:
                # Whatever is only done once is done before the clock runs.
                controller.step(_tensors(_told(here, process, _PATIENCE)), state)
                here.send("begin")
                while True:
                    tick, seen, done = _told(here, process, _PATIENCE)
                    if seen is None:
                        solved.append(bool(done))
                        missed += tick
                        break
                    here.send((tick, live.step(_tensors(seen))[0].tolist()))
                    count += 1
                late += live.late
    finally:
        here.close()
        process.join(5)
        if process.is_alive():
            process.kill()
    return Ticks(solved=np.array(solved), count=count, missed=missed, late=late)


def _tensors(seen: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(x)) for name, x in seen.items()}


def _told(here: Connection, process: Any, seconds: float) -> Any:
    try:
        if here.poll(seconds):
            return here.recv()
    except (EOFError, OSError):
        pass
    raise ForetellError(f"real time: the simulator's process ended or hung (exit code {process.exitcode})")


def _simulate(
    there: Connection,
    world: str,
    options: Mapping[str, Any],
    task: Mapping[str, Any],
    problems: Sequence[int],
    hz: float,
    rest: Sequence[float],
) -> None:
    """The other process: for each problem its goal and what is seen first, then a clock that nobody stops."""
    made = worlds.make(world, **options).task(**task)
    for problem in problems:
        scenes = made.reset([problem])
        seen, goal, action = scenes.observations, made.goal(), list(rest)
        there.send(goal)
        there.send(seen)
        there.recv()
        missed, due = 0, time.perf_counter()
        for tick in range(int(made.budget[0])):
            if bool(made.solved()[0]):
                break
            there.send((tick, seen, False))
            due += 1 / hz
            came = False
            while not came and there.poll(max(0.0, due - time.perf_counter())):
                answered, told = there.recv()
                # An answer to an earlier tick has missed its own.
                came = answered == tick
                action = told
            missed += not came
            time.sleep(max(0.0, due - time.perf_counter()))
            seen = made.step(np.array([action]))
        there.send((missed, None, bool(made.solved()[0])))
    there.close()
