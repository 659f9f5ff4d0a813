"""Real time: an action at every tick; late plans are followed as far as they go, and nothing is mixed up."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from foretell.planning import CEM, Controller, ControllerConfig, Cost, Plan, PlanState
from foretell.planning.realtime import RealTime
from foretell.spec import ActionSpec
from tests.planning.fakes import SPEC, PointMass, Sizes

GOAL = {"position": torch.tensor([[2.0, -1.0]])}
QUICK = CEM(samples=64, iterations=3, elites=8)


@dataclass
class Slow:
    """Plans when it is let; which plan it is stands in its first action, in hundredths."""

    free: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    plans: int = 0

    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        self.begun.set()
        assert self.free.wait(10)
        self.plans += 1
        steps = torch.arange(state.mean[0].numel() // 2).repeat_interleave(2)
        actions = ((100 * self.plans + steps) / 1e4).reshape(1, *state.mean.shape[1:]).expand_as(state.mean)
        return Plan(actions, cost(actions[:, None])[:, 0], replace(state, mean=actions))


def position(step: int) -> dict[str, Tensor]:
    return {"position": torch.full((1, 2), float(step))}


def controller(planner: object, every: int = 2, history: int = 1, spec: object = SPEC) -> Controller:
    model = PointMass(spec=spec, config=Sizes(history=history))  # type: ignore[arg-type]
    return Controller(model, planner, ControllerConfig(horizon=6, replan_every=every))  # type: ignore[arg-type]


def test_in_time_it_is_the_controller_itself() -> None:
    plain = controller(QUICK)
    state = plain.start(GOAL, generator=torch.Generator().manual_seed(3))
    there, wanted = torch.zeros(1, 2), []
    for _ in range(12):
        action, state = plain.step({"position": there}, state)
        there = there + action
        wanted.append(action)
    other = controller(QUICK)
    there = torch.zeros(1, 2)
    begin = other.start(GOAL, generator=torch.Generator().manual_seed(3))
    with RealTime(other, begin, seconds=30) as live:
        for action in wanted:
            found = live.step({"position": there})
            assert torch.equal(found, action)
            there = there + found
        assert live.late == 0


@pytest.mark.parametrize("history", [1, 3])
def test_a_late_plan_is_followed_from_where_it_is_by_then(history: int) -> None:
    slow = Slow()
    slow.free.set()
    made = controller(slow, every=2, history=history)
    with RealTime(made, made.start(GOAL, generator=torch.Generator()), seconds=0.05) as live:
        live.seconds = 10
        assert live.step(position(0))[0, 0] == pytest.approx(0.0100)
        assert live.step(position(1))[0, 0] == pytest.approx(0.0101)
        # The second plan is late at three steps: the first one is followed on.
        slow.free.clear()
        live.seconds = 0.05
        said = [live.step(position(i))[0, 0].item() for i in (2, 3, 4)]
        assert said == pytest.approx([0.0102, 0.0103, 0.0104])
        assert live.late == 3
        slow.free.set()
        assert live._planning is not None
        live._planning.result(10)
        live.seconds = 10
        # It was made for step 2; at step 5, three later, the next is due and made at once.
        assert live.step(position(5))[0, 0] == pytest.approx(0.0300)
        assert live.step(position(6))[0, 0] == pytest.approx(0.0301)
        assert live.late == 3
        assert live._state.time == 7
    # What was done, not what was planned, is what the model is told of.
    if history > 1:
        context, past = made.model.contexts[-1], made.model.pasts[-1]  # type: ignore[attr-defined]
        assert context[0, :, 0, 0].tolist() == [3, 4, 5]
        assert past[0, :, 0].tolist() == pytest.approx([0.0103, 0.0104])


def test_where_the_plan_ends_what_is_safe_is_done() -> None:
    slow = Slow()
    slow.free.set()
    safe = replace(SPEC, action=ActionSpec(names=("x", "y"), low=(-0.5, -0.25), high=(0.5, 0.25), safe=(0.1, 0.2)))
    for spec, last in ((safe, [0.1, 0.2]), (SPEC, [0.0105, 0.0105])):
        slow.plans = 0
        made = controller(slow, spec=spec)
        with RealTime(made, made.start(GOAL, generator=torch.Generator()), seconds=10) as live:
            live.step(position(0))
            live.step(position(1))
            slow.free.clear()
            live.seconds = 0.01
            said = [live.step(position(i))[0] for i in range(2, 8)]
            assert [s[0].item() for s in said[:4]] == pytest.approx([0.0102, 0.0103, 0.0104, 0.0105])
            assert said[5].tolist() == pytest.approx(last)
            slow.free.set()


def test_before_the_first_plan_what_is_safe_is_done() -> None:
    slow, made = Slow(), None
    made = controller(slow)
    with RealTime(made, made.start(GOAL, generator=torch.Generator()), seconds=0.01) as live:
        assert live.step(position(0)).tolist() == [[0, 0]]
        assert live.late == 1
        slow.free.set()


def test_what_planning_raises_is_raised() -> None:
    def broken(cost: Cost, state: PlanState) -> Plan:
        raise ZeroDivisionError("no plan")

    made = controller(broken)
    with (
        RealTime(made, made.start(GOAL, generator=torch.Generator()), seconds=10) as live,
        pytest.raises(ZeroDivisionError, match="no plan"),
    ):
        live.step(position(0))


def test_a_slow_planner_still_gets_there() -> None:
    """Plans that take three ticks each, with a clock of their own."""
    slow, there = Slow(), torch.zeros(1, 2)

    def gated(cost: Cost, state: PlanState) -> Plan:
        assert slow.free.wait(10)
        slow.free.clear()
        return QUICK(cost, state)

    made = controller(gated, every=2)
    with RealTime(made, made.start(GOAL, generator=torch.Generator()), seconds=0.002) as live:
        for tick in range(48):
            there = there + live.step({"position": there})
            if tick % 3 == 2:
                slow.free.set()
                if live._planning is not None:
                    live._planning.exception(10)
        slow.free.set()
        assert live.late > 10
    assert torch.allclose(there, GOAL["position"], atol=0.3)
