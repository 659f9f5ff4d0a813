"""Floors: random actions, straight at the goal, and policies that imitate instead of planning."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from foretell.episodes.cache import Cache
from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError, SpecError
from foretell.evaluation.protocols import Act, Observations
from foretell.model.imitation import Imitation, ImitationConfig
from foretell.model.world_model import WorldModel
from foretell.planning.live import checked
from foretell.spec import ActionSpec
from foretell.worlds import Scenes, Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RandomActions:
    """Uniform actions within the bounds; a standard normal where a bound is infinite."""

    action: ActionSpec
    seed: int
    blind: ClassVar[bool] = True
    """Whoever does not look need not be shown anything, which takes most of a simulator's time."""

    def __call__(self, task: Task, scenes: Scenes) -> Act:
        """Begin."""
        rng = np.random.default_rng([self.seed, 0xAC7])
        low, high = np.array(self.action.low), np.array(self.action.high)
        bounded = np.isfinite(low) & np.isfinite(high)

        def act(seen: Observations, step: int, running: NDArray[np.int64]) -> NDArray[np.float64]:
            # Drawn for every problem, so that one's actions do not depend on when another ends.
            share, normal = rng.random((len(task.budget), len(low))), rng.standard_normal((len(task.budget), len(low)))
            drawn = np.where(bounded, 0.0, normal)
            drawn[:, bounded] = low[bounded] + share[:, bounded] * (high - low)[bounded]
            return np.asarray(np.clip(drawn, low, high)[running])

        return act


class Straight:
    """The floor that is told where the goal is and heads straight for it."""

    blind = True

    def __call__(self, task: Task, scenes: Scenes) -> Act:
        """Begin."""
        return lambda seen, step, running: task.straight()[running]


straight = Straight()


class Imitating:
    """Acts by imitation, without a plan: what it sees through its own eyes, or through the model's."""

    def __init__(self, model: WorldModel, imitation: Imitation, seconds: float = 0.0) -> None:
        self.imitation, self.seconds = imitation, seconds
        self._model = model if imitation.eyes is None else imitation.eyes

    def __call__(self, task: Task, scenes: Scenes) -> Act:
        """Begin."""
        wanted, goals = task.goal(), self._encoded(task.goal(), "goal")
        low, high = np.array(self._model.spec.action.low), np.array(self._model.spec.action.high)

        def act(seen: Observations, step: int, running: NDArray[np.int64]) -> NDArray[np.float64]:
            nonlocal wanted, goals
            if task.goal() is not wanted:
                wanted, goals = task.goal(), self._encoded(task.goal(), "goal")
            now = self._encoded(seen, "observations")
            with torch.no_grad():
                told = self.imitation(now, goals[torch.from_numpy(running)])[..., : len(low)]
                actions = self._model.raw_actions(told).cpu().numpy().astype(np.float64)
            return np.asarray(np.clip(actions, low, high))

        return act

    def _encoded(self, seen: Mapping[str, NDArray[Any]], where: str) -> Tensor:
        tensors = {n: torch.from_numpy(np.asarray(x)) for n, x in seen.items()}
        values, masks = checked(self._model.spec, tensors, where=where)
        device = self._model.device
        with torch.no_grad():
            return self._model.encode({n: x.to(device) for n, x in values.items()}, masks)[:, 0]


def fit_inverse_dynamics(
    model: WorldModel,
    store: EpisodeStore,
    episodes: Sequence[int],
    latents: Sequence[Tensor],
    *,
    seed: int,
    reach: int = 50,
    steps: int = 2000,
    batch: int = 512,
    width: int = 256,
    ahead: int = 1,
) -> Imitating:
    """Goal-conditioned inverse dynamics: from the model's frozen latents of now and of the goal to the action.

    Trained with hindsight goals: in a recorded episode, what was seen k steps later is taken as the goal of
    the action now, k uniform in 1..`reach` (Ghosh et al. 2021, "Learning to reach goals via iterated supervised
    learning"). It shares the representation and lacks only the prediction and the planner; a few seconds.

    latents: of every step of each episode, (steps, N, D), frozen. reach: the farthest hindsight goal, raw steps.
    ahead: raw actions told at once. Raises SpecError where the spec names no actions, DataError where no episode holds
    two steps.
    """
    _require_actions(model)
    flat = torch.cat(list(latents))
    config = ImitationConfig(latent=flat[0].numel(), action=model.spec.action.size, ahead=ahead, width=width)
    imitation = _made(lambda: Imitation(config), seed)
    return _fitted(
        model, imitation, store, episodes, lambda rows: flat[rows], seed=seed, reach=reach, steps=steps, batch=batch
    )


def fit_cloning(
    model: WorldModel,
    store: EpisodeStore,
    episodes: Sequence[int],
    *,
    seed: int,
    reach: int = 50,
    steps: int = 1500,
    batch: int = 128,
    width: int = 256,
) -> Imitating:
    """Behaviour cloning towards a goal: the same as `fit_inverse_dynamics` with an encoder of its own, which begins as
    the model's and is then trained with the policy, for what was done alone; minutes where that is pictures. Arguments
    and errors as there.
    """
    _require_actions(model)
    # It predicts nothing.
    sizes = replace(model.config, width=8, depth=1, block=1, history=1)
    eyes = _made(lambda: WorldModel(model.spec, sizes), seed)
    apart = {k: v for k, v in eyes.state_dict().items() if k.startswith("predictor.")}
    eyes.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("predictor.")} | apart)
    config = ImitationConfig(latent=sizes.latent, action=store.spec.action.size, width=width)
    imitation = _made(lambda: Imitation(config, eyes.requires_grad_(True)), seed)
    cache = Cache(store)
    names = [c.name for c in store.spec.observations]
    at = torch.cat([torch.arange(int(cache.starts[i]), int(cache.starts[i] + store.lengths[i])) for i in episodes])

    def encoded(rows: Tensor) -> Tensor:
        where = at[rows].numpy()
        seen = {n: torch.from_numpy(cache.values[n][where][:, None]) for n in names}
        valid = {n: torch.from_numpy(cache.valid[n][where][:, None]) for n in names if n in cache.valid}
        return eyes.encode(seen, valid)[:, 0]

    return _fitted(eyes, imitation, store, episodes, encoded, seed=seed, reach=reach, steps=steps, batch=batch)


def _require_actions(model: WorldModel) -> None:
    if model.spec.action.size == 0:
        raise SpecError("imitation: the spec names no actions")


def _made(make: Callable[[], T], seed: int) -> T:
    """With weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _fitted(
    model: WorldModel,
    imitation: Imitation,
    store: EpisodeStore,
    episodes: Sequence[int],
    encoded: Callable[[Tensor], Tensor],
    *,
    seed: int,
    reach: int,
    steps: int,
    batch: int,
) -> Imitating:
    """The policy, fitted with hindsight goals on rows, one for each step of the episodes; encoded: their latents."""
    started = time.perf_counter()
    lengths = torch.tensor([int(store.lengths[i]) for i in episodes])
    moves = [torch.from_numpy(np.array(store.read(i, []).actions, np.float32)) for i in episodes]
    ahead = imitation.config.ahead
    # A row for every step, so that steps and actions share their numbers; what is past the end is never asked for.
    padded = (functional.pad(m, (0, 0, 0, 1)) for m in moves)
    actions = functional.pad(torch.cat(list(padded)), (0, 0, 0, ahead))
    actions = (actions - model.get_buffer("mean_action").cpu()) / model.get_buffer("scale_action").cpu()
    left = torch.cat([torch.arange(int(n) - 1, -1, -1) for n in lengths])
    rows = torch.arange(int(lengths.sum()))[left >= ahead]
    if not len(rows):
        raise DataError(f"{store.path}: episodes of more than {ahead} steps expected")
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(imitation.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    imitation.train()
    for _ in range(steps):
        now = rows[torch.randint(len(rows), (batch,), generator=generator)]
        most = left[now].clamp_max(reach)
        later = 1 + (torch.rand(batch, generator=generator) * most).long().clamp_max(most - 1)
        here, there = encoded(torch.cat([now, now + later])).chunk(2)
        wanted = actions[now[:, None] + torch.arange(ahead)].flatten(1)
        loss = functional.mse_loss(imitation(here, there), wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return Imitating(model, imitation.eval(), time.perf_counter() - started)
