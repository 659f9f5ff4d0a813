"""Two rooms as Gymnasium environments, single and vectorised, registered as foretell/TwoRooms-v0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.worlds.two_rooms.simulator import SIZE, Options, Simulator

Frame = NDArray[np.uint8]


def _spaces(options: Options) -> tuple[spaces.Space[Frame], spaces.Space[NDArray[np.float32]]]:
    camera: Any = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action: Any = spaces.Box(-options.step, options.step, (2,), np.float32)
    return camera, action


def _moves(actions: NDArray[Any], shape: tuple[int, ...], bound: float) -> NDArray[np.float64]:
    """Actions clipped to their bounds; SpecError for another shape, NaN and infinity."""
    found = np.asarray(actions, np.float64)
    if found.shape != shape or not np.isfinite(found).all():
        raise SpecError(f"two_rooms: finite actions of shape {shape} expected, got {found.tolist()}")
    return np.clip(found, -bound, bound)


class TwoRoomsEnv(gymnasium.Env[Frame, NDArray[np.float32]]):
    """One dot to move about: observation (64, 64, 3) uint8, action (2,) px; no reward, truncated by length.

    Keyword arguments are the fields of `Options`. `info` holds the quantities `position` and `layout`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        self._options = Options(**options)
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces(self._options)
        self._simulator = Simulator(self._options, 1)
        self._steps = 0
        self._seen: Frame = np.zeros((SIZE, SIZE, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """A new layout and a free position."""
        super().reset(seed=seed)
        self._simulator.reset(0, self.np_random)
        self._steps = 0
        return self._observe(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Move by the action, clipped to its bounds; SpecError where it is not finite."""
        self._simulator.step(_moves(action, (2,), self._options.step)[None])
        self._steps += 1
        return self._observe(), 0.0, False, self._steps >= self._options.episode_steps, self._info()

    def render(self) -> Any:
        """(64, 64, 3) what the camera saw last."""
        return self._seen.copy()

    def _observe(self) -> Frame:
        self._seen = self._simulator.render([self.np_random])[0]
        return self._seen.copy()

    def _info(self) -> dict[str, Any]:
        return {name: value[0] for name, value in self._simulator.truth().items()}


class TwoRoomsVectorEnv(gymnasium.vector.VectorEnv[Frame, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` rooms stepped and rendered together; rooms that ran their length restart at the next step."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(self, num_envs: int = 1, **options: Any) -> None:
        self._options = Options(**options)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = _spaces(self._options)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._simulator = Simulator(self._options, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._steps = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        """New layouts and positions everywhere; room i is that of a single environment with seed + i, or seed[i]."""
        n = self.num_envs
        seeds = (
            [None if seed is None else seed + i for i in range(n)] if seed is None or isinstance(seed, int) else seed
        )
        if len(seeds) != n:
            raise SpecError(f"two_rooms: {n} seeds expected, got {len(seeds)}")
        old: Sequence[np.random.Generator | None] = self._rngs or [None] * n
        self._rngs = [
            np_random(s)[0] if s is not None or rng is None else rng for s, rng in zip(seeds, old, strict=True)
        ]
        for i in range(n):
            self._restart(i)
        return self._simulator.render(self._rngs), dict(self._simulator.truth())

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Frame, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Move every dot, (n, 2) px; rooms truncated by the step before are reset instead."""
        ended = self._steps >= self._options.episode_steps
        self._simulator.step(_moves(actions, (self.num_envs, 2), self._options.step))
        self._steps += 1
        for i in np.flatnonzero(ended):
            self._restart(int(i))
        frames = self._simulator.render(self._rngs)
        nothing = np.zeros(self.num_envs, bool)
        truncated = self._steps >= self._options.episode_steps
        return frames, np.zeros(self.num_envs), nothing, truncated, dict(self._simulator.truth())

    def _restart(self, index: int) -> None:
        self._simulator.reset(index, self._rngs[index])
        self._steps[index] = 0


if "foretell/TwoRooms-v0" not in gymnasium.registry:
    gymnasium.register(
        id="foretell/TwoRooms-v0",
        entry_point="foretell.worlds.two_rooms.environment:TwoRoomsEnv",
        vector_entry_point="foretell.worlds.two_rooms.environment:TwoRoomsVectorEnv",
    )
