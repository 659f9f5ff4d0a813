"""A guarded controller: what its guard says, episode by episode, is what is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tests.planning.fakes import SPEC, PointMass
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning import CEM, Controller, ControllerConfig
from foretell.planning.guard import Advice, Mode

SAFE = (0.125, -0.125)
GUARDED = replace(SPEC, action=replace(SPEC.action, safe=SAFE))
QUICK = CEM(samples=32, iterations=2, elites=4)


class Scripted:
    """Says what it was told to where the first coordinate is 0 or more; keeps the actions that it was shown."""

    def __init__(self, *modes: Mode) -> None:
        self.modes = modes
        self.shown: list[Tensor | None] = []

    def start(self) -> int:
        return 0

    def advise(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor], action: Tensor | None, state: int
    ) -> tuple[Advice, int]:
        self.shown.append(action)
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


def test_a_guard_needs_a_safe_action() -> None:
    with pytest.raises(SpecError, match="the spec names no safe action to hand over to"):
        Controller(PointMass(), QUICK, guard=Scripted("carry_on"))
