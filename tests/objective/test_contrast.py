"""InfoNCE against its definition, and what it is for: telling episodes apart by every factor they differ in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from foretell.objective.contrast import contrast


def test_it_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    expected = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(5):
            scores = [-0.5 * ((one[i] - other[j]) ** 2).sum() for j in range(5)]
            expected -= log_softmax(scores)[i] / 10
    found = contrast(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [2, 7])
def test_episodes_that_look_the_same_are_told_apart_by_chance(count: int) -> None:
    same = torch.ones(count, 4)
    assert float(contrast(same, same)) == pytest.approx(math.log(count), rel=1e-6)
    apart = 100.0 * torch.eye(count)
    assert float(contrast(apart, apart)) == pytest.approx(0.0, abs=1e-6)


def test_two_factors_tell_more_than_one_twice() -> None:
    factors = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    once = factors[:, :1].expand(-1, 2)
    assert contrast(factors, factors + noise) < contrast(once, once + noise) - 0.3
