"""Attribution: shares that sum to one, and that lie where something was done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.errors import SpecError
from foretell.trust.attribution import attribute_novelty, attribute_surprise
from foretell.trust.calibration import Calibration, fit
from tests.trust.samples import SPEC, episodes, jumped, model, seen

FIELDS = {c.name: c.fields for c in SPEC.observations}


@pytest.fixture(scope="module")
def fitted() -> Calibration:
    return fit(model(), seen(model(), episodes(40, seed=1)), seed=0, steps=200)


def test_shares_sum_to_one(fitted: Calibration) -> None:
    episode = next(episodes(1, seed=2))
    for found in (attribute_surprise(model(), fitted, episode, 8), attribute_novelty(model(), fitted, episode, 8)):
        assert sum(found.channels.values()) == pytest.approx(1, abs=1e-5)
        assert found.maps["camera"].shape == (16, 16)
        assert found.maps["camera"].sum() == pytest.approx(found.channels["camera"], abs=1e-5)
        assert found.fields["place"].sum() == pytest.approx(found.channels["place"], abs=1e-5)
        assert all((m >= 0).all() for m in (*found.maps.values(), *found.fields.values()))


def test_a_surprise_lies_in_the_channel_and_field_that_changed(fitted: Calibration) -> None:
    episode = next(episodes(1, seed=3))
    still = replace(episode, observations={**episode.observations, "camera": episode.observations["camera"].copy()})
    still.observations["camera"][:] = still.observations["camera"][0]
    still.observations["place"][:, 1] = still.observations["place"][0, 1]
    found = attribute_surprise(model(), fitted, jumped(still, 10, 3.0), 10)
    assert found.channels["place"] == pytest.approx(1)
    only_x = replace(still, observations={**still.observations, "place": still.observations["place"].copy()})
    only_x.observations["place"][10:, 0] += 3
    found = attribute_surprise(model(), fitted, only_x, 10)
    assert found.top(FIELDS) == "place: x"
    assert found.fields["place"][1] == 0


def test_a_surprise_in_a_picture_lies_where_the_picture_changed(fitted: Calibration) -> None:
    episode = next(episodes(1, seed=4))
    camera = episode.observations["camera"].copy()
    camera[:] = camera[0]
    camera[10:, 11:14, 2:5] = 255
    changed = replace(episode, observations={**episode.observations, "camera": camera})
    heat = attribute_surprise(model(), fitted, changed, 10).maps["camera"]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 10 <= row <= 14
    assert 1 <= column <= 5


def test_a_novelty_in_a_picture_lies_where_it_is(fitted: Calibration) -> None:
    episode = next(episodes(1, seed=5))
    camera = episode.observations["camera"].copy()
    camera[8, 0:4, 12:16] = (0, 255, 0)
    found = attribute_novelty(
        model(), fitted, replace(episode, observations={**episode.observations, "camera": camera}), 8
    )
    row, column = np.unravel_index(found.maps["camera"].argmax(), (16, 16))
    assert row < 6
    assert column >= 10
    assert found.top(FIELDS) == "camera"


def test_where_nothing_changed_the_derivative_alone_counts_and_the_first_step_has_none(fitted: Calibration) -> None:
    episode = next(episodes(1, seed=6))
    frozen = {n: np.repeat(x[:1], len(x), 0) for n, x in episode.observations.items()}
    found = attribute_surprise(model(), fitted, replace(episode, observations=frozen), 8)
    assert sum(found.channels.values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(SpecError, match="a step that a prediction reaches expected, got step 0"):
        attribute_surprise(model(), fitted, episode, 0)


def test_what_moved_in_a_picture_is_where_it_is_now_not_where_it_was(fitted: Calibration) -> None:
    episode = next(episodes(1, seed=7))
    ratio = 1.0
    for column, other in ((1, 12), (12, 1)):
        camera = np.zeros_like(episode.observations["camera"])
        for t, frame in enumerate(camera):
            row, at = (t, column) if t < 10 else (9, other)
            frame[row : row + 3, at : at + 3] = 255
        moved = replace(episode, observations={**episode.observations, "camera": camera})
        heat = attribute_surprise(model(), fitted, moved, 10).maps["camera"]
        ratio *= heat[9:12, other : other + 3].sum() / heat[9:12, column : column + 3].sum()
    assert ratio > 2000  # 500 beside the picture before alone
