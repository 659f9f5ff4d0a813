"""The glucose benchmark runs, small, and its regressions see what they are told to."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.quick import quick


@pytest.mark.slow
def test_forecasts_are_printed_under_their_ids() -> None:
    pytest.importorskip("sklearn", reason="pip install -e '.[dev]'")
    rows = quick("glucose", "--only", "glucose.forecast")["rows"]
    assert [row["id"] for row in rows] == [f"glucose.forecast.rmse.m{m}" for m in (30, 60, 120, 240)]
    for row in rows:
        assert row["interval"][0] < row["value"] < row["interval"][1]
        assert row["baselines"].keys() == {"ridge", "boosting", "persistence"}
    # What lies further ahead is harder to tell.
    assert [row["baselines"]["persistence"] for row in rows] == sorted(row["baselines"]["persistence"] for row in rows)


def test_what_a_regression_sees_holds_nothing_of_what_follows() -> None:
    pytest.importorskip("sklearn", reason="pip install -e '.[dev]'")
    from benchmarks.glucose_made import features, last_reading, moments
    from foretell.worlds.glucose import HELD_OUT, Options, logged

    (episode,) = logged(Options(logs="randomised", patients=HELD_OUT), 1, seed=0)
    changed = {n: x.copy() for n, x in episode.observations.items()}
    every = moments([episode], every=24)
    now = len(every[3].past) - 1
    for values in changed.values():
        values[now + 1 :] = 0
    (same,) = moments([type(episode)(observations=changed, actions=episode.actions, valid=episode.valid)], 24)[3:4]
    assert np.array_equal(features(every[3].past, every[3].plan), features(same.past, same.plan))
    there = episode.valid["glucose"][: now + 1]
    assert last_reading(every[3].past) == episode.observations["glucose"][: now + 1, 0][there][-1]
    assert np.array_equal(every[3].plan, episode.actions[now : now + 48])
    known = np.isfinite(every[3].after)
    assert np.array_equal(every[3].after[known], episode.observations["glucose"][now : now + 49, 0][known])
