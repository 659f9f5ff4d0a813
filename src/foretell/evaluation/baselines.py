"""Floors: random actions, straight at the goal, and a policy that imitates instead of planning."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError, SpecError
from foretell.evaluation.protocols import Act, Observations
from foretell.model.world_model import WorldModel
from foretell.planning.live import checked
from foretell.spec import ActionSpec
from foretell.worlds import Scenes, Task


@dataclass(frozen=True, kw_only=True)
class RandomActions:
    """Uniform actions within the bounds; a standard normal where a bound is infinite."""

    action: ActionSpec
    seed: int

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


def straight(task: Task, scenes: Scenes) -> Act:
    """The floor that is told where the goal is and heads straight for it."""
    return lambda seen, step, running: task.straight()[running]


class InverseDynamicsPolicy:
    """Goal-conditioned inverse dynamics: from the latents of now and of the goal to the action, without a plan.

    Trained with hindsight goals: in a recorded episode, what was seen k steps later is taken as the goal of
    the action now, k uniform in 1..`reach` (Ghosh et al. 2021, "Learning to reach goals via iterated supervised
    learning"). It sees the world model's own frozen latents: it shares the representation and lacks only the
    prediction and the planner.
    """

    def __init__(self, model: WorldModel, network: nn.Module, seconds: float) -> None:
        self._model, self._network, self.seconds = model, network, seconds

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
                wanted = self._network(torch.cat([now, goals[torch.from_numpy(running)]], dim=-1))
            scale, mean = self._model.get_buffer("scale_action").cpu(), self._model.get_buffer("mean_action").cpu()
            return np.asarray(np.clip((wanted * scale + mean).numpy().astype(np.float64), low, high))

        return act

    def _encoded(self, seen: Mapping[str, NDArray[Any]], where: str) -> Tensor:
        tensors = {n: torch.from_numpy(np.asarray(x)) for n, x in seen.items()}
        values, masks = checked(self._model.spec, tensors, where=where)
        device = self._model.device
        with torch.no_grad():
            latents = self._model.encode({n: x.to(device) for n, x in values.items()}, masks)
        return latents.flatten(1).cpu()


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
) -> InverseDynamicsPolicy:
    """The policy, fitted on the episodes that the model was trained on; a few seconds.

    latents: of every step of each episode, (steps, N, D), frozen. reach: the farthest hindsight goal, raw steps.
    Raises SpecError where the spec names no actions, DataError where no episode holds two steps.
    """
    if model.spec.action.size == 0:
        raise SpecError("inverse dynamics: the spec names no actions")
    started = time.perf_counter()
    lengths = torch.tensor([len(z) for z in latents])
    starts = lengths.cumsum(0) - lengths
    flat = torch.cat(list(latents)).flatten(1)
    moves = [torch.from_numpy(np.array(store.read(i, []).actions, np.float32)) for i in episodes]
    # A row for every step, so that steps and actions share their numbers; the last of an episode is never drawn.
    actions = torch.cat([functional.pad(m, (0, 0, 0, 1)) for m in moves])
    actions = (actions - model.get_buffer("mean_action").cpu()) / model.get_buffer("scale_action").cpu()
    left = torch.cat([torch.arange(int(n) - 1, -1, -1) for n in lengths])
    rows = torch.arange(int(lengths.sum()))[left > 0]
    if not len(rows) or int(starts[-1] + lengths[-1]) != len(actions):
        raise DataError(f"{store.path}: episodes of at least two steps and a latent for every step expected")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(2 * flat.shape[1], width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, model.spec.action.size),
        )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        now = rows[torch.randint(len(rows), (batch,), generator=generator)]
        most = left[now].clamp_max(reach)
        ahead = 1 + (torch.rand(batch, generator=generator) * most).long().clamp_max(most - 1)
        loss = functional.mse_loss(network(torch.cat([flat[now], flat[now + ahead]], dim=-1)), actions[now])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return InverseDynamicsPolicy(model, network.eval(), time.perf_counter() - started)
