"""Variance, covariance and latent spread against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.objective.variance import latent_spread, variance_covariance


@given(
    batch=st.integers(2, 30),
    steps=st.integers(1, 4),
    latent=st.integers(1, 6),
    target=st.floats(0.2, 2.0),
    scale=st.floats(0.01, 3.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_terms_are_those_of_vicreg(batch: int, steps: int, latent: int, target: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    latents = scale * rng.normal(size=(batch, steps, latent)) @ rng.normal(size=(latent, latent)) + 3
    variances, covariances = [], []
    for t in range(steps):
        moments = np.atleast_2d(np.cov(latents[:, t].T, bias=True))
        hinge = [max(0.0, target - np.sqrt(moments[d, d] + 1e-4)) for d in range(latent)]
        variances.append(np.mean(hinge))
        covariances.append(sum(moments[i, j] ** 2 for i in range(latent) for j in range(latent) if i != j) / latent)
    variance, covariance = variance_covariance(torch.as_tensor(latents, dtype=torch.float32), target)
    assert float(variance) == pytest.approx(np.mean(variances), rel=1e-3, abs=2e-4)
    assert float(covariance) == pytest.approx(np.mean(covariances), rel=1e-3, abs=1e-4 * max(1, scale**4))


def test_terms_of_known_latents() -> None:
    collapsed = variance_covariance(torch.full((5, 2, 3), 7.0))
    assert [float(t) for t in collapsed] == pytest.approx([1 - 0.01, 0.0])
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])[:, None]
    assert [float(t) for t in variance_covariance(corners)] == pytest.approx([0.0, 0.0], abs=1e-6)
    # Two dimensions that are one: variances of 1, and a covariance of 1 on either side of the diagonal.
    line = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])[:, None]
    assert [float(t) for t in variance_covariance(line)] == pytest.approx([0.0, 1.0], abs=1e-6)


def test_gradient_of_collapsed_latents_is_finite() -> None:
    latents = torch.zeros(6, 2, 3, requires_grad=True)
    sum(variance_covariance(latents)).backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()


@given(shape=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5)))
@settings(max_examples=20, deadline=None)
def test_spread_is_the_mean_standard_deviation(shape: tuple[int, int, int, int]) -> None:
    latents = np.random.default_rng(0).normal(size=shape) * 4 + np.arange(shape[-1]) * 10
    expected = latents.reshape(-1, shape[-1]).std(0).mean()
    assert float(latent_spread(torch.as_tensor(latents, dtype=torch.float32))) == pytest.approx(expected, abs=1e-4)


def test_spread_of_known_latents() -> None:
    assert float(latent_spread(torch.full((4, 3, 1, 5), 2.5))) == 0
    halves = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1) * torch.tensor([1.0, 3.0, 0.0, 0.0])
    assert float(latent_spread(halves)) == pytest.approx(1.0)
    normal = torch.randn(4000, 4, 1, 8, generator=torch.Generator().manual_seed(0))
    assert float(latent_spread(normal)) == pytest.approx(1.0, abs=0.01)
    assert not latent_spread(normal.requires_grad_()).requires_grad
