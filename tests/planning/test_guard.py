"""A guarded controller: what its guard says, episode by episode, is what is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning import CEM, Controller, ControllerConfig
from foretell.planning.guard import Advice, Mode, Planned
from tests.planning.fakes import SPEC, PointMass

SAFE = (0.125, -0.125)
GUARDED = replace(SPEC, action=replace(SPEC.action, safe=SAFE))
QUICK = CEM(samples=32, iterations=2, elites=4)


class Scripted:
    """Says what it was told to where the first coordinate is 0 or more; keeps what it was shown."""

    def __init__(self, *modes: Mode) -> None:
        self.modes = modes
        self.shown: list[Tensor | None] = []
        self.plans: list[Planned | None] = []

    def start(self) -> int:
        return 0

    def advise(
        self,
        observations: Mapping[str, Tensor],
        valid: Mapping[str, Tensor],
        action: Tensor | None,
        plan: Planned | None,
        state: int,
    ) -> tuple[Advice, int]:
        self.shown.append(action)
        self.plans.append(plan)
        doubtful = float(observations["position"][0]) >= 0
        return Advice(self.modes[state] if doubtful else "carry_on", (f"step {state}",)), state + 1


def test_each_episode_gets_its_own_share_of_the_plan() -> None:
    guard = Scripted("carry_on", "slow_down", "hand_over", "carry_on")
    made = {
        name: Controller(PointMass(spec=GUARDED), QUICK, ControllerConfig(horizon=4, replan_every=1), guard=g)
        for name, g in (("free", None), ("guarded", guard))
    }
    goal = {"position": torch.tensor([[2.0, -1.0], [-2.0, 1.0]])}
    position = {"position": torch.tensor([[0.0, 0.0], [-1.0, 0.0]])}
    states = {n: c.start(goal, generator=torch.Generator().manual_seed(0)) for n, c in made.items()}
    done: list[Tensor] = []
    for step, share in enumerate((1.0, 0.5, 0.0, 1.0)):
        free, states["free"] = made["free"].step(position, states["free"])
        actions, states["guarded"] = made["guarded"].step(position, states["guarded"])
        safe = torch.tensor(SAFE)
        assert torch.allclose(actions[0], safe + share * (free[0] - safe), atol=1e-6)
        assert torch.equal(actions[1], free[1])
        assert [a.reasons for a in states["guarded"].advice] == [(f"step {step}",)] * 2
        assert torch.equal(states["guarded"].actions[:, -1], actions)
        done.append(actions)
    assert guard.shown[0] is None
    for step in (1, 2, 3):
        assert torch.equal(torch.stack(guard.shown[2 * step : 2 * step + 2]), done[step - 1])  # type: ignore[arg-type]


def test_it_is_shown_plans_when_they_are_made() -> None:
    guard = Scripted("carry_on", "carry_on", "carry_on")
    controller = Controller(PointMass(spec=GUARDED), QUICK, ControllerConfig(horizon=4, replan_every=2), guard=guard)
    state = controller.start({"position": torch.tensor([[2.0, -1.0]])}, generator=torch.Generator().manual_seed(0))
    for t in range(3):
        _, state = controller.step({"position": torch.tensor([[0.1 * t, 0.0]])}, state)
    first, none, second = guard.plans
    assert none is None
    assert first is not None
    assert second is not None
    assert state.plan is not None
    assert state.imagined is not None
    assert torch.equal(second.actions, state.plan.actions[0])
    assert torch.equal(second.latents, torch.cat([state.latents[-1], state.imagined[0]]))
    assert not torch.equal(first.latents[0], second.latents[0])


def test_a_guard_needs_a_safe_action() -> None:
    with pytest.raises(SpecError, match="the spec names no safe action to hand over to"):
        Controller(PointMass(), QUICK, guard=Scripted("carry_on"))
