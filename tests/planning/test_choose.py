"""Choose: the cheapest of what is offered, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning import Choose, Controller, ControllerConfig, PlanningError, PlanState
from tests.planning.fakes import SPEC, PointMass

LOW, HIGH = torch.tensor(SPEC.action.low), torch.tensor(SPEC.action.high)


def state(proposals: Tensor | None, batch: int = 2) -> PlanState:
    begun = PlanState.start(LOW, HIGH, batch=batch, horizon=3, generator=torch.Generator().manual_seed(0))
    return PlanState(**{**begun.__dict__, "proposals": proposals})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), count=st.integers(1, 6))
def test_the_cheapest_proposal_is_chosen(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    proposals = torch.rand(2, count, 3, 2, generator=generator) * (HIGH - LOW) + LOW
    target = torch.randn(2, 1, 3, 2, generator=generator)

    def cost(plans: Tensor) -> Tensor:
        return (plans - target).square().sum((2, 3))

    plan = Choose()(cost, state(proposals))
    at = cost(proposals).argmin(1)
    assert torch.equal(plan.actions, proposals[torch.arange(2), at])
    assert torch.allclose(plan.cost, cost(proposals).min(1).values)


def test_of_equally_cheap_ones_the_first_and_of_none_nothing() -> None:
    proposals = torch.zeros(2, 3, 3, 2) + torch.tensor([0.1, 0.2, 0.25])[None, :, None, None]
    plan = Choose()(lambda plans: torch.ones(plans.shape[:2]), state(proposals))
    assert torch.equal(plan.actions, proposals[:, 0])
    for without in (None, proposals[:, :0]):
        with pytest.raises(SpecError, match="proposals to choose from expected"):
            Choose()(lambda plans: torch.ones(plans.shape[:2]), state(without))
    with pytest.raises(PlanningError, match="NaN or infinite for every candidate"):
        Choose()(lambda plans: torch.full(plans.shape[:2], math.nan), state(proposals))


def test_a_controller_leaves_what_others_decide() -> None:
    """One axis is told, though nobody but others chose it; the other comes from the proposals."""
    offered = torch.tensor([-0.5, 0.5])[None, :, None, None].repeat(1, 1, 4, 2)
    controller = Controller(
        PointMass(), Choose(), ControllerConfig(horizon=4, replan_every=1), propose=lambda *_: offered, told=("y",)
    )
    begun = controller.start({"position": torch.tensor([[2.0, 0.0]])}, generator=torch.Generator())
    action, _ = controller.step({"position": torch.zeros(1, 2)}, begun, ahead=torch.full((1, 1, 1), 0.125))
    assert action.tolist() == [[0.5, 0.125]]
    for wrong in (("x", "y"), ("z",)):
        with pytest.raises(SpecError, match=r"some of the actions \['x', 'y'\] to be told"):
            Controller(PointMass(), Choose(), told=wrong)
