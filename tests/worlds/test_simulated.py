"""Worlds on simulators of others: problems are pieces of held-out episodes, and a simulator that fails ends its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.evaluation.baselines import straight
from foretell.evaluation.protocols import run_policy
from foretell.spec import ActionSpec, Channel, Spec
from foretell.worlds.simulated import SimulatedOptions, SimulatedWorld, lived, moved, turned

Array = NDArray[np.float64]
PLACE = Channel(name="place", kind="vector", shape=(1,), fields=("x",), units=("m",))
SPEC = Spec(
    observations=(Channel(name="camera", kind="vector", shape=(1,), fields=("c",), units=("",)),),
    action=ActionSpec(names=("dx",), low=(-1.0,), high=(1.0,)),
    hz=1.0,
    quantities=(PLACE,),
)
STEPS = 30


class Line:
    """A point on a line; `breaks`: the step at which it fails."""

    def __init__(self, breaks: int = -1) -> None:
        self.spec, self.x, self.breaks, self.steps = SPEC, np.zeros(1), breaks, 0

    def reset(self, rng: np.random.Generator) -> None:
        self.x, self.steps = rng.uniform(-9, 9, 1), 0

    def state(self) -> Array:
        return self.x.copy()

    def restore(self, state: Array) -> None:
        self.x, self.steps = state.copy(), 0

    def step(self, action: Array) -> None:
        if self.steps == self.breaks:
            raise RuntimeError("broken")
        self.x, self.steps = self.x + action, self.steps + 1

    def seen(self) -> dict[str, NDArray[Any]]:
        return {"camera": 2 * self.x}

    def truth(self, state: Array) -> dict[str, Array]:
        return {"place": state}

    def reached(self, state: Array, goal: Array) -> bool:
        return bool(np.abs(state - goal).max() < 1e-6)

    def pushed(self, state: Array, rng: np.random.Generator) -> Array:
        return state + 3

    def straight(self, state: Array, goal: Array) -> Array:
        return np.clip(goal - state, -1, 1)

    def behaviour(self, rng: np.random.Generator) -> Callable[[], Array]:
        return lambda: rng.uniform(-1, 1, 1)


def world(breaks: int = -1) -> SimulatedWorld:
    return SimulatedWorld("line", lambda: Line(breaks), SimulatedOptions(episode_steps=STEPS))


def test_an_episode_depends_on_seed_and_number_alone() -> None:
    every = list(world().episodes(5, seed=2))
    for i in (4, 0, 2):
        (alone,) = world().episodes(1, seed=2, first=i)
        assert np.array_equal(alone.actions, every[i].actions)
        alone.check(SPEC, "line")
        assert np.allclose(np.diff(alone.observations["place"][:, 0]), alone.actions[:, 0], atol=1e-5)
        assert np.allclose(alone.observations["camera"], 2 * alone.observations["place"])


def test_a_problem_is_a_piece_of_an_episode() -> None:
    task = world().task(offset=7)
    scenes = task.reset([3, 4])
    for i, seed in enumerate((3, 4)):
        one, rng = Line(), np.random.default_rng([0x0FF5E7, seed])
        states = [s for s, _ in lived(one, rng, STEPS)] + [one.state()]
        places = 2 * np.stack(states)[:, 0]
        start = int(np.abs(places - scenes.observations["camera"][i, 0]).argmin())
        assert places[start] == scenes.observations["camera"][i, 0]
        assert places[start + 7] == scenes.goal["camera"][i, 0]
        assert task.goal_truth()["place"][i, 0] == places[start + 7] / 2
    assert task.budget.tolist() == [14, 14]
    again = world().task(offset=7).reset([4, 3])
    assert np.array_equal(again.goal["camera"][::-1], scenes.goal["camera"])


def test_whoever_heads_straight_for_the_goal_gets_there() -> None:
    found = run_policy(world().task(offset=10), list(range(20)), straight)
    assert found.success == 1
    assert found.steps.max() <= 10
    late = run_policy(world().task(offset=10, budget=1), list(range(20)), straight)
    assert 0 < late.success < 1


def test_a_push_comes_once_and_at_the_same_time_for_the_same_seed() -> None:
    def courses(seeds: list[int]) -> Array:
        task = world().task(offset=10, disturbed="push")
        task.reset(seeds)
        return np.stack([task.step(np.zeros((len(seeds), 1)))["camera"][:, 0] / 2 for _ in range(12)])

    found = courses([3, 4, 5])
    steps = np.diff(found, axis=0)
    assert steps.max(0) == pytest.approx([3, 3, 3])
    assert ((steps != 0).sum(0) == 1).all()
    assert (steps[5:] == 0).all()
    assert np.array_equal(courses([5, 3])[:, 1], found[:, 0])
    # Whoever heads straight for the goal still gets there, later.
    assert run_policy(world().task(offset=10, disturbed="push"), list(range(20)), straight).success == 1


def test_a_goal_that_moves_is_another_picture_and_is_what_counts() -> None:
    task = world().task(offset=12, disturbed="goal")
    scenes = task.reset([1, 2, 3])
    before, first = task.goal(), task.goal_truth()["place"]
    assert before is scenes.goal
    changed = 0
    for _ in range(12):
        task.step(np.zeros((3, 1)))
        changed += task.goal() is not before
    assert changed
    after = task.goal_truth()["place"]
    assert (after != first).all()
    assert np.array_equal(task.goal()["camera"], 2 * after)
    assert run_policy(world().task(offset=12, disturbed="goal"), list(range(20)), straight).success > 0.9


def test_a_simulator_that_fails_ends_its_own_problem() -> None:
    task = world(breaks=STEPS + 3).task(offset=10)
    with pytest.raises(RuntimeError):
        # It fails while the problem is made, which is nobody's problem to solve.
        world(breaks=3).task(offset=10).reset([0])
    task.reset([0, 1])
    task._running[0].breaks = 2  # type: ignore[attr-defined]
    moves = np.full((2, 1), 0.5)
    seen = [task.step(moves)["camera"] for _ in range(5)]
    assert task.failed.tolist() == [True, False]
    assert np.array_equal(seen[1][0], seen[4][0])
    assert seen[4][1] > seen[1][1]


def test_an_episode_ends_where_its_simulator_fails() -> None:
    (short,) = world(breaks=4).episodes(1, seed=0)
    (whole,) = world().episodes(1, seed=0)
    assert len(short) == 5
    assert np.array_equal(short.actions, whole.actions[:4])
    with pytest.raises(RuntimeError, match="broken"):
        list(world(breaks=0).episodes(1, seed=0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"offset": 0}, "offset must be a whole number, 1 or more, got 0"),
        ({"budget": 2.5}, "budget must be a whole number, 1 or more, got 2.5"),
        ({"offset": 31}, "an offset of at most 30 expected"),
        ({"disturbed": "pull"}, "disturbed must be 'push' or 'goal', got 'pull'"),
        ({"far": True}, "a task takes offset, budget and disturbed, got 'far'"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        world().task(**options)


def test_actions_outside_the_bounds_are_refused() -> None:
    task = world().task()
    task.reset([0])
    with pytest.raises(SpecError, match="dx must be within"):
        task.step(np.array([[2.0]]))
    with pytest.raises(SpecError, match=r"shape \(1, 1\) expected"):
        task.step(np.zeros((2, 1)))


def test_actuators_that_do_less_move_less_within_their_bounds() -> None:
    def course(gain: float) -> Array:
        task = SimulatedWorld("line", Line, SimulatedOptions(episode_steps=STEPS, gain=gain)).task(offset=5)
        begin = task.reset([4]).observations["camera"][0] / 2
        return np.array([task.step(np.full((1, 1), 0.4))["camera"][0, 0] / 2 - begin[0] for _ in range(3)])

    assert course(1.0) == pytest.approx([0.4, 0.8, 1.2])
    assert course(-0.5) == pytest.approx([-0.2, -0.4, -0.6])
    assert course(4.0) == pytest.approx([1.0, 2.0, 3.0])


def test_pictures_are_moved_and_their_hues_turned() -> None:
    picture = np.random.default_rng(0).integers(40, 200, (8, 8, 3)).astype(np.uint8)
    assert np.array_equal(moved(picture, 0), picture)
    right = moved(picture, 2)
    assert np.array_equal(right[2:, 2:], picture[:-2, :-2])
    assert (right[:3, :3] == picture[0, 0]).all()
    assert np.array_equal(moved(right, -2)[:-2, :-2], picture[:-2, :-2])
    assert turned(picture, 0.0) is picture
    # A third of a turn makes red green, green blue and blue red.
    assert np.abs(turned(picture, 1 / 3).astype(int) - np.roll(picture, 1, axis=-1)).max() <= 1
    grey = np.full((2, 2, 3), 77, np.uint8)
    assert np.array_equal(turned(grey, 0.2), grey)
    back = turned(turned(picture, 0.05), -0.05)
    assert np.abs(back.astype(int) - picture).max() <= 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gain": 9.0}, "gain must be from -4 to 4"),
        ({"shift": 64}, "shift must be a whole number"),
        ({"shift": 1.5}, "shift"),
        ({"colour": 2}, "colour"),
        ({"friction": 2.0}, "neither friction nor mass"),
        ({"gain": True}, "gain"),
    ],
)
def test_changes_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SimulatedOptions(**wrong)


def test_whoever_does_not_look_moves_all_the_same() -> None:
    looking, blind = world().task(offset=6), world().task(offset=6)
    looking.reset([1, 2])
    first = blind.reset([1, 2]).observations["camera"]
    for _ in range(4):
        seen, kept = looking.step(looking.straight()), blind.step_blindly(blind.straight())
        assert np.array_equal(kept["camera"], first)
        assert np.array_equal(looking.truth()["place"], blind.truth()["place"])
        assert np.array_equal(seen["camera"], 2 * looking.truth()["place"])


@pytest.mark.parametrize("how", ["", "push", "goal"])
def test_a_problem_asked_again_is_the_same(how: str) -> None:
    task, fresh = world().task(offset=8, disturbed=how), world().task(offset=8, disturbed=how)
    courses = []
    for problem, seeds in ((task, [5, 6]), (task, [6, 5]), (fresh, [5, 6])):
        scenes = problem.reset(seeds)
        course = [scenes.observations["camera"], scenes.goal["camera"]]
        course += [problem.step(np.full((2, 1), 0.3))["camera"] for _ in range(8)] + [problem.goal()["camera"]]
        courses.append(np.stack(course))
    assert np.array_equal(courses[0], courses[2])
    assert np.array_equal(courses[0], courses[1][:, ::-1])
