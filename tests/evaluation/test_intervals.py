"""Intervals against an independent implementation, known values and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from foretell.errors import SpecError
from foretell.evaluation.intervals import bootstrap, wilson


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_is_that_of_scipy(counts: tuple[int, int], level: float) -> None:
    successes, count = counts
    expected = binomtest(successes, count).proportion_ci(level, method="wilson")
    low, high = wilson(successes, count, level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / count <= high <= 1


def test_wilson_known_values() -> None:
    # Newcombe 1998, table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 2, 1.0)])
def test_wilson_refuses(arguments: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="successes <= count"):
        wilson(*arguments)


def test_bootstrap_covers_a_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap(rng.normal(3, 2, 60), rng, draws=400)
        held += bool(low <= 3 <= high)
    # Binomial around 0.93 (the percentile bootstrap is a little narrow at 60 values).
    assert 0.88 <= held / 200 <= 0.985


def test_bootstrap_keeps_shapes_and_takes_statistics() -> None:
    values = np.random.default_rng(1).random((30, 4, 2))
    low, high = bootstrap(values, np.random.default_rng(2))
    assert low.shape == high.shape == (4, 2)
    assert (low < values.mean(0)).all()
    assert (values.mean(0) < high).all()
    top, _ = bootstrap(values, np.random.default_rng(2), statistic=lambda drawn: drawn.max(axis=1))
    assert (top > high).all()
    with pytest.raises(SpecError, match="got shape"):
        bootstrap(np.zeros((0, 3)), np.random.default_rng(0))
