"""The imitating floor learns the obvious on a world without obstacles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from foretell.evaluation.baselines import RandomActions, fit_cloning, fit_inverse_dynamics
from foretell.evaluation.protocols import run_policy
from foretell.model.latents import encode_episodes
from foretell.model.world_model import ModelConfig, WorldModel
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


def test_cloning_learns_to_head_for_the_goal_with_eyes_of_its_own(tmp_path: Path) -> None:
    store = recorded(tmp_path / "points", 30)
    torch.manual_seed(0)
    model = WorldModel(SPEC, ModelConfig(latent=8, block=2, features=16, width=16)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    policy = fit_cloning(model, store, range(30), seed=0, reach=5, steps=1500, width=64)
    eyes = policy.imitation.eyes
    assert eyes is not None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not torch.equal(eyes.fuse[0][1].weight, model.fuse[0][1].weight)
    task = PointTask()
    scenes = task.reset(range(40))
    actions = policy(task, scenes)(scenes.observations, 0, np.arange(40))
    gap = task.target - task.place
    cosine = (actions * gap).sum(1) / np.linalg.norm(actions, axis=1) / np.linalg.norm(gap, axis=1)
    assert np.median(cosine) > 0.85
    again = fit_cloning(model, store, range(30), seed=0, reach=5, steps=1500, width=64)
    assert (again(task, scenes)(scenes.observations, 0, np.arange(40)) == actions).all()


def test_actions_told_ahead_are_those_that_followed(tmp_path: Path) -> None:
    """Where every action is told by the goal alone, all of a block are."""
    model, store = exact(), recorded(tmp_path / "points", 30)
    latents = encode_episodes(model, store, range(30))
    policy = fit_inverse_dynamics(model, store, range(30), latents, seed=0, reach=2, steps=1500, ahead=2)
    errors, moves = [], []
    for i in range(30):
        acts = torch.from_numpy(np.array(store.read(i, []).actions, np.float32))
        z = latents[i]
        with torch.no_grad():
            told = policy.imitation(z[:-2], z[2:])
        known = told * model.get_buffer("scale_action").repeat(2) + model.get_buffer("mean_action").repeat(2)
        # What two actions come to together is told by where they lead; each apart is not.
        errors.append((known[:, :2] + known[:, 2:] - acts[:-1] - acts[1:]).square())
        moves.append((acts[:-1] + acts[1:]).square())
    assert float(torch.cat(errors).mean()) < 0.2 * float(torch.cat(moves).mean())
