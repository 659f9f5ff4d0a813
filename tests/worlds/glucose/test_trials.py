"""Trials: the same patient and the same life under two plans."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import SpecError
from foretell.worlds.glucose import HELD_OUT, Options, logged, trials
from foretell.worlds.glucose.trials import AHEAD
from foretell.worlds.glucose.ward import DAY

LOGS = Options(logs="randomised", patients=HELD_OUT)


@pytest.mark.parametrize("kind", ["basal", "bolus", "dose", "extra"])
def test_both_plans_begin_at_the_same_moment_of_the_same_life(kind: str) -> None:
    found = list(trials(LOGS, 40, kind, seed=3))  # type: ignore[arg-type]
    episodes = list(logged(LOGS, 40, seed=3))
    assert len(found) == 40
    moments = {len(t.history) for t in found}
    assert len(moments) > 20 if kind in ("bolus", "dose") else len(moments) == 2
    for trial, episode in zip(found, episodes, strict=True):
        now = len(trial.history) - 1
        assert DAY <= now < 2 * DAY - AHEAD
        assert trial.history.group == episode.group
        assert np.array_equal(trial.history.observations["glucose"], episode.observations["glucose"][: now + 1])
        assert np.array_equal(trial.plan[:, 1:], episode.actions[now : now + AHEAD, 1:])
        assert np.ptp(trial.plan[:, 0]) == 0
        plasma = episode.observations["plasma"][now : now + AHEAD + 1, 0]
        same = (np.abs(trial.plan[:, 0] - episode.actions[now : now + AHEAD, 0]) < 1e-6).argmin()
        assert trial.glucose[: same + 1] == pytest.approx(plasma[: same + 1])
        changed = (trial.plan != trial.other).any(1)
        if changed.any():
            first = int(changed.argmax())
            # Up to the rounding of what is recorded.
            assert np.abs(trial.effect[: first + 1]).max() < 1e-3
        more = (trial.other - trial.plan).sum(0)
        assert more[2] == 0
        if kind == "extra":
            assert (changed.sum(), more[0]) == (1, 0)
            assert more[1] > 0
            # Insulin lowers glucose, but not below what is left of it.
            assert trial.effect[-1] < -1
        if kind == "dose":
            assert (changed[0], changed.sum()) == (True, 1)
            assert trial.other[0, 1] / trial.plan[0, 1] in (0.5, pytest.approx(1.5), 30 / trial.plan[0, 1])
            assert more[1] * trial.effect[-1] < 0
        if kind == "bolus":
            assert trial.plan[0, 1] > 0
            assert changed[0]
            late = changed.sum() == 2
            assert (changed[6], abs(more[1]) < 1e-6) == (True, True) if late else changed.sum() == 1
            assert trial.effect[6] > 0 if late else more[1] * trial.effect[-1] < 0


def test_a_trial_depends_on_its_number_alone() -> None:
    few, many = (list(trials(LOGS, n, "basal", seed=5)) for n in (3, 34))
    for one, other in zip(few, many, strict=False):
        assert np.array_equal(one.other_glucose, other.other_glucose)
    with pytest.raises(SpecError, match="a trial of basal, bolus, dose, extra expected, got 'x'"):
        next(trials(LOGS, 1, "x", seed=0))  # type: ignore[arg-type]
