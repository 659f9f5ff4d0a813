"""Two rooms: the physics against an independent walk of each path, and the shortest paths against a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.worlds.two_rooms import Options, Simulator
from foretell.worlds.two_rooms.simulator import FACTORS, shortest_steps

Array = NDArray[np.float64]

WALL_X, DOOR_Y, HALF_WALL, HALF_DOOR, BORDER, SIZE = 32.0, 20.0, 2.0, 6.0, 2.0, 64.0
ROUNDING = 1e-9


def simulator(count: int = 1, *, seed: int = 0, **options: Any) -> Simulator:
    rooms = Simulator(Options(**options), count)
    for i in range(count):
        rooms.reset(i, np.random.default_rng([seed, i]))
    return rooms


def free(position: Array, layout: Array, radius: Array) -> NDArray[np.bool_]:
    """(n,) whether a disc touches neither the border, nor the wall beside the door, up to rounding."""
    x, y = position.T
    r = radius - ROUNDING
    within = (np.minimum(x, y) >= BORDER + r) & (np.maximum(x, y) <= SIZE - BORDER - r)
    beside = np.abs(x - layout[:, 0]) >= HALF_WALL + r
    in_door = np.abs(y - layout[:, 1]) <= HALF_DOOR - r
    return within & (beside | in_door)


@given(
    seed=st.integers(0, 10_000),
    step=st.floats(0.1, 4.0),
    radius=st.floats(0.5, 5.0),
    gain=st.floats(-2.0, 2.0).filter(lambda g: g != 0),
    layout=st.sampled_from(["fixed", "random"]),
    vary=st.sets(st.sampled_from(FACTORS)),
)
@settings(max_examples=40, deadline=None)
def test_dots_stay_free_and_cross_only_through_the_door(
    seed: int, step: float, radius: float, gain: float, layout: str, vary: set[str]
) -> None:
    rooms = simulator(8, seed=seed, step=step, radius=radius, gain=gain, layout=layout, vary=tuple(sorted(vary)))
    rng = np.random.default_rng(seed)
    drive = np.zeros((8, 2))
    for _ in range(60):
        drive = 0.8 * drive + rng.normal(size=(8, 2))
        actions = np.clip(drive, -1, 1) * step
        before = rooms.position
        assert free(before, rooms.layout, rooms.radius).all()
        rooms.step(actions)
        moved = np.abs(rooms.position - before)
        assert (moved <= np.abs(actions * rooms.gain[:, None]) + ROUNDING).all()
        # Whoever is on the other side now was between the door's posts when moving along x.
        crossed = (before[:, 0] < rooms.layout[:, 0]) != (rooms.position[:, 0] < rooms.layout[:, 0])
        assert (np.abs(before[crossed, 1] - rooms.layout[crossed, 1]) <= HALF_DOOR).all()
    assert free(rooms.position, rooms.layout, rooms.radius).all()


@given(
    seed=st.integers(0, 10_000),
    angle=st.floats(0, 2 * np.pi),
    gain=st.sampled_from([0.5, 1.0, -1.0]),
)
@settings(max_examples=100, deadline=None)
def test_far_from_walls_a_dot_moves_by_gain_times_action(seed: int, angle: float, gain: float) -> None:
    rooms = simulator(seed=seed, gain=gain)
    rooms.position = np.array([[14.0, 40.0]])
    action = 2.0 * np.array([[np.cos(angle), np.sin(angle)]])
    rooms.step(action)
    np.testing.assert_allclose(rooms.position, np.array([[14.0, 40.0]]) + gain * action, atol=1e-12)


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        pytest.param((27.0, 40.0), (2.0, 1.5), (28.0, 41.5), id="slides down the wall"),
        pytest.param((28.0, 40.0), (2.0, -1.0), (28.0, 39.0), id="does not leave the wall it touches"),
        pytest.param((5.0, 59.0), (-2.0, 2.0), (4.0, 60.0), id="stops in the corner"),
        pytest.param((31.0, 23.0), (1.0, 2.0), (32.0, 24.0), id="slides along the door post"),
        pytest.param((35.0, 22.0), (2.0, 2.0), (37.0, 24.0), id="turns as it leaves the door"),
        pytest.param((27.0, 24.5), (2.0, -1.0), (28.0, 23.5), id="reaches the door only after moving along x"),
        pytest.param((27.0, 24.0), (2.0, 1.0), (29.0, 24.0), id="enters the door and then slides along its post"),
    ],
)
def test_known_contacts(start: tuple[float, float], action: tuple[float, float], end: tuple[float, float]) -> None:
    rooms = simulator()
    rooms.position = np.array([start])
    rooms.step(np.array([action]))
    np.testing.assert_allclose(rooms.position, [end], atol=1e-12)


@given(seed=st.integers(0, 10_000), side=st.sampled_from([None, 0, 1]), radius=st.floats(0.5, 5.0))
@settings(max_examples=50, deadline=None)
def test_positions_drawn_are_free_and_on_their_side(seed: int, side: int | None, radius: float) -> None:
    rooms = simulator(seed=seed, layout="random", radius=radius)
    rng = np.random.default_rng(seed)
    drawn = np.array([rooms.free_position(0, rng, side) for _ in range(20)])
    assert free(drawn, rooms.layout.repeat(20, 0), rooms.radius.repeat(20)).all()
    if side is not None:
        assert ((drawn[:, 0] > rooms.layout[0, 0]) == side).all()


def test_positions_drawn_cover_the_rooms_evenly() -> None:
    rooms = simulator()
    rooms.layout[:] = 24.0, 20.0
    rng = np.random.default_rng(0)
    drawn = np.array([rooms.free_position(0, rng) for _ in range(4000)])
    left = (24.0 - 4.0 - 4.0) / ((24.0 - 4.0 - 4.0) + (60.0 - 28.0))
    assert abs((drawn[:, 0] < 24).mean() - left) < 4 * np.sqrt(left * (1 - left) / 4000)


def test_layouts_are_fixed_or_drawn_within_their_ranges() -> None:
    assert (simulator(20).layout == (WALL_X, DOOR_Y)).all()
    layouts = simulator(300, layout="random").layout
    assert (layouts.min(0) >= (20, 12)).all()
    assert (layouts.min(0) < (22, 15)).all()
    assert (layouts.max(0) <= (44, 52)).all()
    assert (layouts.max(0) > (42, 49)).all()
    rooms = simulator(layout="random")
    rooms.reset(0, np.random.default_rng(0), layout=(30.0, 50.0))
    assert (rooms.layout == (30.0, 50.0)).all()


def spread(cells: NDArray[np.bool_], reach: int, axis: int) -> NDArray[np.bool_]:
    """The cells within `reach` of those given, along one axis."""
    cells = np.moveaxis(cells, axis, 0)
    found = cells.copy()
    for far in range(1, reach + 1):
        found[far:] |= cells[:-far]
        found[:-far] |= cells[far:]
    return np.moveaxis(found, 0, axis)


def steps_by_search(
    start: Sequence[float], layout: Sequence[float], radius: float, step: float, cell: float
) -> tuple[NDArray[np.int64], Array]:
    """Fewest steps to every grid point (x, y) of both rooms, breadth first over whole cells, x before y in each."""
    axis = np.arange(round(SIZE / cell) + 1) * cell
    reach = round(step / cell)
    low, high = BORDER + radius, SIZE - BORDER - radius
    left, right = layout[0] - HALF_WALL - radius, layout[0] + HALF_WALL + radius
    inside = (axis >= low) & (axis <= high)
    in_door = np.abs(axis - layout[1]) <= HALF_DOOR - radius
    walled = (axis > left) & (axis < right)
    rooms = inside[:, None] & inside & ~walled[:, None]
    door = walled[:, None] & in_door
    open_ = rooms | door
    sides = [rooms & (axis <= left)[:, None], rooms & (axis >= right)[:, None]]
    found = np.full(open_.shape, -1)
    front = np.zeros_like(open_)
    front[round(start[0] / cell), round(start[1] / cell)] = True
    count = 0
    while (front & (found < 0)).any():
        found[front & (found < 0)] = count
        along = spread(front & in_door, reach, 0) & open_ & in_door
        for side in sides:
            along |= spread(front & side & ~in_door, reach, 0) & side
        front = spread(along & rooms, reach, 1) & rooms | spread(along & door, reach, 1) & door
        count += 1
    places = np.argwhere(rooms)
    return found[rooms], places * cell


@pytest.mark.parametrize(
    ("start", "layout", "radius", "step", "cell"),
    [
        ((10.0, 50.0), (32.0, 20.0), 2.0, 2.0, 0.5),
        ((50.0, 20.0), (32.0, 20.0), 2.0, 4.0, 1.0),
        ((6.0, 6.0), (24.0, 40.0), 2.0, 1.0, 0.5),
        ((8.0, 60.0), (40.0, 30.0), 2.0, 0.5, 0.5),
        ((58.0, 4.0), (44.0, 52.0), 2.0, 0.8, 0.4),
        ((44.0, 10.0), (20.0, 12.0), 3.0, 1.5, 0.5),
    ],
)
def test_shortest_steps_are_those_that_a_search_finds(
    start: tuple[float, float], layout: tuple[float, float], radius: float, step: float, cell: float
) -> None:
    searched, places = steps_by_search(start, layout, radius, step, cell)
    assert searched.min() == 0
    n = len(places)
    found = shortest_steps(np.tile(start, (n, 1)), places, np.tile(layout, (n, 1)), radius, step)
    assert np.isin(found - searched, (0, 1)).all()
    same = (places[:, 0] < layout[0]) == (start[0] < layout[0])
    assert (found == searched)[same].all()


def test_shortest_steps_take_each_room_with_its_own_step() -> None:
    start, goal = np.array([[10.0, 40.0]] * 3), np.array([[50.0, 40.0]] * 3)
    layout = np.array([[32.0, 20.0]] * 3)
    found = shortest_steps(start, goal, layout, 2.0, np.array([2.0, 1.0, 0.5]))
    assert [shortest_steps(start[:1], goal[:1], layout[:1], 2.0, s)[0] for s in (2.0, 1.0, 0.5)] == found.tolist()
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"step": 0.0}, "step"),
        ({"step": float("nan")}, "step"),
        ({"step": "fast"}, "step"),
        ({"radius": 6}, "radius"),
        ({"noise": -0.5}, "noise"),
        ({"brightness": True}, "brightness"),
        ({"gain": 0}, "gain"),
        ({"episode_steps": 2.5}, "episode_steps"),
        ({"episode_steps": 0}, "episode_steps"),
        ({"persistence": 1.0}, "persistence"),
        ({"dot": 7}, "dot"),
        ({"wall": (1, 2)}, "wall"),
        ({"background": (0, 0, 256)}, "background"),
        ({"dot": "red"}, "dot"),
        ({"layout": "round"}, "layout"),
        ({"vary": ("colour",)}, "vary"),
        ({"vary": 3}, "vary"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=f"^two_rooms: {named} [^\n]+$"):
        Options(**options)
