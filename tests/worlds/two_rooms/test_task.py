"""The task in two rooms: what is asked, when it is solved, and that a problem depends on its seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foretell import worlds
from foretell.errors import SpecError
from foretell.worlds.two_rooms import TwoRoomsTask
from foretell.worlds.two_rooms.behaviour import walk_group
from foretell.worlds.two_rooms.simulator import FACTORS, shortest_steps

SEEDS = range(40)
FAR = {"step": 0.8, "layout": "random"}


def task(distance: str = "any", **options: Any) -> TwoRoomsTask:
    return worlds.make("two_rooms", **options).task(distance=distance)


def gap(problem: TwoRoomsTask) -> NDArray[np.float64]:
    return np.linalg.norm(problem.truth()["position"] - problem.goal_truth()["position"], axis=1)


def walk(problem: TwoRoomsTask, reach: float) -> NDArray[np.int64]:
    """(B,) steps of a guide who knows the layout, to the door, through it and to the goal; -1 where it fails."""
    layout, goal = problem.truth()["layout"], problem.goal_truth()["position"]
    radius = problem._simulator.radius
    to_right = goal[:, 0] > layout[:, 0]
    towards = np.where(to_right, 1.0, -1.0)
    found = np.full(len(goal), -1)
    for count in range(1, int(problem.budget.max()) + 1):
        position = problem.truth()["position"]
        passed = (position[:, 0] - layout[:, 0]) * towards > 2 + radius
        at_door = np.abs(position[:, 1] - layout[:, 1]) < 6 - radius
        x = layout[:, 0] + towards * np.where(at_door, 2.5 + radius, -2 - radius)
        target = np.stack([x, layout[:, 1]], axis=1)
        target[passed] = goal[passed]
        problem.step(np.clip(target - position, -reach, reach))
        found[(found < 0) & problem.solved() & (count <= problem.budget)] = count
    return found


@pytest.mark.parametrize(("distance", "options"), [("any", {}), ("any", {"layout": "random"}), ("far", FAR)])
def test_start_and_goal_lie_in_different_rooms_as_far_apart_as_asked(distance: str, options: dict[str, Any]) -> None:
    problem = task(distance, **options)
    problem.reset(SEEDS)
    start, goal = problem.truth(), problem.goal_truth()
    assert np.array_equal(start["layout"], goal["layout"])
    right = start["position"][:, 0] > start["layout"][:, 0]
    assert (right != (goal["position"][:, 0] > goal["layout"][:, 0])).all()
    assert 0.2 < right.mean() < 0.8
    assert not problem.solved().any()
    steps = shortest_steps(start["position"], goal["position"], start["layout"], 2.0, options.get("step", 2.0))
    assert np.array_equal(problem.shortest, steps)
    if distance == "far":
        assert steps.min() >= 60
        assert steps.max() <= 120
        assert np.array_equal(problem.budget, np.ceil(1.5 * steps))
    else:
        assert (problem.budget == 100).all()


@pytest.mark.parametrize(
    ("distance", "options"), [("any", {}), ("any", {"layout": "random", "vary": ("dot_size",)}), ("far", FAR)]
)
def test_a_guide_who_knows_the_layout_solves_every_problem(distance: str, options: dict[str, Any]) -> None:
    problem = task(distance, **options)
    problem.reset(SEEDS)
    taken = walk(problem, options.get("step", 2.0))
    assert (taken >= 0).all()
    # 3 px short of the goal is enough.
    assert (taken >= problem.shortest - np.ceil(3 / options.get("step", 2.0)) - 1).all()


def test_budgets_allow_for_the_gain() -> None:
    slow, plain = task("far", step=1.6, gain=0.5), task("far", step=0.8)
    slow.reset(SEEDS)
    plain.reset(SEEDS)
    assert np.array_equal(slow.budget, plain.budget)
    varied = task("far", step=0.8, vary=("gain",))
    varied.reset(SEEDS)
    assert (walk(varied, 0.8) >= 0).mean() > 0.9


@pytest.mark.parametrize("options", [{}, {"layout": "random", "vary": FACTORS}])
def test_a_problem_depends_on_its_seed_alone(options: dict[str, Any]) -> None:
    together, alone = task(**options), task(**options)
    many = together.reset([3, 1, 2])
    one = alone.reset([1])
    actions = np.array([[0.5, 0.5], [-1.0, 2.0], [0.0, 0.0]])
    for a, b in ((many.observations, one.observations), (many.goal, one.goal)):
        assert np.array_equal(a["camera"][1], b["camera"][0])
    assert np.array_equal(together.step(actions)["camera"][1], alone.step(actions[1:2])["camera"][0])
    assert np.array_equal(together.goal_truth()["position"][1], alone.goal_truth()["position"][0])
    assert not np.array_equal(many.goal["camera"][0], many.goal["camera"][2])


def test_goal_picture_shows_the_dot_at_the_goal_in_the_same_room() -> None:
    problem = task(layout="random", dot=(0, 0, 0), wall=(255, 255, 255), background=(255, 255, 255))
    scenes = problem.reset(SEEDS)
    centres = np.arange(64) + 0.5
    for frames, truth in ((scenes.observations, problem.truth()), (scenes.goal, problem.goal_truth())):
        dark = 255.0 - frames["camera"].mean(-1)
        weight = dark.sum((1, 2))
        seen = np.stack([dark.sum(1) @ centres / weight, dark.sum(2) @ centres / weight], axis=1)
        np.testing.assert_allclose(seen, truth["position"], atol=0.2)


def test_solved_within_three_pixels_and_from_then_on() -> None:
    problem = task()
    problem.reset([0])
    simulator, goal = problem._simulator, problem.goal_truth()["position"]
    still = np.zeros((1, 2))
    # Into the room, where nothing is in the way.
    inwards = np.sign(np.array([[48.0 if goal[0, 0] > 32 else 16.0, 32.0]]) - goal)
    for far, solved in ((3.01, False), (2.99, True), (8.0, True)):
        simulator.position = goal + inwards * far / np.sqrt(2)
        problem.step(still)
        assert gap(problem)[0] == pytest.approx(far)
        assert problem.solved()[0] == solved
    problem.reset([0])
    assert not problem.solved().any()


def test_straight_heads_for_the_goal_with_the_largest_move() -> None:
    problem = task(step=1.5)
    problem.reset(SEEDS)
    away = problem.goal_truth()["position"] - problem.truth()["position"]
    actions = problem.straight()
    np.testing.assert_allclose(np.abs(actions).max(1), 1.5)
    cosine = (away * actions).sum(1) / np.linalg.norm(away, axis=1) / np.linalg.norm(actions, axis=1)
    np.testing.assert_allclose(cosine, 1.0)
    problem._simulator.position = problem.goal_truth()["position"] - [0.5, -0.25]
    np.testing.assert_allclose(problem.straight(), np.tile([0.5, -0.25], (len(SEEDS), 1)), atol=1e-9)
    problem.step(problem.straight())
    assert problem.solved().all()


def test_truths_handed_out_are_copies() -> None:
    problem = task()
    problem.reset([0])
    before = problem.goal_truth()["position"]
    for truth in (problem.truth(), problem.goal_truth()):
        truth["position"][:] = 0
        truth["layout"][:] = 0
    problem.solved()[:] = True
    assert np.array_equal(problem.goal_truth()["position"], before)
    assert (problem.truth()["layout"] == (32.0, 20.0)).all()
    assert not problem.solved().any()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([[0.0, 0.0], [0.0, 2.1]]), r"action dy must be within \[-2, 2\], got \[0, 2.1\]"),
        (np.array([[0.0, np.nan], [0.0, 0.0]]), "actions must be finite"),
        (np.zeros((1, 2)), r"shape \(2, 2\) expected, got \(1, 2\)"),
        (np.zeros((2, 3)), r"shape \(2, 2\) expected, got \(2, 3\)"),
    ],
)
def test_wrong_actions_are_refused(actions: NDArray[np.float64], message: str) -> None:
    problem = task()
    problem.reset([0, 1])
    before = problem.truth()["position"]
    with pytest.raises(SpecError, match=message):
        problem.step(actions)
    assert np.array_equal(problem.truth()["position"], before)


def test_impossible_distances_are_refused() -> None:
    with pytest.raises(SpecError, match="'any' or 'far', got 'near'"):
        task("near")
    with pytest.raises(SpecError, match="no goals 60 to 120 steps away with a step of 4"):
        task("far", step=4.0).reset([0])


def test_goals_of_an_offset_are_places_of_the_same_walk() -> None:
    """Where it was so many steps later, in its own layout."""
    world = worlds.make("two_rooms", layout="random", episode_steps=40)
    problem = world.task(offset=10)
    scenes = problem.reset(SEEDS)
    assert scenes.observations["camera"].shape == scenes.goal["camera"].shape == (40, 64, 64, 3)
    assert (problem.budget == 20).all()
    start, goal, layout = problem.truth()["position"], problem.goal_truth()["position"], problem.truth()["layout"]
    for i, seed in enumerate(SEEDS):
        rng = np.random.default_rng([0x7A5C, seed])
        (walk,) = walk_group(world._options, [rng])
        places = walk.observations["position"]
        at = np.abs(places - start[i]).max(1).argmin()
        assert np.abs(places[at] - start[i]).max() < 1e-4
        assert np.abs(places[at + 10] - goal[i]).max() < 1e-4
        assert np.abs(walk.observations["layout"][0] - layout[i]).max() < 1e-4
    again = world.task(offset=10)
    again.reset(list(SEEDS)[::-1])
    assert (again.goal_truth()["position"][::-1] == goal).all()


@pytest.mark.parametrize("how", ["push", "goal"])
def test_problems_are_disturbed_once(how: str) -> None:
    world = worlds.make("two_rooms", layout="random", episode_steps=60)
    problem, still = world.task(offset=20, disturbed=how), world.task(offset=20)
    for each in (problem, still):
        each.reset(SEEDS)
    wanted, goals, changed = problem.goal(), problem.goal_truth()["position"], np.zeros(len(SEEDS), int)
    for _ in range(20):
        before = problem.truth()["position"]
        for each in (problem, still):
            each.step(np.zeros((len(SEEDS), 2)))
        moved = np.abs(problem.truth()["position"] - before).max(1) > 0
        if how == "goal":
            assert not moved.any()
            moved = np.abs(problem.goal_truth()["position"] - goals).max(1) > 0
            assert (problem.goal() is not wanted) == moved.any()
            wanted, goals = problem.goal(), problem.goal_truth()["position"]
        changed += moved
    assert changed.max() == 1
    assert changed.mean() > 0.9
    assert (still.truth()["layout"] == problem.truth()["layout"]).all()


@pytest.mark.parametrize(
    "wrong", [{"offset": 0}, {"offset": 101}, {"disturbed": "push"}, {"offset": 5, "disturbed": "x"}]
)
def test_offsets_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="two_rooms"):
        worlds.make("two_rooms", episode_steps=100).task(**wrong)
