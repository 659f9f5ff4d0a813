"""The recorded random walks: episodes that fit the spec, depend on seed and index alone, and explore."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell import worlds
from foretell.errors import SpecError
from foretell.spec import Episode
from foretell.worlds.two_rooms.simulator import FACTORS


def same(one: Episode, other: Episode) -> bool:
    return np.array_equal(one.actions, other.actions) and all(
        np.array_equal(one.observations[name], other.observations[name]) for name in one.observations
    )


@pytest.mark.parametrize("options", [{}, {"layout": "random", "vary": FACTORS}])
def test_episode_depends_on_seed_and_index_alone(options: dict[str, Any]) -> None:
    def record(count: int, seed: int) -> list[Episode]:
        return list(worlds.make("two_rooms", episode_steps=5, **options).episodes(count, seed=seed))

    many = record(70, 1)
    assert len(many) == 70
    assert all(same(a, b) for a, b in zip(many, record(70, 1), strict=True))
    for count in (1, 3, 65):
        assert all(same(a, b) for a, b in zip(many, record(count, 1), strict=False))
    others = record(3, 2)
    assert not any(same(a, b) for a, b in itertools.product(many, others))
    assert not any(same(a, b) for a, b in itertools.combinations(many, 2))


@given(
    seed=st.integers(0, 1000),
    steps=st.integers(1, 12),
    step=st.sampled_from([0.8, 2.0, 4.0]),
    persistence=st.sampled_from([0.0, 0.9, 0.9999]),
    layout=st.sampled_from(["fixed", "random"]),
)
@settings(max_examples=15, deadline=None)
def test_episodes_fit_the_spec(seed: int, steps: int, step: float, persistence: float, layout: str) -> None:
    world = worlds.make("two_rooms", episode_steps=steps, step=step, persistence=persistence, layout=layout)
    for episode in world.episodes(2, seed=seed):
        episode.check(world.spec, "two_rooms")
        assert len(episode) == steps + 1
        assert (episode.observations["layout"] == episode.observations["layout"][0]).all()


def test_quantities_are_where_the_dot_is_seen() -> None:
    world = worlds.make("two_rooms", dot=(0, 0, 0), wall=(255, 255, 255), background=(255, 255, 255))
    (episode,) = world.episodes(1, seed=0)
    dark = 255.0 - episode.observations["camera"].mean(-1)
    centres = np.arange(64) + 0.5
    weight = dark.sum((1, 2))
    seen = np.stack([dark.sum(1) @ centres / weight, dark.sum(2) @ centres / weight], axis=1)
    np.testing.assert_allclose(seen, episode.observations["position"], atol=0.2)


def test_actions_move_the_dot_between_the_steps_that_they_stand_between() -> None:
    (episode,) = worlds.make("two_rooms", gain=0.5, persistence=0.0).episodes(1, seed=4)
    moved = np.diff(episode.observations["position"], axis=0)
    free = np.abs(moved - 0.5 * episode.actions).max(1) < 1e-4
    assert free.mean() > 0.6
    later = np.abs(moved[1:] - 0.5 * episode.actions[:-1]).max(1) < 1e-4
    assert later.mean() < 0.1


def test_walks_persist_as_said_and_reach_every_part_of_both_rooms() -> None:
    episodes = list(worlds.make("two_rooms", persistence=0.5).episodes(60, seed=0))
    actions = np.stack([e.actions for e in episodes])
    # Clipping and turning at walls take some of the correlation away.
    assert np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1] == pytest.approx(0.45, abs=0.08)
    assert np.abs(actions).max() == 2.0
    places = np.concatenate([e.observations["position"] for e in worlds.make("two_rooms").episodes(60, seed=0)])
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=[[4, 16, 28, 36, 48, 60], np.linspace(4, 60, 5)])
    assert counts[[0, 1, 3, 4]].min() > 30


def test_unknown_worlds_and_options_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match="did you mean 'two_rooms'"):
        worlds.make("two_room")
    with pytest.raises(SpecError, match=r"no option 'size'; it has .*radius"):
        worlds.make("two_rooms", size=3)
    assert worlds.names() == ("two_rooms", "glucose", "pusht", "reacher", "pointmaze")
    world = worlds.make("two_rooms", step=0.8)
    assert world.options["step"] == 0.8
    assert world.spec.action.high == (0.8, 0.8)
