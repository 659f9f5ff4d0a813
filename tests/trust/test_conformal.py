"""Conformal p-values and widths: validity, known values, and levels that adapt."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import DataError, SpecError
from foretell.trust.conformal import (
    AdaptiveLevel,
    TrackedQuantile,
    needed,
    p_values,
    quantile,
    require_enough,
    tail_of,
    tail_p_values,
)


def test_p_values_count_the_scores_that_are_at_least_as_high():
    reference = torch.tensor([1.0, 2.0, 2.0, 5.0])
    found = p_values(reference, torch.tensor([0.0, 2.0, 3.0, 5.0, 6.0]))
    assert found.tolist() == [1.0, 0.8, 0.4, 0.4, 0.2]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_p_values_are_valid_over_every_order_of_the_same_scores(values):
    # Whichever of exchangeable scores is the new one, p <= u for at most a share u of them.
    scores = torch.tensor(values, dtype=torch.float64)
    found = []
    for i in range(len(scores)):
        rest = torch.cat([scores[:i], scores[i + 1 :]]).sort().values
        found.append(float(p_values(rest, scores[i])))
    for u in np.unique(found):
        assert np.mean(np.array(found) <= u + 1e-12) <= u + 1e-9


@given(st.integers(1, 200), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_quantile_covers_at_least_the_level_over_every_order(count, level, seed):
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=count + 1))
    covered = [bool(scores[i] <= quantile(torch.cat([scores[:i], scores[i + 1 :]]), level)) for i in range(count + 1)]
    assert np.mean(covered) >= level - 1e-9


def test_fewest_scores_for_a_level():
    assert [needed(0.5), needed(0.1), needed(0.01), needed(0.05)] == [1, 9, 99, 19]
    assert math.isinf(quantile(torch.arange(98.0), 0.99))
    assert math.isfinite(quantile(torch.arange(99.0), 0.99))
    with pytest.raises(DataError, match="needs at least 99 calibration episodes, there are 10"):
        require_enough(10, 0.01, "alarms")


def test_tail_follows_a_pareto_law_beyond_the_scores_seen():
    # P(S > s) = s^-3 from s = 1 on.
    reference = torch.from_numpy(np.random.default_rng(0).pareto(3.0, 20_000) + 1).sort().values
    tail = tail_of(reference)
    assert tail[1] == pytest.approx(3, rel=0.1)
    far = torch.tensor([50.0, 500.0], dtype=torch.float64)
    assert torch.allclose(tail_p_values(reference, far, tail).log(), -3 * far.log(), rtol=0.1)
    assert (p_values(reference, far) == 1 / 20_001).all()
    inside = reference[::1000]
    assert torch.allclose(tail_p_values(reference, inside, tail), p_values(reference, inside), rtol=0.2)


def test_tail_of_few_scores_adds_nothing():
    reference = torch.arange(1.0, 500.0)
    assert tail_p_values(reference, torch.tensor([1e9]), tail_of(reference)) == p_values(reference, torch.tensor([1e9]))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, float("nan")])
def test_levels_outside_zero_and_one_are_refused(level):
    with pytest.raises(SpecError, match="a level between 0 and 1"):
        needed(level)
    with pytest.raises(SpecError, match="a level between 0 and 1"):
        quantile(torch.ones(3), level)
    with pytest.raises(SpecError, match="a level between 0 and 1"):
        AdaptiveLevel.start(level)


def test_adaptive_level_keeps_its_share_of_misses_under_drift():
    rng = np.random.default_rng(0)
    reference = torch.from_numpy(np.abs(rng.normal(size=2000))).sort().values
    scale = np.linspace(1, 4, 4000)
    level, missed, plain = AdaptiveLevel.start(0.1, rate=0.05), [], []
    for s in scale:
        error = abs(rng.normal()) * s
        missed.append(error > level.half_width(reference))
        plain.append(error > quantile(reference, 0.9))
        level = level.after(missed[-1])
    assert abs(np.mean(missed) - 0.1) <= (0.9 + 0.05) / (4000 * 0.05)
    assert np.mean(plain) > 0.3


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.2, 0.5]), st.sampled_from([0.1, 1.0, 5.0]))
def test_a_tracked_quantile_is_passed_by_its_share_whatever_comes(seed, target, rate):
    rng = np.random.default_rng(seed)
    # Any order of bounded scores, such as a drift, a jump and noise; two streams apart.
    scores = np.stack([np.linspace(0, 10, 400), np.where(np.arange(400) < 200, 0.0, 10.0)], 1)
    scores = np.clip(scores * rng.random((400, 2)), 0, 10)
    bound, beyond = TrackedQuantile(current=torch.zeros(2), target=target, rate=rate), []
    for row in torch.from_numpy(scores).float():
        beyond.append((row > bound.current).numpy())
        bound = bound.after(row)
    # Angelopoulos et al. 2023, proposition 1, for scores within [0, 10]; that the bound stays above 0 only lowers it.
    assert (np.mean(beyond, axis=0) - target <= (10 + rate) / (rate * 400) + 1e-6).all()


def test_a_tracked_quantile_moves_by_its_rate_and_not_where_nothing_is_known():
    bound = TrackedQuantile(current=torch.tensor([1.0, 1.0, 1.0, 0.0]), target=0.1, rate=2.0)
    moved = bound.after(torch.tensor([5.0, 0.5, math.nan, -1.0])).current
    assert moved.tolist() == pytest.approx([2.8, 0.8, 1.0, 0.0])
    with pytest.raises(SpecError, match="positive rate"):
        TrackedQuantile(current=torch.zeros(1), target=0.1, rate=0.0)
