"""The patient as a Gymnasium environment."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from foretell.errors import SpecError
from foretell.worlds.glucose import GlucoseEnv, risk, shares


def test_it_is_a_gymnasium_environment() -> None:
    env = gymnasium.make("foretell/Glucose-v0", days=1)
    check_env(env.unwrapped, skip_render_check=True)


def test_a_seed_gives_the_same_day_and_each_reset_the_next_patient() -> None:
    env = GlucoseEnv(days=1, lost=0.2)
    days = []
    for _ in range(2):
        observed, info = env.reset(seed=3)
        assert info["patient"] == "adolescent#001"
        day, ended = [observed], False
        while not ended:
            observed, reward, done, ended, info = env.step(np.array([1.0, 0.0], np.float32))
            day.append(observed)
            assert reward == pytest.approx(-float(risk(np.array(info["plasma"]))))
            assert not done
        days.append(day)
    assert len(days[0]) == 24 * 12 + 1
    for one, other in zip(*days, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    # Where there is no reading the last one stands.
    gone = [t for t, seen in enumerate(days[0]) if not seen["there"][0]]
    assert gone
    assert all(days[0][t]["glucose"] == days[0][t - 1]["glucose"] for t in gone)
    assert env.reset()[1]["patient"] == "adolescent#002"


@pytest.mark.parametrize("action", [[1.0], [1.0, float("nan")], [[1.0, 0.0]]])
def test_an_action_that_is_none_is_refused(action: list[float]) -> None:
    env = GlucoseEnv(days=1)
    with pytest.raises(SpecError, match="reset expected"):
        env.step(np.zeros(2, np.float32))
    env.reset(seed=0)
    with pytest.raises(SpecError, match="two finite numbers"):
        env.step(np.array(action, np.float32))


def test_risk_is_least_at_the_middle_of_its_scale_and_shares_add_up() -> None:
    levels = np.arange(20.0, 600.0, 0.5)
    index = risk(levels)
    assert levels[index.argmin()] == pytest.approx(112.5, abs=0.5)
    # Published: about 100 at either end of the scale.
    assert index[0] == pytest.approx(100, rel=0.02)
    assert index[-1] == pytest.approx(100, rel=0.02)
    found = shares(np.array([50.0, 60.0, 70.0, 180.0, 181.0]))
    assert (found["tir"], found["below_70"], found["below_54"], found["above_180"]) == (0.4, 0.4, 0.2, 0.2)
