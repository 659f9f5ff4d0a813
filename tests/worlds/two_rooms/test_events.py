"""Events: each breaks or changes what it says, from when it says, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import SpecError
from foretell.worlds.two_rooms import Options
from foretell.worlds.two_rooms.events import EVENTS, Disturbed, Event, disturbed
from foretell.worlds.two_rooms.simulator import DOOR, WALL

FIXED, RANDOM = Options(), Options(layout="random", turns=0.0)
BY_ID = {e.id: e for e in EVENTS}


def walks(event: str, options: Options = FIXED, count: int = 6, **more: int) -> list[Disturbed]:
    return list(disturbed(BY_ID[event], options, count, seed=3, **more))


def moves(d: Disturbed) -> np.ndarray:
    """(T, 2) px that the dot moved at each step."""
    return np.diff(d.episode.observations["position"], axis=0)


@pytest.mark.parametrize("options", [FIXED, RANDOM], ids=["fixed", "random"])
@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.id)
def test_episodes_fit_the_spec_and_the_seed_decides(event: Event, options: Options) -> None:
    found = list(disturbed(event, options, 2, seed=1))
    again = list(disturbed(event, options, 2, seed=1))
    for one, other in zip(found, again, strict=True):
        one.episode.check(options.spec, event.id)
        assert np.array_equal(one.episode.observations["camera"], other.episode.observations["camera"])
        assert len(one.episode.actions) == options.episode_steps
        assert (one.place is not None) == event.placed
        assert one.onset == 0 if event.kind == "appearance" else one.onset > options.episode_steps // 2


@pytest.mark.parametrize("px", [1, 3, 10, 30])
def test_a_jump_is_so_far_beside_the_step_itself(px: int) -> None:
    for d in walks(f"teleport_{px}", RANDOM):
        far = np.linalg.norm(moves(d), axis=1)
        # A step moves the dot by at most 2 px along each axis.
        assert px - 2 * np.sqrt(2) - 1e-3 <= far[d.onset - 1] <= px + 2 * np.sqrt(2) + 1e-3
        assert np.delete(far, d.onset - 1).max() <= 2 * np.sqrt(2) + 1e-3
        assert d.place is not None
        assert np.allclose(d.place, d.episode.observations["position"][d.onset])


def test_beyond_the_wall_begins_where_the_dot_touches_it_and_goes_well_into_it() -> None:
    for d in walks("through_wall", RANDOM, count=20):
        x, y = d.episode.observations["position"].T
        wall, door = d.episode.observations["layout"][0]

        def overlaps(px: float) -> np.ndarray:
            return (np.abs(x - wall) < WALL / 2 + 2 - px) & (np.abs(y - door) > DOOR / 2 - 2 + px)  # noqa: B023

        assert overlaps(0)[d.onset]
        assert not overlaps(1e-4)[: d.onset].any()
        assert overlaps(0.499)[d.onset :].any()


@pytest.mark.parametrize(("event", "share"), [("not_executed", 0.0), ("gain_0.5", 0.5), ("mirrored", -1.0)])
def test_actions_are_executed_in_part_or_the_other_way(event: str, share: float) -> None:
    for d in walks(event):
        done, asked = moves(d), d.episode.actions
        after = slice(d.onset - 1, None)
        # At a wall less is done than asked for, never more or the other way.
        assert (np.abs(done[after]) <= np.abs(share * asked[after]) + 1e-4).all()
        assert (done[after] * share * asked[after] >= -1e-6).all()
        free = np.abs(done - share * asked).max(1) < 1e-4
        assert share == 0 or free[after].mean() > 0.1
        before = slice(0, d.onset - 1)
        assert (np.abs(done - asked).max(1)[before] < 1e-4).mean() > 0.1


def test_pictures_freeze_or_run_backwards_and_truth_goes_on() -> None:
    for d in walks("frozen"):
        camera = d.episode.observations["camera"]
        assert (camera[d.onset :] == camera[d.onset - 1]).all()
        assert np.abs(moves(d)[d.onset :]).max() > 0
    for d in walks("reversed"):
        camera = d.episode.observations["camera"]
        for back in range(1, 10):
            assert np.array_equal(camera[d.onset - 1 + back], camera[d.onset - 1 - back])


def test_appearances_change_what_they_say() -> None:
    plain = walks("noise_2")[0].episode.observations["camera"].astype(float)
    camera = {
        e: walks(e)[0].episode.observations["camera"].astype(float) for e in BY_ID if BY_ID[e].kind == "appearance"
    }
    assert camera["brightness_0.6"].mean() == pytest.approx(0.6 * plain.mean(), rel=0.02)
    dots = {e: (camera[e][0, ..., 0] - camera[e][0, ..., 1] > 60).sum() for e in ("dot_size_1.5", "dot_size_3")}
    assert dots["dot_size_1.5"] < 12 < 20 < dots["dot_size_3"]
    assert (camera["background_0.5"][0, 10, 10] == [152, 182, 242]).all()
    green = camera["dot_colour_1"][0]
    assert (green[..., 1] - green[..., 0]).max() > 100
    # Of the ground's blue, which is far enough from 255 for either noise to be seen nearly whole.
    noise = {e: camera[e][0, 8:20, 8:20, 2].std() for e in ("noise_2", "noise_10")}
    assert noise["noise_2"] == pytest.approx(2, rel=0.2)
    assert noise["noise_10"] == pytest.approx(10, rel=0.2)


def test_a_second_dot_stands_still_while_the_first_moves() -> None:
    for d in walks("second_dot", RANDOM):
        assert d.place is not None
        column, row = np.floor(d.place).astype(int)
        spot = d.episode.observations["camera"][:, row, column].astype(int)
        assert (spot[:, 0] - spot[:, 1] > 60).all()


def test_another_layout_has_its_door_elsewhere_or_its_wall_across() -> None:
    assert np.allclose(walks("layout_8")[0].episode.observations["layout"][0], [32, 28])
    d = walks("layout_8", RANDOM)[0]
    dark = d.episode.observations["camera"][0].astype(int).sum(-1) < 300
    # Across: a dark row between the borders, but no dark column.
    assert dark[4:60, 4:60].mean(1).max() > 0.6
    assert dark[4:60, 4:60].mean(0).max() < 0.3


def test_an_onset_outside_the_episode_and_an_event_that_is_never_met_are_refused() -> None:
    for onset in (0, 80):
        with pytest.raises(SpecError, match="an onset from 1 to 79 expected"):
            walks("frozen", onset=onset)
    with pytest.raises(SpecError, match="event through_wall: met in 0 of"):
        walks("through_wall", Options(episode_steps=2, step=0.01), count=1)
