"""Evidence: on average at most 1 where nothing is wrong, large where something is."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import leggauss

from foretell.trust.evidence import change_weight, greatest, log_bet, passing, persistent


def test_bet_is_the_mean_over_powers():
    nodes, weights = leggauss(200)
    k, w = (nodes + 1) / 2, weights / 2
    for p in (1e-8, 1e-3, 0.2, 0.9, 0.99995, 1.0):
        assert math.exp(float(log_bet(torch.tensor(p)))) == pytest.approx(float((w * k * p ** (k - 1)).sum()), rel=1e-3)


def test_bet_is_one_on_average_for_a_uniform_p():
    # With p = exp(-x): the integral of bet(p) e^-x over x in [0, inf); its tail from x on is about 1 / x.
    x = torch.linspace(1e-6, 400, 2_000_001, dtype=torch.float64)
    total = torch.trapezoid((log_bet(torch.exp(-x)) - x).exp(), x)
    assert float(total) + 1 / 400 == pytest.approx(1, abs=1e-3)


def test_weights_of_all_steps_sum_to_one():
    for length in (1, 80):
        assert sum(change_weight(t, length) for t in range(length)) == pytest.approx(0.5)
        assert sum(change_weight(t, length) for t in range(100_000)) == pytest.approx(1, abs=1e-3)


def _run(p, overlap):
    kept = torch.full((len(p),), -math.inf, dtype=torch.float64)
    passed, most = kept.clone(), kept.clone()
    for t in range(p.shape[1]):
        weight = change_weight(t, 80)
        kept, passed = persistent(kept, p[:, t], weight, overlap), passing(passed, p[:, t], weight)
        most = torch.maximum(most, torch.maximum(kept, passed))
    return kept, passed, most


@pytest.mark.parametrize("overlap", [1, 4])
def test_rarely_passes_the_threshold_when_nothing_is_wrong(overlap):
    # Successive p-values that share most of what they see, as overlapping windows do.
    rng = np.random.default_rng(0)
    uniform = rng.random((4000, 300 // overlap))
    p = torch.from_numpy(np.repeat(uniform, overlap, axis=1))
    kept, _, most = _run(p, overlap)
    for level in (0.1, 0.01):
        assert float((most > math.log(1 / level)).double().mean()) <= 2 * level
    assert float(kept.exp().mean()) <= 1.05


def test_passing_evidence_holds_its_level_for_repeated_p_values():
    p = torch.from_numpy(np.random.default_rng(1).random((50_000, 1))).expand(-1, 50)
    _, passed, _ = _run(p, 1)
    assert float((passed > math.log(100)).double().mean()) <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 50_000)


def test_the_greatest_bet_is_at_least_the_mean_of_all_and_at_most_their_sum():
    p = torch.from_numpy(np.random.default_rng(3).random((200, 40)))
    most = total = torch.full((200,), -math.inf, dtype=torch.float64)
    for t in range(40):
        weight = change_weight(t, 40)
        most, total = greatest(most, p[:, t], weight), passing(total, p[:, t], weight)
    assert torch.allclose(most, log_bet(p.amin(1)) - math.log(80))
    assert bool((most <= total + 1e-12).all())
    assert bool((total <= most + math.log(40) + 1e-12).all())


def test_grows_with_small_deviations_that_last_and_forgets_afterwards():
    rng = np.random.default_rng(2)
    p = torch.from_numpy(np.concatenate([rng.random(50), rng.random(15) * 0.01, rng.random(300)]))[None]
    kept = torch.full((1,), -math.inf, dtype=torch.float64)
    path = []
    for t in range(p.shape[1]):
        kept = persistent(kept, p[:, t], change_weight(t, 50), 1)
        path.append(float(kept))
    assert max(path[:50]) < math.log(100) < path[64]
    assert path[-1] < math.log(100)
