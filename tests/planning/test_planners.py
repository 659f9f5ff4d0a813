"""Planners on problems with known answers, and what every planner promises whatever the cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import SpecError
from foretell.model.noise import coloured_noise
from foretell.planning import CEM, ICEM, MPPI, Gradient, Planner, PlanningError, PlanState
from foretell.planning.mppi import path_weights

PLANNERS: list[Any] = [CEM, ICEM, MPPI, Gradient]
THOROUGH: list[Planner] = [
    CEM(samples=128, iterations=15, elites=16, floor=0.0),
    CEM(samples=128, iterations=15, elites=16, floor=0.0, answer="mean"),
    ICEM(samples=128, iterations=15, elites=16, std=1.0, decay=1.0, beta=0.5),
    MPPI(samples=256, iterations=20, temperature=0.05, decay=0.8, std=1.0),
    Gradient(starts=4, steps=120),
]
SMALL: list[Planner] = [
    CEM(samples=12, iterations=3, elites=4),
    CEM(samples=12, iterations=2, elites=4, momentum=0.3, answer="mean"),
    ICEM(samples=12, iterations=3, elites=4),
    MPPI(samples=12, iterations=3),
    MPPI(samples=12, iterations=2, temperature=2.0, absolute=True, answer="best"),
    Gradient(starts=4, steps=5),
]


def name(planner: Any) -> str:
    return planner.__name__ if isinstance(planner, type) else f"{type(planner).__name__}-{planner.__dict__}"[:60]


def start(
    low: list[float],
    high: list[float],
    *,
    batch: int = 2,
    horizon: int = 3,
    seed: int = 0,
    block: int = 1,
    scale: list[float] | None = None,
) -> PlanState:
    return PlanState.start(
        torch.tensor(low),
        torch.tensor(high),
        batch=batch,
        horizon=horizon,
        block=block,
        generator=torch.Generator().manual_seed(seed),
        scale=None if scale is None else torch.tensor(scale),
    )


def quadratic(target: Tensor) -> Callable[[Tensor], Tensor]:
    """Squared distance of plans (B, S, K, A) to targets (B, K, A)."""
    return lambda plans: (plans - target[:, None]).square().sum((-2, -1))


@pytest.mark.parametrize("planner", THOROUGH, ids=name)
class TestKnownOptimum:
    def test_interior(self, planner: Planner) -> None:
        target = torch.tensor([[[0.3, -1.2], [0.0, 1.5], [-0.8, 0.6]], [[-0.4, 0.2], [0.9, -1.9], [0.1, 0.0]]])
        plan = planner(quadratic(target), start([-1.0, -2.0], [1.0, 2.0]))
        assert torch.allclose(plan.actions, target, atol=0.05)
        assert torch.allclose(plan.cost, quadratic(target)(plan.actions[:, None])[:, 0])

    def test_at_a_bound(self, planner: Planner) -> None:
        target = torch.tensor([[[3.0, 0.4], [-5.0, 0.4], [0.2, 9.0]]]).repeat(2, 1, 1)
        plan = planner(quadratic(target), start([-1.0, -2.0], [1.0, 2.0]))
        optimum = torch.tensor([[1.0, 0.4], [-1.0, 0.4], [0.2, 2.0]]).expand(2, 3, 2)
        assert torch.allclose(plan.actions, optimum, atol=0.06)

    def test_unbounded_and_one_sided(self, planner: Planner) -> None:
        target = torch.tensor([[[1.5, -2.0], [-0.7, 3.0], [0.2, 0.5]]])
        plan = planner(quadratic(target), start([-math.inf, 0.0], [math.inf, math.inf], batch=1, scale=[2.0, 2.0]))
        optimum = torch.tensor([[[1.5, 0.0], [-0.7, 3.0], [0.2, 0.5]]])
        assert torch.allclose(plan.actions, optimum, atol=0.1)

    def test_double_integrator(self, planner: Planner) -> None:
        """The optimal plan of a linear-quadratic problem, in closed form by least squares over the whole plan."""
        horizon, dt = 6, 0.5
        begin, goal = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
        step, push = torch.tensor([[1.0, dt], [0.0, 1.0]]), torch.tensor([0.5 * dt * dt, dt])
        free = torch.stack([torch.linalg.matrix_power(step, k + 1) @ begin for k in range(horizon)])
        response = torch.zeros(horizon, 2, horizon)
        for k in range(horizon):
            for j in range(k + 1):
                response[k, :, j] = torch.linalg.matrix_power(step, k - j) @ push

        def cost(plans: Tensor) -> Tensor:
            state, total = begin.expand(*plans.shape[:2], 2), torch.zeros(plans.shape[:2])
            for k in range(horizon):
                state = state @ step.T + plans[:, :, k] * push
                total = total + (state - goal).square().sum(-1) + 0.1 * plans[:, :, k, 0].square()
            return total

        rows = torch.cat([response.reshape(-1, horizon), math.sqrt(0.1) * torch.eye(horizon)])
        wanted = torch.cat([(goal - free).flatten(), torch.zeros(horizon)])
        optimum = torch.linalg.lstsq(rows, wanted.unsqueeze(1)).solution
        assert optimum.abs().max() < 3
        plan = planner(cost, start([-3.0], [3.0], batch=1, horizon=horizon))
        lowest = cost(optimum[None, None]).item()
        assert lowest - 1e-5 <= plan.cost.item() <= lowest * 1.02
        assert torch.allclose(plan.actions[0], optimum, atol=0.25)


def test_gradient_reaches_the_optimum_of_a_quadratic_to_three_digits() -> None:
    target = torch.tensor([[[0.3], [-0.25]]])
    plan = Gradient(starts=1, steps=200)(quadratic(target), start([-1.0], [1.0], batch=1, horizon=2))
    assert torch.allclose(plan.actions, target, atol=1e-3)


bounds = st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(0.0078125, 1e3, width=32)).map(
    lambda x: (x[0], x[0] + x[1])
)
one_sided = st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (-math.inf, -1.0)])


@pytest.mark.parametrize("planner", SMALL, ids=name)
class TestAnyCost:
    @settings(max_examples=100, deadline=None)
    @given(
        limits=st.lists(bounds | one_sided, min_size=1, max_size=3),
        horizon=st.integers(1, 4),
        batch=st.integers(1, 3),
        block=st.integers(1, 3),
        seed=st.integers(0, 2**31),
        hole=st.sampled_from([math.nan, math.inf, -math.inf]),
        share=st.floats(0, 0.9),
    )
    def test_bounds_respected_holes_avoided(
        self,
        planner: Planner,
        limits: list[tuple[float, float]],
        horizon: int,
        batch: int,
        block: int,
        seed: int,
        hole: float,
        share: float,
    ) -> None:
        """Whatever the cost, each candidate lies within bounds, and one whose cost is not finite is never chosen."""
        low, high = [x[0] for x in limits], [x[1] for x in limits]
        state = start(low, high, batch=batch, horizon=horizon, block=block, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        proposals = 1e3 * torch.randn(batch, 2, *state.mean.shape[1:], generator=generator)
        elites = 1e3 * torch.randn(batch, 3, *state.mean.shape[1:], generator=generator)
        state = replace(state, proposals=proposals, elites=elites, mean=5 * state.mean + 1)
        finite_seen: list[Tensor] = []

        def cost(plans: Tensor) -> Tensor:
            assert bool(((plans >= state.low) & (plans <= state.high)).all())
            costs = (plans * 7).sin().sum((-2, -1))
            missing = torch.rand(costs.shape, generator=generator) < share
            missing[:, -1] = False
            finite_seen.append(torch.where(missing, math.nan, costs.detach()))
            return torch.where(missing, hole, costs)

        plan = planner(cost, state)
        assert plan.actions.shape == state.mean.shape
        assert bool(((plan.actions >= state.low) & (plan.actions <= state.high)).all())
        assert bool(plan.cost.isfinite().all())
        for b in range(batch):
            assert any(bool((seen[b] == plan.cost[b]).any()) for seen in finite_seen)

    def test_same_state_same_plan(self, planner: Planner) -> None:
        """A plan depends on the state alone; the state that comes out continues the randomness."""

        def cost(plans: Tensor) -> Tensor:
            return -plans.square().sum((-2, -1))

        state = start([-2.0, -2.0], [2.0, 2.0])
        before = state.generator.get_state()
        first, second = planner(cost, state), planner(cost, state)
        assert torch.equal(first.actions, second.actions)
        assert torch.equal(state.generator.get_state(), before)
        assert not torch.equal(first.state.generator.get_state(), before)
        assert not torch.equal(first.actions, planner(cost, start([-2.0, -2.0], [2.0, 2.0], seed=1)).actions)

    def test_an_episode_does_not_depend_on_its_neighbours(self, planner: Planner) -> None:
        targets = torch.tensor([[[0.5], [0.1]], [[-0.5], [0.9]], [[0.0], [-0.7]]])
        together = planner(quadratic(targets), start([-1.0], [1.0], batch=3, horizon=2))
        for b in range(3):
            alone = planner(quadratic(targets[b : b + 1]), start([-1.0], [1.0], batch=1, horizon=2))
            assert torch.allclose(alone.actions[0], together.actions[b], atol=1e-5)

    def test_warm_start_is_honoured(self, planner: Planner) -> None:
        """A needle in a haystack is kept when the warm start or a proposal is on it."""
        target = torch.tensor([[[0.123, -0.7], [0.5, 0.9], [0.2, 0.2]]]).repeat(2, 1, 1)

        def needle(plans: Tensor) -> Tensor:
            near = (plans - target[:, None]).square().sum((-2, -1))
            return -torch.exp(-near * 1e4) + 0 * plans.sum((-2, -1))

        state = start([-1.0, -1.0], [1.0, 1.0])
        if getattr(planner, "answer", "best") == "best":
            for offered in (replace(state, mean=target), replace(state, proposals=target[:, None])):
                plan = planner(needle, offered)
                assert torch.allclose(plan.actions, target, atol=1e-6)
                assert torch.equal(plan.state.mean, plan.actions)
                assert plan.state.proposals is None
        hill = planner(quadratic(target), replace(state, mean=target))
        assert (hill.cost < planner(quadratic(target), state).cost).all()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_no_finite_cost_is_an_error(self, planner: Planner, value: float) -> None:
        def cost(plans: Tensor) -> Tensor:
            costs = plans.sum((-2, -1))
            return torch.cat([costs[:1], costs[1:] * 0 + value])

        with pytest.raises(PlanningError, match="every candidate of episode 1"):
            planner(cost, start([-1.0], [1.0]))

    def test_wrong_shape_of_costs_is_an_error(self, planner: Planner) -> None:
        with pytest.raises(PlanningError, match=r"shape \(2, \d+\), expected, got \(2, \d+, 3\)"):
            planner(lambda plans: plans.sum(-1), start([-1.0], [1.0]))

    def test_bad_proposals_are_refused(self, planner: Planner) -> None:
        state = start([-1.0], [1.0])
        with pytest.raises(SpecError, match="proposals: finite"):
            planner(quadratic(state.mean), replace(state, proposals=torch.full((2, 1, 3, 1), math.nan)))
        with pytest.raises(SpecError, match="50 do not fit"):
            planner(quadratic(state.mean), replace(state, proposals=torch.zeros(2, 50, 3, 1)))

    def test_usable_in_inference_mode(self, planner: Planner) -> None:
        state = start([-1.0], [1.0])
        with torch.inference_mode():
            plan = planner(lambda plans: (plans - 0.5).square().sum((-2, -1)), state)
        assert plan.cost.shape == (2,)


@pytest.mark.parametrize("kind", PLANNERS, ids=name)
def test_settings_are_checked_on_construction(kind: Any) -> None:
    counts = {"starts": 0, "steps": 0} if kind is Gradient else {"samples": 0, "iterations": 0}
    for field, value in {**counts, "std": 0.0}.items():
        with pytest.raises(SpecError, match="expected, got"):
            kind(**{field: value})


class TestPlanState:
    def test_shift_moves_raw_steps_and_holds_the_last(self) -> None:
        state = start([-1.0, -1.0], [1.0, 1.0], batch=1, horizon=3, block=2)
        raw = torch.arange(12.0).reshape(1, 6, 2)
        state = replace(state, mean=raw.reshape(1, 3, 4), elites=-raw.reshape(1, 1, 3, 4))
        moved = state.shift(3)
        wanted = torch.tensor([[6.0, 7], [8, 9], [10, 11], [10, 11], [10, 11], [10, 11]])
        assert torch.equal(moved.mean.reshape(6, 2), wanted)
        assert moved.elites is not None
        assert torch.equal(moved.elites.reshape(6, 2), -wanted)
        assert torch.equal(state.shift(0).mean, state.mean)
        assert torch.equal(state.shift(99).mean.reshape(6, 2), wanted[-1:].expand(6, 2))

    def test_cold_start_is_in_the_middle(self) -> None:
        state = start([2.0, -math.inf, 1.0], [6.0, math.inf, math.inf], block=2, scale=[9.0, 5.0, 3.0])
        assert state.mean[0, 0].tolist() == [4.0, 0.0, 1.0] * 2
        assert state.scale.tolist() == [2.0, 5.0, 3.0] * 2
        assert start([2.0, -math.inf], [6.0, math.inf]).scale.tolist() == [2.0, 1.0]
        # Actions may be known to be smaller than their bounds let them be.
        assert start([2.0, -math.inf], [6.0, math.inf], scale=[0.5, 0.25]).scale.tolist() == [0.5, 0.25]

    def test_mistakes_are_named(self) -> None:
        with pytest.raises(SpecError, match="low must be below high"):
            start([1.0], [1.0])
        with pytest.raises(SpecError, match="low must be below high"):
            start([math.nan], [1.0])
        with pytest.raises(SpecError, match="positive"):
            start([-1.0], [1.0], scale=[0.0])
        state = start([-1.0], [1.0])
        with pytest.raises(SpecError, match="plan proposals: shape"):
            replace(state, proposals=torch.zeros(2, 1, 4, 1))
        with pytest.raises(SpecError, match="blocks of 2"):
            replace(state, block=2)


class TestMPPI:
    def test_weights_against_the_formula(self) -> None:
        """Williams et al. 2017, algorithm 2, in float64 and by hand: w = exp(-(S - rho) / lambda) / eta."""
        costs = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 4
        weights = path_weights(costs, 1.7, absolute=True)
        for row, got in zip(costs.double().tolist(), weights.double().tolist(), strict=True):
            raw = [math.exp(-(c - min(row)) / 1.7) for c in row]
            assert got == pytest.approx([w / sum(raw) for w in raw], rel=1e-4, abs=1e-9)
        spread = costs.std(dim=1, correction=0, keepdim=True)
        assert torch.allclose(path_weights(costs, 0.3), torch.softmax(-costs / (0.3 * spread), dim=1), atol=1e-6)

    def test_infinite_costs_weigh_nothing(self) -> None:
        costs = torch.tensor([[1.0, math.inf, 2.0, 4.0], [math.inf] * 4, [3.0] * 4])
        for absolute in (True, False):
            weights = path_weights(costs, 0.5, absolute=absolute)
            without = path_weights(costs[:1, [0, 2, 3]], 0.5, absolute=absolute)
            assert torch.allclose(weights[0], torch.cat([without[0, :1], torch.zeros(1), without[0, 1:]]))
            assert weights[1].tolist() == [0.0] * 4
            assert weights[2].tolist() == [0.25] * 4

    def test_relative_temperature_ignores_the_cost_s_unit(self) -> None:
        costs = torch.randn(2, 30, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(path_weights(costs, 0.2), path_weights(1000 * costs + 5, 0.2), atol=1e-4)


class TestColouredNoise:
    @pytest.mark.parametrize("steps", [1, 2, 5, 12, 33])
    @pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 4.0])
    def test_unit_variance(self, steps: int, beta: float) -> None:
        draws = coloured_noise((20000, steps), beta, torch.Generator().manual_seed(0), torch.zeros(()))
        assert draws.shape == (20000, steps)
        assert draws.std(dim=0).sub(1).abs().max() < 0.03
        assert draws.mean(dim=0).abs().max() < 0.03

    @pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
    def test_slope_of_the_spectrum(self, beta: float) -> None:
        """Power falls as 1 / f^beta: a straight line of slope -beta in the log-log periodogram."""
        draws = coloured_noise((4000, 128), beta, torch.Generator().manual_seed(0), torch.zeros(()))
        power = torch.fft.rfft(draws).abs().square().mean(dim=0)[1:-1].log()
        x = torch.arange(1, 64).float().log()
        slope = ((x - x.mean()) * (power - power.mean())).sum() / (x - x.mean()).square().sum()
        assert slope.item() == pytest.approx(-beta, abs=0.03)

    def test_colour_runs_along_raw_steps(self) -> None:
        """With blocks, neighbouring raw actions of a candidate are alike, within a block as between two."""
        seen: list[Tensor] = []

        def cost(plans: Tensor) -> Tensor:
            seen.append(plans[0, 1:].reshape(-1, 12, 2))
            return plans.sum((-2, -1))

        ICEM(samples=2000, iterations=1, std=0.1, beta=3.0)(
            cost, start([-1.0, -1.0], [1.0, 1.0], batch=1, horizon=3, block=4)
        )
        raw = seen[0]
        for k in range(11):
            pair = torch.stack([raw[:, k, 0], raw[:, k + 1, 0]])
            assert torch.corrcoef(pair)[0, 1] > 0.75
        assert torch.corrcoef(raw[:, 0].T)[0, 1].abs() < 0.1


class TestICEM:
    def test_elites_are_handed_on_and_scored_again(self) -> None:
        target = torch.tensor([[[0.4], [0.2], [-0.3]]])
        planner = ICEM(samples=40, iterations=2, elites=10, keep=0.3)
        state = start([-1.0], [1.0], batch=1)
        first = planner(quadratic(target), state)
        assert first.state.elites is not None
        assert first.state.elites.shape == (1, 3, 3, 1)
        scored: list[Tensor] = []

        def cost(plans: Tensor) -> Tensor:
            scored.append(plans)
            return quadratic(target)(plans)

        shifted = first.state.shift(1)
        assert shifted.elites is not None
        second = planner(cost, shifted)
        for elite in shifted.elites[0]:
            assert bool((scored[0][0] == elite).all(-1).all(-1).any())
        assert second.cost <= quadratic(target)(shifted.elites).min()

    def test_nothing_kept_can_be_shifted(self) -> None:
        plan = ICEM(samples=20, elites=5, keep=0.0)(lambda plans: plans.sum((-2, -1)), start([-1.0], [1.0]))
        assert plan.state.elites is not None
        assert plan.state.shift(1).elites.shape == (2, 0, 3, 1)

    def test_population_shrinks(self) -> None:
        sizes: list[int] = []

        def cost(plans: Tensor) -> Tensor:
            sizes.append(plans.shape[1])
            return plans.sum((-2, -1))

        ICEM(samples=100, iterations=4, elites=20, decay=2.0)(cost, start([-1.0], [1.0]))
        assert sizes == [100, 50, 40, 40]


class TestGradient:
    def test_says_so_when_the_cost_is_not_differentiable(self) -> None:
        with pytest.raises(PlanningError, match="differentiable"):
            Gradient()(lambda plans: plans.detach().sum((-2, -1)), start([-1.0], [1.0]))

    def test_parameters_gather_no_gradients(self) -> None:
        weight = torch.nn.Parameter(torch.ones(()))
        Gradient(steps=2)(lambda plans: (weight * plans).square().sum((-2, -1)), start([-1.0], [1.0]))
        assert weight.grad is None

    def test_several_starts_escape_a_local_minimum(self) -> None:
        """Two valleys: the warm start lies in the shallow one, random starts find the deep one."""

        def valleys(plans: Tensor) -> Tensor:
            x = plans.sum((-2, -1))
            return torch.minimum((x - 0.2).square(), (x - 0.9).square() * 2 - 0.1)

        state = start([-1.0], [1.0], batch=1, horizon=1)
        assert Gradient(starts=1, rate=0.02)(valleys, state).actions.item() == pytest.approx(0.2, abs=0.02)
        assert Gradient(starts=16, rate=0.02)(valleys, state).actions.item() == pytest.approx(0.9, abs=0.02)
