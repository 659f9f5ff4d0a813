"""Two rooms as Gymnasium sees them: the checker passes, and many rooms are as many single ones."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import foretell.worlds  # noqa: F401 - registers the environment
from foretell.errors import SpecError
from foretell.worlds.two_rooms import TwoRoomsEnv, TwoRoomsVectorEnv
from foretell.worlds.two_rooms.simulator import FACTORS

ID = "foretell/TwoRooms-v0"
VARIED: dict[str, Any] = {"layout": "random", "vary": FACTORS, "episode_steps": 4}


@pytest.mark.parametrize("options", [{}, VARIED])
def test_gymnasium_finds_nothing_wrong(options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Actions are in pixels, and not normalised on purpose.
        warnings.filterwarnings("ignore", ".*recommend using a symmetric and normalized space")
        check_env(gymnasium.make(ID, render_mode="rgb_array", **options).unwrapped)


@pytest.mark.parametrize("options", [{"episode_steps": 4}, VARIED])
def test_many_rooms_are_as_many_single_ones(options: dict[str, Any]) -> None:
    """Through two restarts, and a second reset without a seed."""
    single = SyncVectorEnv([lambda: TwoRoomsEnv(**options)] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    many = gymnasium.make_vec(ID, num_envs=3, **options)
    assert isinstance(many.unwrapped, TwoRoomsVectorEnv)
    assert many.observation_space == single.observation_space
    assert many.action_space == single.action_space
    rng = np.random.default_rng(0)
    for seed in (7, None, [4, 4, 5]):
        frames, info = many.reset(seed=seed)
        wanted, wanted_info = single.reset(seed=seed)
        for _ in range(11):
            assert np.array_equal(frames, wanted)
            assert np.array_equal(info["position"], wanted_info["position"])
            actions = rng.uniform(-3, 3, (3, 2)).astype(np.float32)
            frames, reward, terminated, truncated, info = many.step(actions)
            wanted, wanted_reward, wanted_terminated, wanted_truncated, wanted_info = single.step(actions)
            assert np.array_equal(reward, wanted_reward)
            assert np.array_equal(terminated, wanted_terminated)
            assert np.array_equal(truncated, wanted_truncated)


def test_rooms_of_one_seed_are_the_same_and_of_others_differ() -> None:
    many = TwoRoomsVectorEnv(3, layout="random")
    frames, _ = many.reset(seed=[4, 4, 5])
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_rendering_shows_what_was_seen_and_does_not_draw_noise_again() -> None:
    runs = []
    for render in (False, True):
        room = TwoRoomsEnv(render_mode="rgb_array", noise=20.0)
        seen, _ = room.reset(seed=0)
        if render:
            assert np.array_equal(room.render(), seen)
            room.render()[:] = 0
            assert np.array_equal(room.render(), seen)
        runs.append(room.step(np.ones(2, np.float32))[0])
    assert np.array_equal(*runs)


def test_frames_handed_out_are_not_changed_by_later_steps() -> None:
    room = TwoRoomsEnv()
    first, _ = room.reset(seed=0)
    kept = first.copy()
    for _ in range(3):
        room.step(np.full(2, 2.0, np.float32))
    assert np.array_equal(first, kept)


def test_actions_are_clipped_to_their_bounds_and_refused_where_they_are_none() -> None:
    room = TwoRoomsEnv()
    room.reset(seed=0)
    room._simulator.position[:] = 14.0, 40.0
    assert room.step(np.array([100.0, -1.5]))[4]["position"].tolist() == [16.0, 38.5]
    for wrong in ([np.nan, 0.0], [np.inf, 0.0], [1.0], [[1.0, 1.0]]):
        with pytest.raises(SpecError, match=r"finite actions of shape \(2,\) expected"):
            room.step(np.array(wrong))
    with pytest.raises(SpecError, match=r"finite actions of shape \(3, 2\) expected"):
        TwoRoomsVectorEnv(3).step(np.zeros((2, 2), np.float32))
    with pytest.raises(SpecError, match="3 seeds expected, got 2"):
        TwoRoomsVectorEnv(3).reset(seed=[1, 2])
