"""SIGReg against the Epps-Pulley statistic in numpy, in closed form and as an integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, special, stats
from torch import Tensor

from foretell.objective.sigreg import sigreg

Array = NDArray[np.float64]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def value(latents: Array | Tensor, slices: int = 8, seed: int = 0) -> float:
    return float(sigreg(torch.as_tensor(latents, dtype=torch.float32), slices, generator(seed)))


def sample(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def statistic(x: Array) -> float:
    """2 * integral over [0, 3] of |mean exp(itx) - exp(-t^2/2)|^2 exp(-t^2/2) of a sample x (n,)."""

    def integrand(t: float) -> float:
        away = np.exp(1j * t * x).mean() - np.exp(-(t**2) / 2)
        return float(abs(away) ** 2 * np.exp(-(t**2) / 2))

    return 2 * integrate.quad(integrand, 0, 3, epsabs=1e-10)[0]


def in_numpy(latents: Array, directions: Array) -> float:
    """SIGReg of (B, T, D) along the columns of directions (D, slices), one loop after another."""
    t = np.linspace(0, 3, 17)
    found = []
    for step in np.swapaxes(latents, 0, 1):
        for direction in directions.T:
            projected = step @ (direction / math.sqrt(sum(direction**2)))
            empirical = np.array([np.exp(1j * knot * projected).mean() for knot in t])
            found.append(2 * integrate.trapezoid(abs(empirical - np.exp(-(t**2) / 2)) ** 2 * stats.norm.pdf(t), t))
    return float(np.mean(found) * math.sqrt(2 * math.pi))


@given(
    batch=st.integers(1, 20),
    steps=st.integers(1, 4),
    latent=st.integers(1, 6),
    slices=st.integers(1, 9),
    scale=st.floats(0.0, 5.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_is_what_numpy_finds(batch: int, steps: int, latent: int, slices: int, scale: float, seed: int) -> None:
    latents = scale * sample(batch, steps, latent, seed=seed) + 0.3
    directions = torch.randn(latent, slices, generator=generator(seed)).double().numpy()
    assert value(latents, slices, seed) == pytest.approx(in_numpy(latents, directions), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "x",
    [sample(50), 3 * sample(50), sample(50) - 2, np.array([-1.0, 1.0]), np.full(5, 0.7), stats.uniform.rvs(size=99)],
    ids=["normal", "wide", "shifted", "two points", "constant", "uniform"],
)
def test_is_the_integral_of_epps_and_pulley(x: Array) -> None:
    """In one dimension every direction shows the same."""
    assert value(x[:, None, None]) == pytest.approx(statistic(x), rel=5e-3, abs=2e-4)


def test_is_the_statistic_in_closed_form_but_for_the_tail() -> None:
    """Epps and Pulley (1983): the integral over all t by sums over pairs; beyond 3 its weight holds 0.3%."""
    x = 2 * sample(40) + 0.5
    n = len(x)
    pairs = np.exp(-((x[:, None] - x) ** 2) / 2).sum() / n**2
    singles = 2 / math.sqrt(2) * np.exp(-(x**2) / 4).mean()
    whole = math.sqrt(2 * math.pi) * (pairs - singles + 1 / math.sqrt(3))
    tail = 2 * 1.2 * math.sqrt(2 * math.pi) * stats.norm.sf(3)
    assert whole - tail <= value(x[:, None, None]) <= whole * 1.005


@pytest.mark.parametrize("latent", [1, 5])
def test_collapsed_latents_have_their_known_value(latent: int) -> None:
    """2 * integral over [0, 3] of (1 - exp(-t^2/2))^2 exp(-t^2/2), by error functions; 0.409 over all t."""
    parts = [math.sqrt(math.pi / (2 * a)) * special.erf(3 * math.sqrt(a / 2)) for a in (1, 2, 3)]
    expected = 2 * (parts[0] - 2 * parts[1] + parts[2])
    assert value(np.zeros((6, 2, latent))) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3)), abs=0.01)


def test_standard_normal_latents_are_near_zero_as_chance_has_it() -> None:
    """Of n normal values the statistic's mean is sqrt(2 pi) (1 - 1/sqrt(3)) / n, and nothing else is lower."""
    n = 2000
    latents = sample(n, 10, 16)
    expected = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3)) / n
    found = value(latents, 64)
    assert found == pytest.approx(expected, rel=0.15)
    flat = latents * np.repeat([1.0, 0.0], 8)
    for other in (0.8 * latents, 1.25 * latents, latents + 0.2, flat, np.repeat(latents[..., :1], 16, axis=-1)):
        assert value(other, 64) > 2 * found


@given(seed=st.integers(0, 1000), copies=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_neither_order_nor_number_of_the_batch_matters(seed: int, copies: int) -> None:
    latents = sample(12, 3, 4, seed=seed)
    once = value(latents)
    assert value(latents[np.random.default_rng(seed).permutation(12)]) == pytest.approx(once, rel=1e-4)
    assert value(np.tile(latents, (copies, 1, 1))) == pytest.approx(once, rel=1e-4)
    assert value(-latents) == pytest.approx(once, rel=1e-4)


def test_steps_count_alike_and_each_for_itself() -> None:
    latents = sample(10, 4, 3) * np.array([0.0, 1.0, 2.0, 5.0])[:, None]
    each = [value(latents[:, t : t + 1]) for t in range(4)]
    assert value(latents) == pytest.approx(np.mean(each), rel=1e-4)
    assert np.ptp(each) > 0.05


def test_the_generator_alone_draws_the_directions() -> None:
    latents = torch.as_tensor(sample(8, 2, 5), dtype=torch.float32)
    torch.manual_seed(0)
    first = sigreg(latents, 4, generator(1))
    torch.manual_seed(1)
    assert torch.equal(first, sigreg(latents, 4, generator(1)))
    assert not torch.equal(first, sigreg(latents, 4, generator(2)))


def test_its_gradient_spreads_what_has_collapsed_and_gathers_what_has_flown_apart() -> None:
    for scale, grows in ((0.1, True), (3.0, False)):
        latents = torch.as_tensor(scale * sample(64, 1, 2), dtype=torch.float32).requires_grad_()
        sigreg(latents, 64, generator()).backward()
        assert latents.grad is not None
        assert (float((latents.detach() * latents.grad).sum()) < 0) == grows


def test_low_precision_around_it_does_not_change_it() -> None:
    latents = torch.as_tensor(sample(64, 2, 8), dtype=torch.float32)
    expected = sigreg(latents, 16, generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sigreg(latents, 16, generator()), expected)
