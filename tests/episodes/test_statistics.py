"""Statistics equal those of all valid values together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foretell.episodes.statistics import Moments, statistics
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from tests.episodes.samples import SPEC, episode


@settings(deadline=None)
@given(data=st.data(), offset=st.sampled_from([0.0, 1e9]))
def test_parts_add_up_to_the_whole(data, offset):
    rows = data.draw(st.integers(1, 30))
    values = data.draw(hnp.arrays(np.float64, (rows, 2), elements=st.floats(-100, 100))) + offset
    valid = data.draw(hnp.arrays(np.bool_, (rows, 2)))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    moments = Moments()
    for part, mask in zip(np.split(values, cuts), np.split(valid, cuts), strict=True):
        moments.add(part, mask)
    assert moments.count is not None
    for field in range(2):
        chosen = values[valid[:, field], field]
        assert moments.count[field] == len(chosen)
        if len(chosen):
            assert moments.mean[field] == pytest.approx(chosen.mean(), rel=1e-12, abs=1e-12)
            assert moments.std()[field] == pytest.approx(chosen.std(), rel=1e-6, abs=1e-6)
            assert (moments.low[field], moments.high[field]) == (chosen.min(), chosen.max())
        else:
            assert (moments.mean[field], moments.std()[field]) == (0, 1)


def test_stores_count_what_is_valid_once(tmp_path):
    with EpisodeWriter(tmp_path / "store", SPEC) as writer:
        for i in range(4):
            writer.append(episode(i, 8 + i, gaps=i > 1))
    store = EpisodeStore(tmp_path / "store")
    for chosen in (None, [1, 3], [0]):
        found = statistics(store, chosen)
        made = [episode(i, 8 + i, gaps=i > 1) for i in (range(4) if chosen is None else chosen)]
        state = np.concatenate(
            [np.where(e.valid.get("state", np.True_), e.observations["state"], np.nan) for e in made]
        )
        wave = np.concatenate([e.observations["pressure"] for e in made]).astype(np.float64)
        actions = np.concatenate([e.actions for e in made]).astype(np.float64)
        assert found.mean["state"] == pytest.approx(np.nanmean(state, 0))
        assert found.std["state"] == pytest.approx(np.nanstd(state, 0))
        assert found.count["state"].tolist() == np.isfinite(state).sum(0).tolist()
        assert found.mean["pressure"] == pytest.approx(wave.mean((0, 2)))
        assert found.std["action"] == pytest.approx(actions.std(0))
        assert found.count["action"].tolist() == [len(actions)] * 2
        frames = [e.observations["camera"][e.valid.get("camera", np.ones(len(e), bool))] for e in made]
        pixels = np.concatenate(frames).reshape(-1, 3).astype(float)
        # Episodes this short are counted whole.
        assert found.mean["camera"] == pytest.approx(pixels.mean(0))
        assert found.std["camera"] == pytest.approx(pixels.std(0))
        assert set(found.mean) == {"camera", "state", "pressure", "level", "action"}
