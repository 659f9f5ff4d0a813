"""Surprise: in units of what is usual there."""

from __future__ import annotations

import math

import pytest
import torch

from foretell.errors import DataError, SpecError
from foretell.trust.residuals import Residuals
from foretell.trust.surprise import ResidualLaw, fit_residual_law

VIEWS = 2


def sample(count: int, seed: int) -> Residuals:
    """Three correlated values, three times as large where the first given value is above 0, and off by the second."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(count, VIEWS, 7, generator=generator)
    mix = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.2], [0.0, 0.0, 0.3]])
    size = torch.where(given[..., :1] > 0, 3.0, 1.0)
    values = (torch.randn(count, VIEWS, 3, generator=generator) * size) @ mix
    return Residuals(values + given[..., 1:2], given)


@pytest.fixture(scope="module")
def law() -> ResidualLaw:
    return fit_residual_law(sample(8000, 0), action=1, seed=0, steps=600)


def test_scores_follow_the_law_that_made_the_residuals(law: ResidualLaw) -> None:
    fresh = sample(4000, 1)
    scores = law.distance(law.whitened(fresh.values), fresh.given)
    calm, rough = fresh.given[..., 0] < -0.2, fresh.given[..., 0] > 0.2
    # Chi-squared with 3 degrees of freedom: mean 3, in calm and rough places alike.
    assert float(scores[calm].mean()) == pytest.approx(3, rel=0.2)
    assert float(scores[rough].mean()) == pytest.approx(3, rel=0.2)
    for ordinary in law.get_buffer("ordinary").tolist():
        assert ordinary == pytest.approx(16.3, rel=0.35)
    mean = (scores / law.get_buffer("ordinary")).mean(-1)
    assert torch.allclose(law(fresh.values, fresh.given), mean, atol=1e-5)


def test_an_error_that_is_ordinary_in_rough_places_is_a_surprise_in_calm_ones(law: ResidualLaw) -> None:
    values = torch.tensor([[[5.0, 5.0, 1.0]] * VIEWS])
    calm, rough = (torch.tensor([[[x, 0, 0, 0, 0, 0, 0]] * VIEWS]) for x in (-1.0, 1.0))
    assert float(law(values, calm)) > 1 > float(law(values, rough))


def test_distance_and_volume_are_those_of_the_whole_covariance() -> None:
    torch.manual_seed(0)
    for rank in (0, 2):
        law = ResidualLaw(size=3, action=1, blocks=1, width=16, rank=rank).double()
        white, given = torch.randn(5, VIEWS, 3).double(), torch.randn(5, VIEWS, 7).double()
        mean, log_scale, common = law.law(given)
        unscaled = common * log_scale.exp().unsqueeze(-1)
        covariance = torch.diag_embed((2 * log_scale).exp()) + unscaled @ unscaled.transpose(-1, -2)
        gaussian = torch.distributions.MultivariateNormal(mean, covariance)
        distance, volume = law.distance_and_volume(white, given)
        log_density = -0.5 * (distance + volume + 3 * math.log(2 * math.pi))
        assert torch.allclose(log_density, gaussian.log_prob(white))


def test_what_never_moved_may_move_a_little() -> None:
    still = Residuals(torch.randn(4000, VIEWS, 3), torch.randn(4000, VIEWS, 7))
    resting = still.given[..., 0] > 0
    still.values[resting] = 0.0
    found = fit_residual_law(still, action=1, seed=0, steps=400)
    at_rest = torch.zeros(1, VIEWS, 7)
    at_rest[..., 0] = 1.0
    assert float(found(torch.full((1, VIEWS, 3), 0.2), at_rest)) < 1
    assert float(found(torch.full((1, VIEWS, 3), 3.0), at_rest)) > 1


def test_views_that_reach_count_and_none_gives_nan() -> None:
    law = ResidualLaw(size=3, action=1, blocks=1)
    values, given = torch.randn(3, VIEWS, 3), torch.randn(3, VIEWS, 7)
    values[0], values[1, 1] = math.nan, math.nan
    given[0], given[1, 1] = math.nan, math.nan
    values.requires_grad_(True)
    found = law(values, given)
    assert [bool(x) for x in found.isnan()] == [True, False, False]
    each = law.distance(law.whitened(values[1:]), given[1:])
    assert float(found[1].detach()) == pytest.approx(float(each[0, 0].detach()))
    assert float(found[2].detach()) == pytest.approx(float(each[1].detach().mean()))
    (slope,) = torch.autograd.grad(found[1], values)
    assert bool(slope.isfinite().all())
    assert bool((slope[1, 0] != 0).all())


def test_the_same_seed_gives_the_same_law_and_it_comes_back_from_its_description() -> None:
    one, other = (fit_residual_law(sample(100, 0), action=1, seed=3, steps=5) for _ in range(2))
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
    nothing = Residuals(torch.full((4, VIEWS, 3), math.nan), torch.full((4, VIEWS, 7), math.nan))
    none = Residuals(nothing.values[:0], nothing.given[:0])
    for found in (none, nothing):
        with pytest.raises(DataError, match="episodes longer than the longest prediction expected"):
            fit_residual_law(found, action=1, seed=0)
