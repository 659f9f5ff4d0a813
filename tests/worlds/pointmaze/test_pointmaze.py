"""PointMaze: the authors' mazes, restored exactly, seen from above."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ogbench", reason="needs `pip install 'foretell[robots]'`")

from foretell.errors import SpecError
from foretell.evaluation.baselines import RandomActions
from foretell.evaluation.protocols import run_policy
from foretell.worlds import make
from foretell.worlds.pointmaze import Options, Simulation
from foretell.worlds.simulated import lived


@pytest.mark.parametrize("maze", ["medium", "large"])
def test_a_state_restored_goes_on_as_before_whatever_other_balls_do(maze: str) -> None:
    one, other = (Simulation(Options(maze=maze)) for _ in range(2))  # type: ignore[arg-type]
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
    import gymnasium
    import ogbench  # noqa: F401 - registers its environments

    env = gymnasium.make("pointmaze-medium-v0").unwrapped
    env.reset(seed=3)
    ours = Simulation(Options())
    ours.restore(np.array(env.get_xy()))
    rng = np.random.default_rng(0)
    for _ in range(60):
        move = np.clip(rng.normal(0.6, 0.6, 2), -1, 1)
        env.step(move)
        ours.step(move)
        assert ours.state() == pytest.approx(env.get_xy(), abs=1e-6)


def test_walls_stop_the_ball_and_episodes_reach_every_part() -> None:
    one = Simulation(Options())
    places = np.array([s for i in range(20) for s, _ in lived(one, np.random.default_rng(i), 300)])
    cells = np.rint((places + 4) / 4).astype(int)
    maze = one._env.maze_map
    assert (maze[cells[:, 1], cells[:, 0]] == 0).mean() > 0.999
    visited = {(int(i), int(j)) for j, i in cells}
    assert len(visited & {(int(i), int(j)) for i, j in np.argwhere(maze == 0)}) == (maze == 0).sum()


def test_the_picture_shows_the_ball_where_it_is() -> None:
    one, found = Simulation(Options()), []
    for place in ((0.0, 0.0), (20.0, 20.0)):
        one.restore(np.array(place))
        found.append(one.seen()["camera"].astype(int))
    changed = np.argwhere(np.abs(found[0] - found[1]).sum(2) > 150)
    near = ((changed < 20) | (changed > 43)).all(1)
    # Two spots, in opposite corners, and nothing else.
    assert near.all()
    assert 4 < len(changed) < 40


def test_pushes_move_the_ball_no_further_than_walls_let_it() -> None:
    one, rng = Simulation(Options()), np.random.default_rng(0)
    maze = one._env.maze_map
    moved = []
    for _ in range(30):
        one.reset(rng)
        before = one.state()
        after = one.pushed(before, rng)
        moved.append(float(np.linalg.norm(after - before)))
        i, j = one._env.xy_to_ij(after)
        assert maze[i, j] == 0
    assert max(moved) < 2.6
    assert np.median(moved) > 0.8


def test_random_actions_stay_near() -> None:
    world = make("pointmaze", size=16)
    found = run_policy(world.task(offset=50), list(range(12)), RandomActions(action=world.spec.action, seed=0))
    assert found.success < 0.5


def test_an_unknown_maze_is_refused() -> None:
    with pytest.raises(SpecError, match="maze must be 'medium' or 'large', got 'giant'"):
        make("pointmaze", maze="giant")
