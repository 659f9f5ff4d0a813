"""The recorded behaviour in two rooms: random walks, no expert."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from foretell.spec import Episode
from foretell.worlds.two_rooms.simulator import Options, Simulator

_GROUP = 64
Array = NDArray[np.float64]


def random_walks(options: Options, count: int, *, seed: int, first: int = 0) -> Iterator[Episode]:
    """Episodes `first` to first + count - 1 of `options.episode_steps` steps; episode i depends on (seed, i) alone.

    Actions follow a first-order autoregression with correlation `persistence` and a stationary
    standard deviation of 0.8 of the bound, clipped to the bounds. A blocked axis turns round with a chance of `turns`
    at each step: pushing on shows that walls do not give way, turning round leads to other places.
    """
    for begin in range(first, first + count, _GROUP):
        numbers = range(begin, min(begin + _GROUP, first + count))
        yield from walk_group(options, [np.random.default_rng([seed, i]) for i in numbers])


class Disturbance:
    """What may go otherwise than the simulator has it in a group of episodes; this one leaves all as it is."""

    def begin(self, simulator: Simulator, rngs: list[np.random.Generator]) -> None:
        """Once every room of the group is drawn."""

    def executed(self, step: int, actions: Array, simulator: Simulator) -> Array:
        """What is done of the actions (n, 2) px that are recorded at a step."""
        return actions

    def moved(self, step: int, before: Array, simulator: Simulator) -> None:
        """After step `step`, which led from positions `before` (n, 2) px to the simulator's."""

    def seen(self, frames: NDArray[np.uint8], simulator: Simulator) -> None:
        """Change the pictures (steps + 1, n, 64, 64, 3) in place before they are recorded."""


def walk_group(
    options: Options, rngs: list[np.random.Generator], disturbance: Disturbance | None = None
) -> Iterator[Episode]:
    """Random walks in as many rooms as there are generators."""
    disturbance = disturbance or Disturbance()
    steps, n = options.episode_steps, len(rngs)
    simulator = Simulator(options, n)
    for i, rng in enumerate(rngs):
        simulator.reset(i, rng)
    disturbance.begin(simulator, rngs)
    layout = simulator.layout.copy()
    keep = options.persistence
    noise = np.stack([rng.standard_normal((steps, 2)) for rng in rngs], axis=1)
    turns = np.stack([rng.random((steps, 2)) < options.turns for rng in rngs], axis=1)
    drive = noise[0].copy()
    actions = np.empty((steps, n, 2))
    frames = np.empty((steps + 1, n, 64, 64, 3), np.uint8)
    positions = np.empty((steps + 1, n, 2))
    for t in range(steps + 1):
        frames[t] = simulator.render(rngs)
        positions[t] = simulator.position
        if t < steps:
            actions[t] = np.clip(0.8 * drive, -1, 1) * options.step
            simulator.step(disturbance.executed(t, actions[t], simulator))
            disturbance.moved(t, positions[t], simulator)
            blocked = np.abs(simulator.position - positions[t]) < 0.5 * np.abs(actions[t] * simulator.gain[:, None])
            drive = keep * np.where(blocked & turns[t], -drive, drive) + np.sqrt(1 - keep**2) * noise[t]
    disturbance.seen(frames, simulator)
    for i in range(n):
        yield Episode(
            observations={
                "camera": np.ascontiguousarray(frames[:, i]),
                "position": positions[:, i].astype(np.float32),
                "layout": np.tile(layout[i].astype(np.float32), (steps + 1, 1)),
            },
            actions=actions[:, i].astype(np.float32),
        )
