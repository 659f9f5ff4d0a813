"""A tiny world with known answers: a point on a line, seen as a vector, and a model that is exact for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.episodes.record import record
from foretell.episodes.store import EpisodeStore
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.worlds import Scenes

STEP = 0.5
SPEC = Spec(
    observations=(Channel(name="sensor", kind="vector", shape=(2,), units=("m", "m")),),
    action=ActionSpec(names=("dx", "dy"), units=("m", "m"), low=(-STEP, -STEP), high=(STEP, STEP)),
    hz=10.0,
    quantities=(Channel(name="place", kind="vector", shape=(2,), fields=("x", "y"), units=("m", "m")),),
)


class Points:
    """Moves by the action; problems ask for a point 4 m away. `budgets` are the steps allowed, cycled."""

    name = "points"
    spec = SPEC
    options: Mapping[str, Any] = {}

    def episodes(self, count: int, *, seed: int) -> Iterator[Episode]:
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            actions = rng.uniform(-STEP, STEP, (40, 2)).astype(np.float32)
            start = rng.normal(0, 2, (1, 2))
            places = np.concatenate([start, start + np.cumsum(actions, 0)]).astype(np.float32)
            yield Episode(observations={"sensor": places, "place": places}, actions=actions)

    def task(self, **options: Any) -> PointTask:
        return PointTask(**options)


class PointTask:
    """Solved once within 0.3 m of the goal, which is on the other side of where it was after `moves` steps."""

    def __init__(self, budgets: Sequence[int] = (40,), moves: int = -1) -> None:
        self._budgets, self._moves = budgets, moves
        self.budget: NDArray[np.int64] = np.zeros(0, np.int64)
        self.stepped: list[NDArray[np.float64]] = []

    def reset(self, seeds: Sequence[int]) -> Scenes:
        rngs = [np.random.default_rng(s) for s in seeds]
        angles = np.array([r.uniform(0, 2 * np.pi) for r in rngs])
        self.place = np.stack([r.normal(0, 1, 2) for r in rngs])
        self.target = self.place + 4 * np.stack([np.cos(angles), np.sin(angles)], 1)
        self.budget = np.resize(np.asarray(self._budgets, np.int64), len(seeds))
        self._solved = np.zeros(len(seeds), bool)
        self.stepped = []
        self._wanted = {"sensor": self.target.astype(np.float32)}
        return Scenes({"sensor": self.place.astype(np.float32)}, self._wanted)

    def goal(self) -> dict[str, NDArray[Any]]:
        return self._wanted

    def step(self, actions: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        assert actions.shape == self.place.shape
        assert (np.abs(actions) <= STEP).all()
        self.stepped.append(actions)
        self.place = self.place + actions
        if len(self.stepped) == self._moves:
            self.target = self.place - (self.target - self.place)
            self._wanted = {"sensor": self.target.astype(np.float32)}
        self._solved |= np.linalg.norm(self.place - self.target, axis=1) < 0.3
        return {"sensor": self.place.astype(np.float32)}

    def solved(self) -> NDArray[np.bool_]:
        return self._solved.copy()

    def truth(self) -> dict[str, NDArray[np.float64]]:
        return {"place": self.place.copy()}

    def goal_truth(self) -> dict[str, NDArray[np.float64]]:
        return {"place": self.target.copy()}

    def straight(self) -> NDArray[np.float64]:
        gap = self.target - self.place
        return np.asarray(gap * np.minimum(1, STEP / np.maximum(np.abs(gap).max(1, keepdims=True), 1e-9)))


class Exact(WorldModel):
    """Its latents are the sensor's values, its predictions their sum with the actions."""

    def __init__(self, block: int = 2, history: int = 1) -> None:
        super().__init__(SPEC, ModelConfig(latent=2, block=block, history=history, features=4, width=4, depth=1))
        self.encoded: list[int] = []

    def encode(self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> Tensor:
        self.encoded.append(len(observations["sensor"]))
        return observations["sensor"].float()[:, :, None]

    def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
        assert context.shape[1] <= self.config.history
        assert past.shape[1] == context.shape[1] - 1
        moves = plan.unflatten(-1, (self.config.block, 2)).sum(-2).cumsum(2)
        return (context[:, -1, 0][:, None, None] + moves)[..., None, :]


def recorded(path: Path, episodes: int = 12) -> EpisodeStore:
    """A store of random walks."""
    record((SPEC, Points().episodes(episodes, seed=0)), path, episodes=episodes)
    return EpisodeStore(path)


def exact(block: int = 2, history: int = 1) -> Exact:
    """The exact model, ready for use."""
    torch.manual_seed(0)
    return Exact(block, history).eval().requires_grad_(False)
