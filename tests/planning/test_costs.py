"""Costs against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning.costs import (
    change,
    combined,
    effort,
    goal_cost,
    rollout_cost,
    squared_distance,
    target_cost,
    towards,
    weighted_distance,
    within,
)
from tests.planning.fakes import PointMass, Sizes


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_goal_cost_is_dense_with_a_weighted_terminal(generator: torch.Generator) -> None:
    model = PointMass(config=Sizes(block=2))
    context, goal = torch.randn(2, 1, 1, 2, generator=generator), torch.randn(2, 1, 2, generator=generator)
    plans = torch.randn(2, 3, 4, 4, generator=generator)
    costs = goal_cost(model, context, plans[:, 0, :0], goal, terminal=5.0, discount=0.9)(plans)
    for b in range(2):
        for s in range(3):
            position, total = context[b, 0, 0].clone(), 0.0
            for k in range(4):
                position += plans[b, s, k, :2] + plans[b, s, k, 2:]
                distance = ((position - goal[b, 0]) ** 2).mean().item()
                total += 0.9**k * distance * (5.0 if k == 3 else 1.0)
            assert costs[b, s].item() == pytest.approx(total, rel=1e-5)


def test_the_nearest_step_counts_the_more_the_sooner(generator: torch.Generator) -> None:
    model, start = PointMass(), torch.zeros(1, 1, 1, 2)
    goal = torch.randn(1, 1, 2, generator=generator)
    plans = torch.randn(1, 5, 4, 2, generator=generator)
    stage = towards(goal)
    plain = rollout_cost(model, start, start[:, :0, 0], stage, terminal=1.0)(plans)
    costs = rollout_cost(model, start, start[:, :0, 0], stage, terminal=1.0, nearest=7.0)(plans)
    for s in range(5):
        gaps = ((plans[0, s].cumsum(0) - goal[0]) ** 2).mean(-1).tolist()
        nearest = min((1 + 0.2 * k) * gap for k, gap in enumerate(gaps))
        assert (costs - plain)[0, s].item() == pytest.approx(7 * nearest, rel=1e-4)


def test_a_plan_that_leaves_a_place_nearly_there_and_comes_back_is_worth_it(generator: torch.Generator) -> None:
    """Staying at 1 costs 3; going out to 2 to arrive at 0 costs more in sum, and less where arriving counts."""
    goal, start = torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1)
    plans = torch.tensor([[[[0.0], [0.0], [0.0]], [[1.0], [-2.0], [0.0]]]])
    model = PointMass()
    stage = towards(goal)
    summed = rollout_cost(model, start, start[:, :0, 0], stage, terminal=1.0)(plans)[0]
    arriving = rollout_cost(model, start, start[:, :0, 0], stage, terminal=1.0, nearest=20.0)(plans)[0]
    assert summed[0] < summed[1]
    assert arriving[1] < arriving[0]


def test_a_distance_of_one_s_own(generator: torch.Generator) -> None:
    goal = torch.randn(2, 3, 5, generator=generator)
    latents = torch.randn(2, 4, 6, 3, 5, generator=generator)
    assert torch.allclose(squared_distance(latents, goal)[1, 2, 3], ((latents[1, 2, 3] - goal[1]) ** 2).mean())
    taxi = towards(goal, lambda z, g: (z - g[:, None, None]).abs().sum((-2, -1)))
    assert torch.allclose(taxi(latents)[0, 1, 2], (latents[0, 1, 2] - goal[0]).abs().sum())


def test_first_values_count_as_they_are_weighed(generator: torch.Generator) -> None:
    latents, goal = torch.randn(2, 3, 4, 1, 3, generator=generator), torch.randn(2, 1, 3, generator=generator)
    expected = (((latents[1, 2, 3, 0] - goal[1, 0]) * torch.tensor([0.5, 0.0, 1.0])) ** 2).mean()
    assert torch.allclose(weighted_distance((0.5, 0.0))(latents, goal)[1, 2, 3], expected)
    assert torch.equal(weighted_distance(())(latents, goal), squared_distance(latents, goal))


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="0 or more"):
        weighted_distance((1.0, -1.0))
    with pytest.raises(SpecError, match=r"at most 2 weights .* got 3"):
        weighted_distance((1.0, 1.0, 1.0))(torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 2))


@pytest.mark.parametrize("at_once", [1, 3, 4, 1000])
def test_parts_make_the_whole(generator: torch.Generator, at_once: int) -> None:
    """Imagining fewer candidates at once changes memory only, gradients included."""
    model = PointMass()
    context, goal = torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 2)
    plans = torch.randn(2, 7, 3, 2, generator=generator, requires_grad=True)
    results = []
    for size in (None, at_once):
        costs = goal_cost(model, context, context[:, :0, 0, 0], goal, at_once=size)(plans)
        results.append((costs, torch.autograd.grad(costs.sum(), plans)[0]))
    for whole, parts in zip(*results, strict=True):
        assert torch.allclose(whole, parts)


class TestWithin:
    def test_squared_distance_outside_the_range(self) -> None:
        stage = within(
            lambda latents: latents.sum(-2),
            low=torch.tensor([1.0, -math.inf, 3.0]),
            high=torch.tensor([2.0, 0.0, 3.0]),
            scale=torch.tensor([0.5, 1.0, 2.0]),
        )
        values = torch.tensor([[1.5, -9.0, 3.0], [0.0, 2.0, 4.0], [2.5, 0.0, 1.0]])
        latents = values.reshape(1, 1, 3, 1, 3)
        assert stage(latents)[0, 0].tolist() == [0.0, 4.0 + 4.0 + 0.25, 1.0 + 0.0 + 1.0]

    def test_ranges_per_episode_through_a_rollout(self) -> None:
        context = torch.zeros(2, 1, 1, 2)
        plans = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]).repeat(2, 1, 1, 1)
        cost = target_cost(
            PointMass(),
            context,
            context[:, :0, 0, 0],
            lambda latents: latents[..., 0, :1],
            low=torch.tensor([[5.0], [1.0]]),
            high=torch.tensor([[5.0], [1.5]]),
            terminal=1.0,
        )
        assert cost(plans).tolist() == [[16.0 + 9.0], [0.25]]

    def test_mistakes_are_named(self) -> None:
        one = torch.ones(1)
        with pytest.raises(SpecError, match="low <= high"):
            within(lambda z: z, low=one, high=-one)
        with pytest.raises(SpecError, match="scale > 0"):
            within(lambda z: z, low=one, high=one, scale=0 * one)
        with pytest.raises(SpecError, match=r"shape \(Q,\) or \(B, Q\)"):
            within(lambda z: z, low=one, high=torch.ones(2))


class TestPenalties:
    def test_effort_by_hand(self) -> None:
        plans = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
        scale = torch.tensor([1.0, 2.0])
        assert effort(scale)(plans).item() == pytest.approx(((1 + 1) + (9 + 4)) / 2)
        assert effort(scale, neutral=torch.tensor([1.0, 2.0]))(plans).item() == pytest.approx((0 + (4 + 1)) / 2)

    def test_change_by_hand_across_blocks(self) -> None:
        plans = torch.tensor([0.0, 1.0, 3.0, 3.0]).reshape(1, 1, 2, 2)
        scale = torch.tensor([2.0])
        assert change(scale)(plans).item() == pytest.approx((1 + 4 + 0) / 4 / 3)
        assert change(scale, previous=torch.tensor([[-1.0]]))(plans).item() == pytest.approx((1 + 1 + 4 + 0) / 4 / 4)
        assert change(scale)(plans[..., :1, :1]).tolist() == [[0.0]]


def test_combined_stages_share_one_rollout() -> None:
    model = PointMass()
    context, goal = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 2)
    plans = torch.tensor([[[[1.0, 0.0]]]])

    def far(latents: Tensor) -> Tensor:
        return latents.square().sum((-2, -1))

    stage = combined((2.0, towards(goal)), (0.5, far))
    cost = combined(
        (1.0, rollout_cost(model, context, context[:, :0, 0, 0], stage, terminal=1.0)), (3.0, effort(goal[0, 0]))
    )
    assert cost(plans).item() == pytest.approx(2.0 * 0.5 + 0.5 * 1.0 + 3.0 * 1.0)
    assert len(model.contexts) == 1
    with pytest.raises(SpecError, match="at least one"):
        combined()


@pytest.mark.parametrize(("terminal", "discount"), [(-1.0, 1.0), (1.0, 0.0), (1.0, 1.5)])
def test_weights_out_of_range_are_refused(terminal: float, discount: float) -> None:
    context = torch.zeros(1, 1, 1, 2)
    with pytest.raises(SpecError, match="terminal >= 0"):
        goal_cost(PointMass(), context, context[:, :0, 0, 0], context[:, 0], terminal=terminal, discount=discount)
