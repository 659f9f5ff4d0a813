"""How strongly a system answers, against Bayes' rule on a grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import SpecError
from foretell.planning.response import Response


def test_belief_is_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=7), rng.uniform(0.5, 2, 7)
    y = 1.7 * x + noise * rng.normal(size=7)
    grid = np.linspace(-5, 8, 200_001)
    log = -0.5 * ((grid - 1) / 0.4) ** 2 - 0.5 * (((y - grid[:, None] * x) / noise) ** 2).sum(1)
    weight = np.exp(log - log.max())
    mean = (weight * grid).sum() / weight.sum()
    variance = (weight * (grid - mean) ** 2).sum() / weight.sum()
    found = Response.start(1, spread=0.4).after(*(torch.from_numpy(v)[None] for v in (x, y)), torch.from_numpy(noise))
    assert float(found.mean) == pytest.approx(mean, rel=1e-5)
    assert float(found.variance) == pytest.approx(variance, rel=1e-5)
    assert float(found.highest(2.0)) == pytest.approx(mean + 2 * math.sqrt(variance), rel=1e-5)


# The first call loads parts of torch.
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_one_by_one_is_all_at_once_and_the_unknown_says_nothing(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(3, count, generator=generator) for _ in range(2))
    y[:, ::2] = torch.where(torch.rand(3, len(range(0, count, 2)), generator=generator) < 0.5, math.nan, y[:, ::2])
    noise = torch.rand(count, generator=generator) + 0.5
    single = Response.start(3)
    for k in range(count):
        single = single.after(x[:, k : k + 1], y[:, k : k + 1], noise[k : k + 1])
    whole = Response.start(3).after(x, y, noise)
    torch.testing.assert_close(single.mean, whole.mean)
    torch.testing.assert_close(single.variance, whole.variance)
    blind = Response.start(3).after(x, torch.full_like(y, math.nan), noise)
    torch.testing.assert_close(blind.variance, Response.start(3).variance)


def test_doubt_grows_with_time_and_must_be_positive() -> None:
    assert float(Response.start(1, spread=0.3).drifted(0.4).variance.sqrt()) == pytest.approx(0.5)
    with pytest.raises(SpecError, match="positive spread"):
        Response.start(1, spread=0.0)
