"""Temporal distance: a quasimetric whatever its weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.model.distance import DistanceConfig, TemporalDistance

LATENT = 3


def distance(seed: int, weight: float = 1.0) -> TemporalDistance:
    torch.manual_seed(seed)
    head = TemporalDistance(DistanceConfig(latent=LATENT, width=8))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += weight * torch.randn(parameter.shape)
    return head.eval()


@torch.no_grad()
def matrix(head: TemporalDistance, points: Tensor) -> Tensor:
    """(n, n) from each of (n, D) points, along the rows, to each other one."""
    n = len(points)
    return head(points[None, :, None, None].expand(n, n, 1, 1, LATENT), points[:, None])[..., 0].T


@given(seed=st.integers(0, 1000), weight=st.sampled_from([0.0, 0.3, 2.0]), scale=st.sampled_from([0.01, 1.0, 100.0]))
@settings(max_examples=30, deadline=None)
def test_is_a_quasimetric(seed: int, weight: float, scale: float) -> None:
    points = scale * torch.randn(7, LATENT, generator=torch.Generator().manual_seed(seed)).double()
    # In double precision: in single, points close together differ by little more than what is rounded.
    d = matrix(distance(seed, weight).double(), points)
    size = float(d.max())
    assert size > 0
    assert (d >= 0).all()
    assert d.diagonal().abs().max() <= 1e-8 * size
    # From i over j to k is never shorter than from i to k.
    assert (d[:, :, None] + d[None, :, :] >= d[:, None, :] - 1e-8 * size).all()


def test_there_is_not_as_far_as_back() -> None:
    d = matrix(distance(0), torch.randn(6, LATENT, generator=torch.Generator().manual_seed(1)))
    assert (d - d.T).abs().max() > 0.1 * d.max()


def test_each_candidate_is_measured_to_the_goal_of_its_own_episode() -> None:
    head = distance(2)
    generator = torch.Generator().manual_seed(3)
    latents, goals = (torch.randn(shape, generator=generator) for shape in ((2, 3, 4, 1, LATENT), (2, 1, LATENT)))
    whole = head(latents, goals)
    assert whole.shape == (2, 3, 4)
    for b, s, k in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        one = head(latents[b : b + 1, s : s + 1, k : k + 1], goals[b : b + 1])
        torch.testing.assert_close(one[0, 0, 0], whole[b, s, k], atol=1e-4, rtol=1e-4)


def test_gradients_reach_latents_goals_and_weights() -> None:
    head = distance(4)
    latents, goals = torch.randn(2, 3, 4, 1, LATENT).requires_grad_(), torch.randn(2, 1, LATENT).requires_grad_()
    head(latents, goals).sum().backward()
    for tensor in (latents, goals, *head.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


@pytest.mark.parametrize("points", [1, 2])
def test_a_description_makes_the_same_kind_of_head(points: int) -> None:
    head = TemporalDistance(DistanceConfig(latent=LATENT * points, width=8))
    again = TemporalDistance.from_json(head.to_json())
    assert again.to_json() == head.to_json()
    again.load_state_dict(head.state_dict())
    latents, goals = torch.randn(1, 2, 2, points, LATENT), torch.randn(1, points, LATENT)
    assert torch.equal(again(latents, goals), head(latents, goals))
