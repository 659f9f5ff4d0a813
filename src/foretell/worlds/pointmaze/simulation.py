"""Mazes as `ogbench` has them (Park et al. 2025, "OGBench", arXiv 2410.20092), seen from above, walked by a script."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import ActionSpec, Channel, Spec
from foretell.worlds.camera import Camera, headless
from foretell.worlds.extra import needed
from foretell.worlds.simulated import SimulatedOptions

Array = NDArray[np.float64]
Cell = tuple[int, int]
NEAR = 1.0
"""m: how close the ball must come to the goal. A corridor is 4 m wide, a step at most 0.2 m along each axis."""
_AT, _JITTER = 1.0, 1.2
"""m: how close to a place on its way the ball comes before it heads for the next, and how far beside the middle of a
corridor places lie, at most."""


@dataclass(frozen=True, kw_only=True)
class Options(SimulatedOptions):
    """maze: which one. Proprioception shows where the ball is."""

    world: ClassVar[str] = "pointmaze"

    maze: Literal["medium", "large"] = "medium"
    episode_steps: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.maze not in ("medium", "large"):
            raise SpecError(f"pointmaze: maze must be 'medium' or 'large', got {self.maze!r}")

    @property
    def spec(self) -> Spec:
        """A camera above the maze, and the ball's place where asked for; moves as shares of the largest."""
        ball = Channel(name="ball", kind="vector", shape=(2,), fields=("x", "y"), units=("m", "m"))
        return Spec(
            observations=(self.camera, ball) if self.proprioception else (self.camera,),
            action=ActionSpec(names=("dx", "dy"), units=("", ""), low=(-1.0, -1.0), high=(1.0, 1.0), safe=(0.0, 0.0)),
            hz=10.0,
            quantities=() if self.proprioception else (ball,),
        )


@functools.cache
def _environment(maze: str) -> Any:
    """One for all balls: each puts its own place in before it moves or is seen."""
    headless("pointmaze")
    make = needed("ogbench.locomaze.maze", "pointmaze").make_maze_env
    env = make("point", "maze", maze_type=maze, terminate_at_goal=False)
    env.reset(seed=0)
    # Drawn for people; goals are pictures here.
    env.model.geom("target").rgba[3] = 0
    env.model.mat("target").rgba[3] = 0
    return env


@functools.cache
def _camera(maze: str, side: int) -> Camera:
    env = _environment(maze)
    return Camera(env.model, env.custom_camera, side, "pointmaze")


class Simulation:
    """One ball. State (2,): its place in m."""

    def __init__(self, options: Options) -> None:
        self.spec, self._options = options.spec, options
        self._env, self._camera = _environment(options.maze), _camera(options.maze, options.size)
        free = np.argwhere(self._env.maze_map == 0)
        self._free: list[Cell] = [(int(i), int(j)) for i, j in free]
        self._place = np.zeros(2)

    def reset(self, rng: np.random.Generator) -> None:
        """Anywhere free."""
        self._place = self._beside(self._free[int(rng.integers(len(self._free)))], rng)

    def state(self) -> Array:
        """(2,): the ball has no velocity of its own from one step to the next."""
        return self._place.copy()

    def restore(self, state: Array) -> None:
        """See `state`."""
        self._place = np.array(state, np.float64)

    def step(self, action: Array) -> None:
        """A fifth of a metre along each axis at most; walls push the ball back."""
        self._env.set_state(self._place, np.zeros(2))
        self._env.step(action)
        self._place = np.array(self._env.get_xy())

    def seen(self) -> dict[str, NDArray[Any]]:
        """The picture, and where the ball is where asked for."""
        self._env.set_state(self._place, np.zeros(2))
        seen: dict[str, NDArray[Any]] = {"camera": self._camera.picture(self._env.data)}
        return seen | (self.truth(self._place) if self._options.proprioception else {})

    def truth(self, state: Array) -> dict[str, Array]:
        """Where the ball is."""
        return {"ball": state}

    def reached(self, state: Array, goal: Array) -> bool:
        """Within a metre."""
        return bool(np.linalg.norm(state - goal) <= NEAR)

    def pushed(self, state: Array, rng: np.random.Generator) -> Array:
        """The ball pushed 1 to 2.5 m, as far as walls let it."""
        way = rng.uniform(-np.pi, np.pi)
        steps = int(rng.uniform(1, 2.5) / 0.2)
        self.restore(state)
        for _ in range(steps):
            self.step(np.array([np.cos(way), np.sin(way)]))
        return self.state()

    def straight(self, state: Array, goal: Array) -> Array:
        """Straight to the goal, through walls if it could."""
        return np.asarray(np.clip((goal - state) / 0.2, -1, 1))

    def behaviour(self, rng: np.random.Generator) -> Callable[[], Array]:
        """Along the shortest way to one free place after another, with noise; one stretch in four by noise alone."""
        way: list[Array] = []
        left, lost, noise = 0, False, np.zeros(2)

        def act() -> Array:
            nonlocal way, left, lost, noise
            while way and np.linalg.norm(way[0] - self._place) < _AT:
                way = way[1:]
            if left <= 0:
                left, lost = int(rng.integers(20, 60)), bool(rng.random() < 0.25)
            if not way:
                to = self._free[int(rng.integers(len(self._free)))]
                way = [self._beside(cell, rng) for cell in self._way(to)]
            left -= 1
            noise = 0.8 * noise + 0.6 * rng.normal(0, 0.5, 2)
            ahead = way[0] - self._place
            ahead /= max(float(np.abs(ahead).max()), 0.2)
            return np.asarray(np.clip(noise + (0 if lost else 1) * ahead, -1, 1))

        return act

    def _beside(self, cell: Cell, rng: np.random.Generator) -> Array:
        return np.array(self._env.ij_to_xy(cell)) + rng.uniform(-_JITTER, _JITTER, 2)

    def _way(self, to: Cell) -> list[Cell]:
        """The cells of the shortest way from where the ball is, the last one `to`."""
        now = np.array([self._env.ij_to_xy(c) for c in self._free])
        start = self._free[int(np.abs(now - self._place).max(1).argmin())]
        came: dict[Cell, Cell] = {to: to}
        ahead = deque([to])
        while ahead and start not in came:
            i, j = ahead.popleft()
            for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if cell in self._free and cell not in came:
                    came[cell] = (i, j)
                    ahead.append(cell)
        found = [start]
        while found[-1] != to:
            found.append(came[found[-1]])
        return found
