"""Adaptation: what has changed is found from what followed, used only where it foretells more, and forgotten after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning import CEM, Controller, ControllerConfig
from foretell.planning.adaptation import Adaptation, Lived
from tests.planning.fakes import PointMass, Sizes

SCALE = torch.tensor([0.5, 0.25])
QUICK = CEM(samples=128, iterations=4, elites=12)


def lived(model: PointMass, matrix: Tensor, free: Tensor, count: int, seed: int = 0, batch: int = 3) -> Lived:
    """Transitions of worlds in which actuators do matrix @ action + free, in units of SCALE."""
    draw = torch.Generator().manual_seed(seed)
    block = model.config.block
    start = torch.randn(batch, count, 1, 1, 2, generator=draw)
    raw = torch.rand(batch, count, block, 2, generator=draw) * 2 - 1
    done = torch.einsum("ij,bmkj->bmki", matrix, raw) + free
    after = start[:, :, 0] + (done * SCALE).sum(2)[:, :, None]
    actions = (raw * SCALE).flatten(2)
    return Lived(contexts=start, pasts=actions[:, :, None][:, :, :0], actions=actions, after=after)


@pytest.mark.parametrize("block", [1, 3])
def test_what_actuators_do_is_found(block: int) -> None:
    model = PointMass(config=Sizes(block=block))
    matrix, free = torch.tensor([[0.3, 0.0], [0.2, -1.0]]), torch.tensor([0.1, -0.2])
    adaptation = Adaptation(memory=20, ridge=1e-4)
    found = adaptation.start(3, 2, 1, SCALE)
    for k in range(6):
        found = adaptation.after(model, found, lived(model, matrix, free, 5, seed=k), SCALE, time=k, block=1)
    expected = torch.cat([(matrix - torch.eye(2)).flatten(), free])
    torch.testing.assert_close(found.values, expected.expand(3, -1), atol=0.02, rtol=0)
    assert bool(adaptation.used(found).all())
    # What it plans with then is the world as it is.
    new = lived(model, matrix, free, 1, seed=9)
    told = adaptation.model(model, found, SCALE).rollout(new.contexts[:, 0], new.pasts[:, 0], new.actions[:, :, None])
    torch.testing.assert_close(told[:, 0, 0], new.after[:, 0], atol=0.05, rtol=0)


def test_a_world_as_it_was_is_planned_with_the_model_as_it_is() -> None:
    model, adaptation = PointMass(), Adaptation()
    found = adaptation.start(3, 2, 1, SCALE)
    for k in range(5):
        new = lived(model, torch.eye(2), torch.zeros(2), 3, seed=k)
        noise = 0.05 * torch.randn(new.after.shape, generator=torch.Generator().manual_seed(k))
        found = adaptation.after(
            model, found, Lived(**{**vars(new), "after": new.after + noise}), SCALE, time=k, block=1
        )
    assert not bool(adaptation.used(found).any())
    assert adaptation.model(model, found, SCALE) is model


def test_values_that_foretell_worse_are_not_used() -> None:
    """The world changes back and forth: whatever was fitted is wrong for what comes next."""
    model, adaptation = PointMass(), Adaptation(memory=2)
    found = adaptation.start(1, 2, 1, SCALE)
    for k in range(12):
        sign = 1.0 if k % 2 else -1.0
        found = adaptation.after(
            model, found, lived(model, sign * torch.eye(2), torch.zeros(2), 2, k, 1), SCALE, time=k, block=1
        )
        used = adaptation.used(found)
        assert not bool(used.any()) or float(found.adapted) < 0.9 * float(found.frozen)
    assert float(found.adapted) > float(found.frozen)
    assert not bool(adaptation.used(found).any())


def test_episodes_are_adapted_to_apart() -> None:
    model, adaptation = PointMass(), Adaptation(ridge=1e-4)
    both = [torch.eye(2), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])]
    together, alone = adaptation.start(2, 2, 1, SCALE), adaptation.start(1, 2, 1, SCALE)
    for k in range(4):
        each = [lived(model, matrix, torch.zeros(2), 4, k, 1) for matrix in both]
        pair = Lived(**{name: torch.cat([vars(one)[name] for one in each]) for name in vars(each[0])})
        together = adaptation.after(model, together, pair, SCALE, time=k, block=1)
        alone = adaptation.after(model, alone, each[1], SCALE, time=k, block=1)
    assert adaptation.used(together).tolist() == [False, True]
    torch.testing.assert_close(together.values[1:], alone.values)
    torch.testing.assert_close(together.selected(torch.tensor([1])).values, alone.values)
    plan = torch.rand(2, 5, 3, 2, generator=torch.Generator().manual_seed(0))
    context = torch.zeros(2, 1, 1, 2)
    told = adaptation.model(model, together, SCALE).rollout(context, plan[:, 0, :0], plan)
    torch.testing.assert_close(told[0], model.rollout(context[:1], plan[:1, 0, :0], plan[:1])[0])


@pytest.mark.parametrize(("history", "every"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_a_controller_whose_actuators_are_reversed_turns_round(history: int, every: int) -> None:
    def distance(adaptation: Adaptation | None, gain: float) -> tuple[float, list[float]]:
        model = PointMass(config=Sizes(block=2, history=history))
        made = Controller(model, QUICK, ControllerConfig(horizon=4, replan_every=every), adaptation=adaptation)
        goal = torch.tensor([[2.0, -1.0]])
        state = made.start({"position": goal}, generator=torch.Generator().manual_seed(1))
        there, moves = torch.zeros(1, 2), []
        for _ in range(60):
            action, state = made.step({"position": there}, state)
            there = there + gain * action
            moves.append(float(action[0, 0]))
        return float((there - goal).norm()), moves

    assert distance(None, -1.0)[0] > 5
    assert distance(Adaptation(), -1.0)[0] < 0.3
    # Nothing has changed: to the bit what it did without.
    assert distance(Adaptation(), 1.0)[1] == distance(None, 1.0)[1]


def test_what_moved_goes_on_as_far_as_it_does_here() -> None:
    """A model that expects half of the last change to go on, in a world where all of it does."""

    class Coasting(PointMass):
        def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
            assert plan.shape[2] == 1
            speed = context[:, -1] - context[:, 0]
            return (context[:, -1] + 0.5 * speed)[:, None, None] + plan[..., None, :].reshape(*plan.shape[:3], 1, 2)

    model, adaptation = Coasting(config=Sizes(history=2)), Adaptation(ridge=1e-4)
    found = adaptation.start(1, 2, 2, SCALE)
    draw = torch.Generator().manual_seed(0)
    for k in range(6):
        contexts, actions = torch.randn(1, 4, 2, 1, 2, generator=draw), torch.randn(1, 4, 2, generator=draw)
        after = 2 * contexts[:, :, 1] - contexts[:, :, 0] + actions[:, :, None]
        new = Lived(contexts=contexts, pasts=actions[:, :, None], actions=actions, after=after)
        found = adaptation.after(model, found, new, SCALE, time=k, block=1)
    assert float(found.values[0, -1]) == pytest.approx(1.0, abs=0.05)
    assert np.abs(found.values[0, :-1].numpy()).max() < 0.05


def test_values_are_judged_by_transitions_that_began_after_they_were_found() -> None:
    """Transitions of 3 steps, one each step: what is known of the last two does not count for the next."""
    model, adaptation = PointMass(config=Sizes(block=3)), Adaptation(least=1)
    found = adaptation.start(1, 2, 1, SCALE)
    half = 0.5 * torch.eye(2)
    counts = []
    for time in range(3, 10):
        new = lived(model, half, torch.zeros(2), 1, seed=time, batch=1)
        found = adaptation.after(model, found, new, SCALE, time=time, block=3)
        counts.append(found.count)
        assert len(found.earlier) <= 4
    assert counts == [0, 0, 0, 1, 2, 3, 4]
    assert bool(adaptation.used(found).all())


@pytest.mark.parametrize(
    "wrong", [{"memory": 0}, {"ridge": 0.0}, {"margin": 1.0}, {"steps": 0}, {"forget": 0.0}, {"reach": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        Adaptation(**wrong)  # type: ignore[arg-type]
