"""Surprise: in units of what is usual there."""

from __future__ import annotations

import math

import pytest
import torch

from foretell.errors import DataError, SpecError
from foretell.trust.residuals import Residuals
from foretell.trust.surprise import ResidualLaw, fit_residual_law


def sample(count: int, seed: int) -> Residuals:
    """Three correlated values, ten times as large where the first given value is above 0, and off by the second."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(count, 1, 4, generator=generator)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 0.3]])
    size = torch.where(given[..., :1] > 0, 10.0, 1.0)
    values = (torch.randn(count, 1, 3, generator=generator) * size) @ mix
    return Residuals(values + given[..., 1:2], given)


@pytest.fixture(scope="module")
def law() -> ResidualLaw:
    return fit_residual_law([sample(8000, 0)], action=1, seed=0, steps=800)


def test_scores_follow_the_law_that_made_the_residuals(law: ResidualLaw) -> None:
    fresh = sample(4000, 1)
    scores = law(fresh.values, fresh.given) * law.get_buffer("ordinary")
    calm = fresh.given[:, 0, 0] < -0.2
    rough = fresh.given[:, 0, 0] > 0.2
    # Chi-squared with 3 degrees of freedom: mean 3, in calm and rough places alike.
    assert float(scores[calm].mean()) == pytest.approx(3, rel=0.2)
    assert float(scores[rough].mean()) == pytest.approx(3, rel=0.2)
    assert float(law.get_buffer("ordinary")[0]) == pytest.approx(11.3, rel=0.35)


def test_an_error_that_is_ordinary_in_rough_places_is_a_surprise_in_calm_ones(law: ResidualLaw) -> None:
    values = torch.tensor([[[5.0, 5.0, 1.0]]])
    calm, rough = torch.tensor([[[-1.0, 0, 0, 0]]]), torch.tensor([[[1.0, 0, 0, 0]]])
    assert float(law(values, calm)) > 1 > float(law(values, rough))


def test_the_longest_prediction_that_reaches_counts_and_none_gives_nan(law: ResidualLaw) -> None:
    two = ResidualLaw(size=3, action=1, blocks=2)
    two.requires_grad_(False)
    values, given = torch.randn(3, 2, 3), torch.randn(3, 2, 4)
    values[0], values[1, 1] = math.nan, math.nan
    given[0], given[1, 1] = math.nan, math.nan
    found = two(values, given)
    assert math.isnan(found[0])
    assert bool(found[1:].isfinite().all())


def test_the_same_seed_gives_the_same_law_and_it_comes_back_from_its_description() -> None:
    one, other = (fit_residual_law([sample(100, 0)], action=1, seed=3, steps=5) for _ in range(2))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    again = ResidualLaw.from_json(one.to_json())
    again.load_state_dict(one.state_dict())
    fresh = sample(5, 1)
    assert torch.equal(again(fresh.values, fresh.given), one(fresh.values, fresh.given))
    with pytest.raises(SpecError, match="not a law of residuals"):
        ResidualLaw.from_json({"size": 3})
    with pytest.raises(SpecError, match="surprise: width must be"):
        ResidualLaw.from_json({**one.to_json(), "width": 0})


def test_nothing_to_learn_from_is_refused() -> None:
    nothing = Residuals(torch.full((4, 1, 3), math.nan), torch.full((4, 1, 4), math.nan))
    for found in ([], [nothing]):
        with pytest.raises(DataError, match="episodes longer than the longest prediction expected"):
            fit_residual_law(found, action=1, seed=0)
