"""Units mixed up are noticed; what is only unusual, or fits, is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.episodes.units import mixed_up


@pytest.mark.parametrize(
    ("factor", "offset", "mean", "spread", "told"),
    [
        (1 / 18.016, 0.0, 140.0, 50.0, "mmol/L of glucose instead of mg/dL"),
        (18.016, 0.0, 7.8, 2.8, "mg/dL instead of mmol/L of glucose"),
        (5 / 9, -160 / 9, 70.0, 5.0, "degrees Celsius instead of degrees Fahrenheit"),
        (1.0, 273.15, 60.0, 8.0, "kelvin instead of degrees Celsius"),
        (1000.0, 0.0, 3.0, 0.4, "its thousandth instead of a unit"),
    ],
)
def test_a_wrong_unit_is_named(factor: float, offset: float, mean: float, spread: float, told: str) -> None:
    values = np.random.default_rng(0).normal(mean, spread, 300)
    assert mixed_up(values, mean, spread) is None
    assert mixed_up(values * factor + offset, mean, spread) == told
    assert mixed_up((values * factor + offset)[:5], mean, spread) is None


@settings(max_examples=50, deadline=None)
@given(away=st.floats(-1.5, 1.5), seed=st.integers(0, 99))
def test_what_fits_is_left_alone(away: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(140 + 50 * away, 30, 200)
    assert mixed_up(values, 140.0, 50.0) is None


def test_what_is_new_but_in_no_other_unit_is_left_to_novelty() -> None:
    assert mixed_up(np.random.default_rng(0).normal(400, 1.0, 200), 140.0, 50.0) is None
    assert mixed_up(np.full(200, 7.0), 140.0, 0.0) is None
