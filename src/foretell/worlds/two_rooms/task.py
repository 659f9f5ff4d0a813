"""The task in two rooms: reach a goal, given as an image, on the other side of the wall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import check_actions
from foretell.worlds.two_rooms.simulator import Options, Simulator, shortest_steps
from foretell.worlds.world import Scenes

NEAR_BUDGET = 100
SUCCESS_PX = 3.0


class TwoRoomsTask:
    """Start and goal in different rooms; solved once the dot has been within 3 px of the goal.

    distance: `any` pair of free positions with a budget of 100 steps; `far` only pairs whose
    shortest path takes 60 to 120 steps, with a budget of 1.5 times the shortest path.
    """

    def __init__(self, options: Options, *, distance: Literal["any", "far"] = "any") -> None:
        if distance not in ("any", "far"):
            raise SpecError(f"two_rooms: distance must be 'any' or 'far', got {distance!r}")
        self._options, self._distance = options, distance
        self.budget: NDArray[np.int64] = np.zeros(0, np.int64)
        self.shortest: NDArray[np.int64] = np.zeros(0, np.int64)

    def reset(self, seeds: Sequence[int]) -> Scenes:
        """One problem per seed; SpecError where no problem of the distance asked for exists."""
        n = len(seeds)
        self._simulator = sim = Simulator(self._options, n)
        self._goal = np.zeros((n, 2))
        self._rngs = [np.random.default_rng([0x7A5C, seed]) for seed in seeds]
        for i, rng in enumerate(self._rngs):
            self._draw(i, rng)
        start = sim.position
        self.shortest = shortest_steps(start, self._goal, sim.layout, sim.radius, self._pace(slice(None)))
        if self._distance == "far":
            self.budget = np.ceil(1.5 * self.shortest).astype(np.int64)
        else:
            self.budget = np.full(n, NEAR_BUDGET, np.int64)
        sim.position = self._goal
        self._wanted = {"camera": sim.render(self._rngs)}
        sim.position = start
        self._solved = self._reached()
        return Scenes({"camera": sim.render(self._rngs)}, self._wanted)

    def goal(self) -> dict[str, NDArray[Any]]:
        """The picture of each goal, (B, 64, 64, 3); it does not move."""
        return self._wanted

    def _draw(self, index: int, rng: np.random.Generator) -> None:
        sim = self._simulator
        for _ in range(2_000):
            sim.reset(index, rng)
            side = int(rng.integers(2))
            sim.position[index] = sim.free_position(index, rng, side)
            self._goal[index] = sim.free_position(index, rng, 1 - side)
            at = slice(index, index + 1)
            steps = shortest_steps(sim.position[at], self._goal[at], sim.layout[at], sim.radius[at], self._pace(at))
            if self._distance == "any" or 60 <= steps[0] <= 120:
                return
        raise SpecError(f"two_rooms: no goals 60 to 120 steps away with a step of {self._options.step} px")

    def step(self, actions: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Act, (B, 2) px, and see, {'camera': (B, 64, 64, 3)}; SpecError outside the bounds."""
        actions = np.asarray(actions, np.float64)
        if actions.shape != (len(self._simulator), 2):
            raise SpecError(f"two_rooms: actions of shape {(len(self._simulator), 2)} expected, got {actions.shape}")
        check_actions(self._options.spec.action, actions, "two_rooms")
        self._simulator.step(actions)
        self._solved |= self._reached()
        return {"camera": self._simulator.render(self._rngs)}

    def solved(self) -> NDArray[np.bool_]:
        """(B,) whether the dot has been within 3 px of the goal."""
        return self._solved.copy()

    def truth(self) -> dict[str, NDArray[np.float64]]:
        """Position and layout now, (B, 2) px each."""
        return self._simulator.truth()

    def goal_truth(self) -> dict[str, NDArray[np.float64]]:
        """Position and layout at the goal, (B, 2) px each."""
        return {"position": self._goal.copy(), "layout": self._simulator.layout.copy()}

    def straight(self) -> NDArray[np.float64]:
        """(B, 2) the largest move towards the goal in a straight line."""
        gap = self._goal - self._simulator.position
        largest = np.abs(gap).max(1, keepdims=True)
        return np.asarray(gap * np.minimum(1.0, self._options.step / np.maximum(largest, 1e-9)))

    def _pace(self, rooms: slice) -> NDArray[np.float64]:
        """(n,) px along each axis that the largest action moves the dot."""
        return np.asarray(np.abs(self._simulator.gain[rooms]) * self._options.step)

    def _reached(self) -> NDArray[np.bool_]:
        return np.asarray(np.linalg.norm(self._simulator.position - self._goal, axis=1) <= SUCCESS_PX)
