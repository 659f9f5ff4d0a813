"""Real time: the simulator's clock waits for nobody, and nobody waits for a plan."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import torch

from foretell import worlds
from foretell.errors import ForetellError, SpecError
from foretell.evaluation import realtime
from foretell.evaluation.realtime import run_real_time
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.planning import Controller, ControllerConfig, Cost, Plan, PlanState

OPTIONS = {"episode_steps": 12}


@dataclass
class Waits:
    """Plans to stay, after some seconds."""

    seconds: float = 0.0

    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        time.sleep(self.seconds)
        actions = torch.zeros_like(state.mean)
        return Plan(actions, cost(actions[:, None])[:, 0], state)


def controller(seconds: float = 0.0) -> Controller:
    torch.manual_seed(0)
    config = ModelConfig(latent=4, block=2, stem=4, features=8, width=8, depth=1)
    model = WorldModel(worlds.make("two_rooms", **OPTIONS).spec, config).eval().requires_grad_(False)
    return Controller(model, Waits(seconds), ControllerConfig(horizon=6, replan_every=2))


@pytest.mark.slow
def test_whoever_is_in_time_misses_nothing_and_is_never_late() -> None:
    found = run_real_time("two_rooms", OPTIONS, {"offset": 5}, [3, 4], controller(), hz=4.0)
    assert found.solved.shape == (2,)
    assert found.count == 20 - 10 * int(found.solved.sum())
    assert (found.missed, found.late) == (0, 0)


@pytest.mark.slow
def test_a_late_plan_is_not_waited_for() -> None:
    started = time.perf_counter()
    found = run_real_time("two_rooms", OPTIONS, {"offset": 6}, [3], controller(0.6), hz=4.0)
    assert found.count == 12
    assert found.late >= 3
    assert found.missed == 0
    assert time.perf_counter() - started < 60


def test_mistakes_are_told_before_a_process_is_made() -> None:
    with pytest.raises(SpecError, match="ticks"):
        run_real_time("two_rooms", OPTIONS, {}, [1], controller(), hz=0.0)
    with pytest.raises(SpecError, match="offset"):
        run_real_time("two_rooms", OPTIONS, {"offset": 99}, [1], controller(), hz=1.0)


@pytest.mark.slow
def test_a_simulator_that_dies_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realtime, "_PATIENCE", 60.0)
    with pytest.raises(ForetellError, match="simulator's process ended"):
        # Problems have seeds of 0 or more.
        run_real_time("two_rooms", OPTIONS, {"offset": 5}, [-1], controller(), hz=4.0)
