"""Push-T: the author's simulator, restored exactly, seen small, pushed by a script."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gym_pusht", reason="needs `pip install 'foretell[robots]'`")

from foretell.errors import SpecError
from foretell.evaluation.baselines import RandomActions
from foretell.evaluation.protocols import run_policy
from foretell.worlds import make
from foretell.worlds.pusht import Options, Simulation
from foretell.worlds.simulated import lived


def test_a_state_restored_goes_on_as_before() -> None:
    one = Simulation(Options())
    steps = list(lived(one, np.random.default_rng(5), 80))
    end, seen = one.state(), one.seen()["camera"]
    other = Simulation(Options())
    # In the middle of a push the simulator's memory of the contact is lost, a fraction of a pixel.
    for begin, off in ((0, 1e-6), (40, 1.0)):
        other.restore(steps[begin][0])
        for _, action in steps[begin:]:
            other.step(action)
        assert other.state() == pytest.approx(end, abs=off)
        assert np.abs(other.seen()["camera"].astype(int) - seen).mean() < off


def test_it_moves_as_the_author_s_environment_does() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    env = PushTEnv(obs_type="state")
    env.reset(seed=0, options={"reset_to_state": [100.0, 200.0, 250.0, 250.0, 0.5]})
    ours = Simulation(Options())
    ours.restore(np.array([*env.agent.position, *env.agent.velocity, *env.block.position, env.block.angle]))
    rng = np.random.default_rng(0)
    for _ in range(60):
        target = np.array([260.0, 260.0]) + rng.normal(0, 60, 2)
        move = np.clip(target - np.array(env.agent.position), -100, 100)
        found, *_ = env.step(np.array(env.agent.position) + move)
        ours.step(move)
        assert ours.state()[[0, 1, 4, 5]] == pytest.approx(found[:4], abs=1e-6)
    # The block was pushed.
    assert np.linalg.norm(found[2:4] - 250) > 10


def test_goals_are_reached_within_twenty_pixels_and_degrees() -> None:
    one, goal = Simulation(Options()), np.array([100.0, 100, 0, 0, 300, 300, 3.1])

    def near(*off: float) -> bool:
        return one.reached(goal + np.array(off), goal)

    # Finger and block together, whatever the velocity.
    assert near(12, 0, 99, 99, 15, 0, 0)
    assert not near(12, 0, 0, 0, 17, 0, 0)
    # Angles are the same after a whole turn; 0.34 rad are within 20 degrees, 0.36 are not.
    assert near(0, 0, 0, 0, 0, 0, 0.34 - 4 * np.pi)
    assert not near(0, 0, 0, 0, 0, 0, 0.36 + 2 * np.pi)


def test_the_picture_shows_where_finger_and_block_are() -> None:
    one = Simulation(Options(size=64))
    one.restore(np.array([96.0, 416, 0, 0, 256, 160, 0]))
    picture = one.seen()["camera"].astype(int)
    blue = picture[..., 2] - picture[..., 0]
    row, column = np.unravel_index(blue.argmax(), blue.shape)
    assert abs(column - 96 / 8) < 2
    assert abs(row - 416 / 8) < 2
    grey = np.abs(picture - [143, 163, 184]).sum(2) < 12
    assert grey[22, 28:36].all()


def test_episodes_push_the_block_and_keep_it_in_sight() -> None:
    world = make("pusht", episode_steps=120)
    episodes = list(world.episodes(6, seed=1))
    for episode in episodes:
        episode.check(world.spec, "pusht")
    block = np.stack([e.observations["block"] for e in episodes])
    moved = np.linalg.norm(np.diff(block[..., :2], axis=1), axis=-1)
    assert 0.2 < (moved > 0.1).mean() < 0.7
    assert np.abs(np.diff(np.unwrap(block[..., 2], axis=1), axis=1)).sum(1).min() > 0.2
    assert (np.abs(block[..., :2] - 256) < 230).mean() > 0.9


def test_random_actions_do_not_do() -> None:
    world = make("pusht")
    found = run_policy(world.task(), list(range(12)), RandomActions(action=world.spec.action, seed=0))
    assert found.success < 0.2


def test_pushes_move_the_block_and_not_the_finger() -> None:
    one, rng = Simulation(Options()), np.random.default_rng(0)
    for _ in range(20):
        one.reset(rng)
        before = one.state()
        after = one.pushed(before, rng)
        assert np.array_equal(after[:4], before[:4])
        assert 30 <= np.linalg.norm(after[4:6] - before[4:6]) <= 60
        assert abs(after[6] - before[6]) <= 0.5
        # It stays where it was put: finger and block do not overlap.
        one.restore(after)
        one.step(np.zeros(2))
        assert one.state()[4:] == pytest.approx(after[4:], abs=1e-6)


def test_a_block_that_has_left_the_field_is_pushed_back_towards_it() -> None:
    one, rng = Simulation(Options()), np.random.default_rng(0)
    before = np.array([250.0, 250.0, 0.0, 0.0, 640.0, 489.0, 1.0])
    after = one.pushed(before, rng)
    assert np.array_equal(after[:4], before[:4])
    assert after[4] < before[4] - 20
    assert np.linalg.norm(after[4:6] - before[4:6]) <= 60


def test_proprioception_is_seen_where_asked_for() -> None:
    world = make("pusht", proprioception=True)
    assert [c.name for c in world.spec.observations] == ["camera", "finger"]
    scenes = world.task().reset([0])
    assert scenes.observations["finger"].shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 4}, "size must be a whole number from 16 to 512, got 4"),
        ({"proprioception": 1}, "proprioception must be true or false"),
        ({"speed": 1}, "no option 'speed'"),
    ],
)
def test_mistakes_are_told(options: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make("pusht", **options)
