"""Reacher: the authors' arm, restored exactly, seen from above."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dm_control", reason="needs `pip install 'foretell[robots]'`")

from foretell.evaluation.baselines import RandomActions, straight
from foretell.evaluation.protocols import run_policy
from foretell.worlds import make
from foretell.worlds.reacher import Options, Simulation
from foretell.worlds.simulated import lived


def test_a_state_restored_goes_on_as_before_whatever_other_arms_do() -> None:
    one, other = Simulation(Options()), Simulation(Options())
    steps = list(lived(one, np.random.default_rng(5), 60))
    end, seen = one.state(), one.seen()["camera"]
    other.restore(steps[20][0])
    for _, action in steps[20:]:
        other.step(action)
        one.reset(np.random.default_rng(0))
        one.seen()
    assert other.state() == pytest.approx(end, abs=1e-9)
    assert np.array_equal(other.seen()["camera"], seen)


def test_it_moves_as_the_authors_environment_does() -> None:
    from dm_control import suite

    env = suite.load("reacher", "hard", task_kwargs={"random": 1})
    env.reset()
    ours = Simulation(Options())
    ours.restore(np.concatenate([env.physics.data.qpos, env.physics.data.qvel]))
    rng = np.random.default_rng(0)
    for _ in range(40):
        torque = rng.uniform(-1, 1, 2)
        env.step(torque)
        env.step(torque)
        ours.step(torque)
        assert ours.state() == pytest.approx(np.concatenate([env.physics.data.qpos, env.physics.data.qvel]), abs=1e-6)


def test_the_picture_shows_the_arm_where_it_is() -> None:
    one = Simulation(Options())
    pictures = []
    # To the right, then up: the arm's yellow lies there and not elsewhere.
    for shoulder in (0.0, np.pi / 2):
        one.restore(np.array([shoulder, 0, 0, 0]))
        pictures.append(one.seen()["camera"][..., 0] > 150)
    right, up = pictures
    assert right[28:36, 36:].sum() > 20
    assert right[:26].sum() + right[38:].sum() == 0
    assert up[:28, 28:36].sum() > 20
    assert up[36:].sum() == 0


def test_goals_are_both_joints_within_a_twentieth_and_whole_turns_count() -> None:
    one, goal = Simulation(Options()), np.array([1.0, -1, 3, 3])
    assert one.reached(np.array([1.049, -1.049, 0, 0]), goal)
    assert not one.reached(np.array([1.051, -1, 3, 3]), goal)
    assert not one.reached(goal + 2 * np.pi * np.eye(4)[0], goal)


def test_knocks_turn_both_joints() -> None:
    one, rng = Simulation(Options()), np.random.default_rng(0)
    for wrist in (0.0, 2.5):
        after = one.pushed(np.array([1.0, wrist, 2, 2]), rng)
        assert 0.3 <= abs(after[0] - 1) <= 0.8
        assert abs(after[1]) < 2.8
        assert after[1] != wrist
        assert not after[2:].any()


def test_who_knows_the_joints_gets_there_and_who_acts_at_random_does_not() -> None:
    world = make("reacher", size=16)
    assert run_policy(world.task(), list(range(12)), straight).success > 0.9
    assert run_policy(world.task(), list(range(12)), RandomActions(action=world.spec.action, seed=0)).success < 0.3


def test_episodes_fit_the_spec_and_reach_many_poses() -> None:
    for seen in (False, True):
        world = make("reacher", size=16, proprioception=seen)
        episodes = list(world.episodes(6, seed=0))
        for episode in episodes:
            episode.check(world.spec, "reacher")
    joints = np.concatenate([e.observations["joints"] for e in episodes])
    share = np.histogram2d(joints[:, 0] % (2 * np.pi), joints[:, 1], bins=4)[0]
    assert (share > 0).mean() > 0.7
