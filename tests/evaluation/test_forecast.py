"""Forecast errors against an independent count, and conformal intervals that hold what they promise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.evaluation.forecast import Forecasts, calibrate, forecast
from foretell.model.readout import Readout
from tests.evaluation.points import exact, recorded


class Shifted(Readout):
    """The latent itself, always 3 m and 4 m off."""

    def __init__(self) -> None:
        super().__init__(channel="place", fields=("x", "y"), units=("m", "m"), latent=2)

    def forward(self, latents: Tensor) -> Tensor:
        return latents[..., 0, :] + torch.tensor([3.0, 4.0])


@pytest.mark.parametrize(("block", "history"), [(1, 1), (2, 1), (3, 3)])
def test_errors_of_an_exact_model_are_those_of_its_readout(tmp_path: Path, block: int, history: int) -> None:
    store = recorded(tmp_path / "points", 5)
    made = forecast(exact(block, history), store, [1, 4], Shifted(), steps=20)
    assert made.horizons[-1] == math.ceil(20 / block) * block
    found = made.summary()
    np.testing.assert_allclose(found["rmse"], 5, rtol=1e-5)
    np.testing.assert_allclose(found["interval"], 5, rtol=1e-5)
    assert found["unit"] == "m"
    assert (found["episodes"], found["contexts"]) == (2, 8)
    back = (history - 1) * block
    starts = np.unique(np.linspace(back, 40 - made.horizons[-1], 4).round().astype(int))
    places = [store[i].observations["place"].astype(np.float64) for i in (1, 4)]
    still = [((p[starts + made.horizons[-1]] - p[starts]) ** 2).sum(1) for p in places]
    assert found["no_change"][-1] == pytest.approx(math.sqrt(np.mean(still)), rel=1e-6)


def test_a_horizon_longer_than_the_episodes_is_shortened(tmp_path: Path) -> None:
    store = recorded(tmp_path / "points", 3)
    made = forecast(exact(4), store, [0, 1], Shifted(), steps=500)
    assert made.horizons.tolist() == list(range(4, 41, 4))
    assert made.at(10) == 2
    assert made.at(12) == 2
    assert made.at(99) == 9
    with pytest.raises(DataError, match="at least 51 steps, the longest has 41"):
        forecast(exact(50), store, [0], Shifted())
    with pytest.raises(SpecError, match="at least 1"):
        forecast(exact(), store, [0], Shifted(), steps=0)


def gaussian(episodes: int, seed: int, known: float = 1.0) -> Forecasts:
    rng = np.random.default_rng(seed)
    errors = rng.normal(0, [[[1.0, 3.0]], [[1.0, 3.0]]][0], (episodes, 3, 2))
    return Forecasts(
        channel="place",
        fields=("x", "y"),
        units=("m", "m"),
        horizons=np.array([1, 2, 3]),
        episode=np.arange(episodes),
        errors=errors,
        change=errors * 2,
        known=rng.random((episodes, 3)) < known,
    )


def test_conformal_half_widths() -> None:
    made = calibrate(gaussian(4000, 0), seed=0)
    widths = np.array(made["half_width"])
    np.testing.assert_allclose(widths[:, 0], 1.645, atol=0.1)
    np.testing.assert_allclose(widths[:, 1], 3 * 1.645, atol=0.3)
    assert made["mean_coverage"] == pytest.approx(0.9, abs=0.015)
    json.dumps(made, allow_nan=False)


def test_conformal_coverage_holds_for_few_episodes() -> None:
    coverage = [calibrate(gaussian(60, s), seed=s)["mean_coverage"] for s in range(60)]
    # Split conformal promises at least 0.9 on average, and at most 1 / (n + 1) more.
    assert 0.89 <= np.mean(coverage) <= 0.9 + 1 / 31 + 0.015


def test_too_few_episodes_give_no_bound() -> None:
    made = calibrate(gaussian(10, 0), seed=0)
    assert made["half_width"] == [[None, None]] * 3
    assert made["mean_coverage"] == 1
    with pytest.raises(DataError, match="at least two"):
        calibrate(gaussian(1, 0), seed=0)


def test_missing_truth_is_left_out() -> None:
    made = gaussian(500, 3, known=0.7)
    made.errors[~made.known] = 1e6
    found = made.summary()
    np.testing.assert_allclose(found["rmse"], math.sqrt(10), rtol=0.1)
    assert all(low < value < high for value, (low, high) in zip(found["rmse"], found["interval"], strict=True))
    nothing = gaussian(5, 3, known=0.0).summary()
    assert np.isnan(nothing["rmse"]).all()
