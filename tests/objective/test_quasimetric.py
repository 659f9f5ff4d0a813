"""What temporal distances are learned by: pushing apart up to a reach, and holding steps to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.objective.quasimetric import excess, stretch


def test_excess_counts_only_what_is_longer_than_one_step() -> None:
    assert float(excess(torch.tensor([0.0, 0.5, 1.0, 1.5, 3.0]))) == pytest.approx((0.25 + 4.0) / 5)


def test_stretch_is_the_softplus_of_what_is_missing_to_the_reach() -> None:
    distances = np.array([0.0, 3.0, 9.0, 40.0])
    sharp = 10 / 20.0
    expected = np.mean(np.logaddexp(0, sharp * (20.0 - distances)) / sharp)
    assert float(stretch(torch.from_numpy(distances), 20.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("distance", "low", "high"), [(1.0, -1.0, -0.99), (60.0, -0.01, 0.0)])
def test_the_push_is_full_when_near_and_fades_beyond_the_reach(distance: float, low: float, high: float) -> None:
    x = torch.tensor([distance], requires_grad=True)
    stretch(x, 30.0).backward()
    assert x.grad is not None
    assert low <= float(x.grad) <= high
