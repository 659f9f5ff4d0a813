"""The imitating floor learns the obvious on a world without obstacles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from foretell.evaluation.baselines import RandomActions, fit_inverse_dynamics
from foretell.evaluation.protocols import run_policy
from foretell.model.latents import encode_episodes
from tests.evaluation.points import SPEC, STEP, PointTask, exact, recorded


def test_inverse_dynamics_learns_to_head_for_the_goal(tmp_path: Path) -> None:
    model, store = exact(), recorded(tmp_path / "points", 30)
    latents = encode_episodes(model, store, range(30))
    torch.manual_seed(1)
    policy = fit_inverse_dynamics(model, store, range(30), latents, seed=0, reach=5, steps=300)
    assert policy.seconds > 0
    task = PointTask()
    scenes = task.reset(range(40))
    actions = policy(task, scenes)(scenes.observations, 0, np.arange(40))
    gap = task.target - task.place
    cosine = (actions * gap).sum(1) / np.linalg.norm(actions, axis=1) / np.linalg.norm(gap, axis=1)
    assert np.median(cosine) > 0.9
    assert np.abs(actions).max() <= STEP
    random = run_policy(PointTask(), range(40), RandomActions(action=SPEC.action, seed=0))
    imitated = run_policy(PointTask(), range(40), policy)
    assert imitated.success > random.success + 0.3
    torch.manual_seed(2)
    again = fit_inverse_dynamics(model, store, range(30), latents, seed=0, reach=5, steps=300)
    assert (again(task, scenes)(scenes.observations, 0, np.arange(40)) == actions).all()
