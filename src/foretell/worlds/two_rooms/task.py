"""The task in two rooms: reach a goal, given as an image, on the other side of the wall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import check_actions
from foretell.worlds.two_rooms.behaviour import walk_group
from foretell.worlds.two_rooms.simulator import Options, Simulator, shortest_steps
from foretell.worlds.world import Scenes

NEAR_BUDGET = 100
SUCCESS_PX = 3.0


class TwoRoomsTask:
    """Start and goal in different rooms; solved once the dot has been within 3 px of the goal.

    distance: `any` pair of free positions with a budget of 100 steps; `far` only pairs whose
    shortest path takes 60 to 120 steps, with a budget of 1.5 times the shortest path.

    offset: instead, start somewhere in a walk that was never recorded; the goal is where it was so many steps later, in
    either room, within twice as many. disturbed: of such problems, once, after a fifth to a half of the offset: `push`,
    the dot is pushed for five of its largest steps in some direction, as far as walls let it; or `goal`, which moves to
    where the walk was a quarter of the offset later, or earlier where it had ended by then.
    """

    def __init__(
        self,
        options: Options,
        *,
        distance: Literal["any", "far"] = "any",
        offset: int | None = None,
        disturbed: Literal["", "push", "goal"] = "",
    ) -> None:
        if distance not in ("any", "far"):
            raise SpecError(f"two_rooms: distance must be 'any' or 'far', got {distance!r}")
        if disturbed not in ("", "push", "goal") or (disturbed and offset is None):
            raise SpecError(f"two_rooms: disturbed must be 'push' or 'goal', beside an offset, got {disturbed!r}")
        if offset is not None and not (type(offset) is int and 1 <= offset <= options.episode_steps):
            raise SpecError(
                f"two_rooms: an offset from 1 to {options.episode_steps} expected, the steps of an episode,"
                f" got {offset!r}"
            )
        self._options, self._distance, self._offset, self._disturbed = options, distance, offset, disturbed
        self.budget: NDArray[np.int64] = np.zeros(0, np.int64)
        self.shortest: NDArray[np.int64] = np.zeros(0, np.int64)

    def reset(self, seeds: Sequence[int]) -> Scenes:
        """One problem per seed; SpecError where no problem of the distance asked for exists."""
        n = len(seeds)
        self._simulator = sim = Simulator(self._options, n)
        self._goal = np.zeros((n, 2))
        self._rngs = [np.random.default_rng([0x7A5C, seed]) for seed in seeds]
        self._time, self._moved = 0, np.zeros((n, 2))
        for i, rng in enumerate(self._rngs):
            if self._offset is None:
                self._draw(i, rng)
            else:
                self._walked(i, rng, self._offset)
        span = (max(1, (self._offset or 1) // 5), max(1, (self._offset or 1) // 2))
        self._when: NDArray[np.int64] = np.full(n, -1)
        if self._disturbed:
            self._when = np.array([int(rng.integers(*span, endpoint=True)) for rng in self._rngs])
        start = sim.position.copy()
        self.shortest = shortest_steps(start, self._goal, sim.layout, sim.radius, self._pace(slice(None)))
        if self._offset is not None:
            self.budget = np.full(n, 2 * self._offset, np.int64)
        elif self._distance == "far":
            self.budget = np.ceil(1.5 * self.shortest).astype(np.int64)
        else:
            self.budget = np.full(n, NEAR_BUDGET, np.int64)
        sim.position = self._goal
        self._wanted = {"camera": sim.render(self._rngs)}
        sim.position = start
        self._solved = self._reached()
        return Scenes({"camera": sim.render(self._rngs)}, self._wanted)

    def goal(self) -> dict[str, NDArray[Any]]:
        """The picture of each goal, (B, 64, 64, 3); another object once one has moved."""
        return self._wanted

    def _walked(self, index: int, rng: np.random.Generator, offset: int) -> None:
        """A piece of a walk of the behaviour policy."""
        (walk,) = walk_group(self._options, [rng])
        places = walk.observations["position"].astype(np.float64)
        begin = int(rng.integers(len(places) - offset))
        later = begin + offset + max(1, offset // 4)
        self._simulator.reset(index, rng, tuple(walk.observations["layout"][0].tolist()))
        self._simulator.position[index], self._goal[index] = places[begin], places[begin + offset]
        self._moved[index] = places[later if later < len(places) else 2 * (begin + offset) - later]

    def _disturb(self) -> None:
        """What happens to some of the problems now, if anything."""
        sim = self._simulator
        now = self._when == self._time
        if not now.any():
            return
        if self._disturbed == "push":
            push = np.zeros((len(sim), 2))
            for i in np.flatnonzero(now):
                way = self._rngs[i].uniform(-np.pi, np.pi)
                push[i] = self._options.step * np.array([np.cos(way), np.sin(way)])
            for _ in range(5):
                sim.step(push)
            return
        self._goal = np.where(now[:, None], self._moved, self._goal)
        here, sim.position = sim.position, self._goal
        seen = sim.render(self._rngs)
        sim.position = here
        self._wanted = {"camera": np.where(now[:, None, None, None], seen, self._wanted["camera"])}

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
        self._disturb()
        self._time += 1
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
