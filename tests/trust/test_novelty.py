"""Novelty: Mahalanobis distances against an independent formula, and what each part sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from foretell.errors import SpecError
from foretell.trust.novelty import PLACES, Novelty, fit_novelty, places_of


def features(count: int, seed: int, places: int = 5) -> torch.Tensor:
    """Three correlated features at each place, with a mean of its own at each."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.3], [0.0, 0.0, 0.5]])
    return torch.randn(count, places, 3, generator=generator) @ mix + torch.arange(places)[:, None]


def test_distances_are_mahalanobis_with_a_small_ridge() -> None:
    known, new = features(3000, 0), features(3, 1)
    made = fit_novelty("camera", known)
    for place in range(5):
        at = known[:, place].numpy().astype(np.float64)
        inverse = np.linalg.inv(np.cov(at.T, bias=True) + 0.01 * np.diag(known.numpy().reshape(-1, 3).var(0)))
        for row in range(3):
            wanted = mahalanobis(new[row, place], at.mean(0), inverse) ** 2
            assert float(made.placed(new)[row, place]) == pytest.approx(wanted, rel=1e-3)
    over = np.concatenate([known.mean(1), known.numpy().std(1)], axis=1)
    inverse = np.linalg.inv(np.cov(over.T, bias=True) + 0.001 * np.diag(over.var(0)))
    for row in range(3):
        here = np.concatenate([new[row].mean(0), new[row].numpy().std(0)])
        assert float(made.whole(new)[row]) == pytest.approx(mahalanobis(here, over.mean(0), inverse) ** 2, rel=1e-3)


def test_one_in_a_hundred_training_observations_is_above_one_by_either_part() -> None:
    known = features(3000, 0)
    made = fit_novelty("camera", known)
    assert 0.005 < float((made(known) > 1).float().mean()) < 0.025


def test_each_part_sees_what_the_other_overlooks() -> None:
    made = fit_novelty("camera", features(3000, 0))
    ordinary = features(200, 2)
    louder = ordinary * 1.0
    louder[:, :, 0] += 3
    swapped = ordinary.flip(1)
    rare = made.get_buffer("ordinary")
    assert bool((made.whole(louder) > rare[0]).all())
    # The same features, each at another place: on the whole nothing is new.
    assert torch.allclose(made.whole(swapped), made.whole(ordinary), rtol=1e-3)
    assert bool((made.placed(swapped).mean(1) > rare[1]).all())


def test_a_single_place_has_no_spread() -> None:
    made = fit_novelty("state", features(500, 0, places=1))
    assert bool((made.whole(features(4, 1, places=1)) == 0).all())
    assert float(made(features(1, 1, places=1) + 30)) > 10


def test_what_never_varied_is_new_when_it_does() -> None:
    known = features(500, 0)
    known[..., 2] = 7.0
    made = fit_novelty("state", known)
    new = features(1, 1)
    new[..., 2] = 7.5
    assert float(made(new)) > 10


def test_places_are_pooled_until_they_are_few() -> None:
    maps = torch.arange(2 * 3 * 40 * 30, dtype=torch.float32).view(2, 3, 40, 30)
    found, grid = places_of(maps)
    assert grid == (10, 8)
    assert found.shape[0] == 2
    assert found.shape[2] == 3
    assert found.shape[1] == grid[0] * grid[1] <= PLACES
    assert torch.allclose(found.mean(1), maps.mean((2, 3)), rtol=0.05)


def test_it_comes_back_from_its_description() -> None:
    made = fit_novelty("camera", features(100, 0))
    again = Novelty.from_json(made.to_json())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(features(4, 1)), made(features(4, 1)))
    with pytest.raises(SpecError, match="not a novelty"):
        Novelty.from_json({"channel": "camera"})
