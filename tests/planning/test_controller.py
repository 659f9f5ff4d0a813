"""The controller: blocks, replanning, contexts, bounds, and what it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning import (
    CEM,
    ICEM,
    MPPI,
    Controller,
    ControllerConfig,
    Cost,
    Gradient,
    Plan,
    PlanningError,
    PlanState,
)
from foretell.planning.costs import effort, within
from foretell.spec import ActionSpec
from tests.planning.fakes import MIXED, SPEC, PointMass, Sizes

LOW, HIGH = torch.tensor(SPEC.action.low), torch.tensor(SPEC.action.high)
QUICK = CEM(samples=32, iterations=2, elites=4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def goal(batch: int = 1) -> dict[str, Tensor]:
    return {"position": torch.tensor([[2.0, -1.0], [-1.5, 0.5], [0.3, 0.8]])[:batch]}


class Counting:
    """A planner that answers with 1, 2, 3 ... thousandths as raw actions, and keeps the states it was given."""

    def __init__(self) -> None:
        self.states: list[PlanState] = []

    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        self.states.append(state)
        first = 1000 * (len(self.states) - 1) + 1
        actions = (torch.arange(state.mean[0].numel() // 2) + first).repeat_interleave(2) / 1e5
        actions = actions.reshape(1, *state.mean.shape[1:]).expand_as(state.mean)
        return Plan(actions, cost(actions.unsqueeze(1))[:, 0], replace(state, mean=actions))


def drive(controller: Controller, steps: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, list[Tensor], list[Any]]:
    """The point's last position, and the actions and states on the way there from the origin."""
    position, state = torch.zeros(batch, 2), controller.start(goal(batch), generator=seeded(seed))
    actions, states = [], [state]
    for _ in range(steps):
        action, state = controller.step({"position": position}, state)
        position = position + action
        actions.append(action)
        states.append(state)
    return position, actions, states


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("planner", [CEM(), ICEM(), MPPI(), Gradient()], ids=lambda p: type(p).__name__)
def test_reaches_the_goal(planner: Any, block: int) -> None:
    """Twice the shortest time suffices; the bounds hold although the goal pulls at them."""
    config = ControllerConfig(horizon=8 // block, replan_every=block)
    controller = Controller(PointMass(config=Sizes(block=block)), planner, config)
    position, actions, _ = drive(controller, 12, batch=3)
    assert torch.allclose(position, goal(3)["position"], atol=0.12)
    assert bool(((torch.stack(actions) >= LOW) & (torch.stack(actions) <= HIGH)).all())


def test_a_goal_that_moves_is_planned_for_from_the_next_plan_on() -> None:
    controller = Controller(PointMass(), CEM(), ControllerConfig(horizon=8, replan_every=2))
    position, state = torch.zeros(2, 2), controller.start(goal(2), generator=seeded())
    elsewhere = {"position": -goal(2)["position"]}
    for step in range(24):
        if step == 5:
            before, state = state, controller.retarget(state, elsewhere)
            assert before.goal is not None
            assert torch.equal(before.goal[:, 0], goal(2)["position"])
        action, state = controller.step({"position": position}, state)
        if step == 5:
            # In the middle of a plan, which is executed to its end.
            assert state.plan is before.plan
        position = position + action
    assert torch.allclose(position, elsewhere["position"], atol=0.12)
    with pytest.raises(SpecError, match="goal"):
        controller.retarget(state, {"position": torch.zeros(2, 3)})


@pytest.mark.parametrize(("block", "every"), [(1, 1), (1, 3), (4, 4), (4, 1), (4, 6), (3, 2)])
def test_replans_every_so_many_raw_steps_and_executes_the_plan_between(block: int, every: int) -> None:
    planner = Counting()
    controller = Controller(
        PointMass(config=Sizes(block=block)), planner, ControllerConfig(horizon=6, replan_every=every)
    )
    _, actions, states = drive(controller, 13)
    for time, action in enumerate(actions):
        plan, step = divmod(time, every)
        assert action[0].tolist() == pytest.approx([(1000 * plan + 1 + step) / 1e5] * 2)
        assert states[time + 1].planned_at == plan * every
    assert len(planner.states) == -(-13 // every)


def test_the_rest_of_the_plan_is_the_warm_start() -> None:
    planner = Counting()
    controller = Controller(PointMass(config=Sizes(block=2)), planner, ControllerConfig(horizon=3, replan_every=3))
    drive(controller, 4)
    assert planner.states[0].mean.abs().max() == 0
    assert torch.allclose(planner.states[1].mean.flatten()[::2] * 1e5, torch.tensor([4.0, 5, 6, 6, 6, 6]))


@settings(max_examples=60, deadline=None)
@given(block=st.integers(1, 4), history=st.integers(1, 4), every=st.integers(1, 7), batch=st.integers(1, 2))
def test_contexts_are_what_was_seen_and_done(block: int, history: int, every: int, batch: int) -> None:
    """Latents `block` raw steps apart up to now, as many as there are, and exactly the raw actions between them."""
    model = PointMass(config=Sizes(block=block, history=history))
    controller = Controller(model, Counting(), ControllerConfig(horizon=7, replan_every=every))
    state = controller.start(goal(batch), generator=seeded())
    seen: list[Tensor] = []
    done: list[Tensor] = []
    for time in range(20):
        model.contexts.clear()
        model.pasts.clear()
        seen.append(torch.full((batch, 2), float(time)))
        action, state = controller.step({"position": seen[-1]}, state)
        if time % every == 0:
            length = min(history, time // block + 1)
            times = [time - back * block for back in reversed(range(length))]
            expected = torch.stack([seen[t] for t in times], dim=1).unsqueeze(2)
            blocks = [torch.cat(done[t : t + block], dim=-1) for t in times[:-1]]
            past = torch.stack(blocks, dim=1) if blocks else torch.zeros(batch, 0, block * 2)
            for context in model.contexts:
                assert torch.equal(context, expected)
            for given_past in model.pasts:
                assert torch.equal(given_past, past)
            assert len(model.contexts) == 2
        else:
            assert not model.contexts
        done.append(action)


def test_only_what_a_context_needs_is_encoded() -> None:
    model = PointMass(config=Sizes(block=4, history=3))
    drive(Controller(model, QUICK, ControllerConfig(horizon=4, replan_every=4)), 16)
    assert model.encoded == 1 + 4
    model = PointMass(config=Sizes(block=3, history=2))
    drive(Controller(model, QUICK, ControllerConfig(horizon=4, replan_every=4)), 16)
    assert model.encoded == 1 + 8


def test_imagined_latents_follow_the_plan() -> None:
    _, actions, states = drive(Controller(PointMass(), QUICK, ControllerConfig(horizon=5, replan_every=5)), 5)
    walked = torch.stack(actions, dim=1).cumsum(dim=1)
    assert torch.allclose(states[1].imagined.squeeze(2), walked, atol=1e-6)
    assert states[1].imagined is states[5].imagined


def test_state_goes_in_and_comes_out() -> None:
    """The same state and observations give the same action, whatever the controller did meanwhile."""
    controller = Controller(PointMass(config=Sizes(history=2)), ICEM(samples=32, elites=4), ControllerConfig(horizon=4))
    before = copy.copy(controller.__dict__)
    _, actions, states = drive(controller, 9)
    for time in (0, 4, 6, 8):
        position = torch.stack(actions[:time]).sum(0) if time else torch.zeros(1, 2)
        again, _ = controller.step({"position": position}, states[time])
        assert torch.equal(again, actions[time])
    assert controller.__dict__ == before
    other = drive(controller, 1, seed=1)[1][0]
    assert not torch.equal(other, actions[0])


def test_actions_of_another_hand_enter_the_context() -> None:
    model = PointMass(config=Sizes(history=2))
    controller = Controller(model, QUICK, ControllerConfig(horizon=4, replan_every=1))
    _, state = controller.step({"position": torch.zeros(1, 2)}, controller.start(goal(), generator=seeded()))
    state = state.executed(torch.tensor([[0.125, -0.125]]))
    controller.step({"position": torch.ones(1, 2)}, state)
    assert model.pasts[-1].tolist() == [[[0.125, -0.125]]]
    with pytest.raises(SpecError, match="executed actions"):
        state.executed(torch.zeros(3, 2))


@settings(max_examples=40, deadline=None)
@given(st.floats(-2, 2), st.floats(1e-3, 2), st.sampled_from([1, 3]))
def test_actions_are_within_the_spec_s_own_bounds(low: float, width: float, block: int) -> None:
    """Bounds are float64 and actions float32: even so none comes out beyond them, from any planner."""
    action = ActionSpec(names=("a", "b"), low=(low, low), high=(low + width, low + width))
    model = PointMass(spec=replace(SPEC, action=action), config=Sizes(block=block))

    def pushing(sign: float) -> Any:
        def planner(cost: Cost, state: PlanState) -> Plan:
            actions = torch.full_like(state.mean, sign * 1e6)
            return Plan(actions, actions[:, 0, 0], state)

        return planner

    for planner in (pushing(1.0), pushing(-1.0), QUICK):
        for executed in drive(Controller(model, planner, ControllerConfig(horizon=3, replan_every=3)), 3)[1]:
            assert all(low <= value <= low + width for value in executed.double().flatten().tolist())


def test_a_planner_that_answers_nonsense_is_an_error() -> None:
    def planner(cost: Cost, state: PlanState) -> Plan:
        return Plan(state.mean * torch.nan, state.mean[:, 0, 0], state)

    with pytest.raises(PlanningError, match="with NaN"):
        drive(Controller(PointMass(), planner), 1)


def test_goal_as_a_range_of_a_quantity() -> None:
    """Only x is asked for, within a range; the penalty keeps y at rest."""
    stage = within(lambda z: z[..., 0, :1], low=torch.tensor([1.0]), high=torch.tensor([1.5]))
    controller = Controller(PointMass(), CEM(), ControllerConfig(horizon=6, replan_every=1), penalty=effort(HIGH))
    state, position = controller.start(stage, batch=1, generator=seeded()), torch.zeros(1, 2)
    for _ in range(10):
        action, state = controller.step({"position": position}, state)
        position = position + action
    assert 0.85 <= position[0, 0] <= 1.55
    assert position[0, 1].abs() < 0.2
    with pytest.raises(SpecError, match="batch"):
        controller.start(stage, generator=seeded())


def test_proposals_reach_the_planner() -> None:
    def propose(context: Tensor, past: Tensor, reach: Tensor | None) -> Tensor:
        assert reach is not None
        step = ((reach[:, 0] - context[:, -1, 0]) / 5).clamp(LOW, HIGH)
        return step[:, None, None].expand(-1, 1, 5, -1)

    model, config = PointMass(), ControllerConfig(horizon=5, replan_every=5)
    lazy = CEM(samples=2, iterations=1, elites=1, std=1e-6)
    assert drive(Controller(model, lazy, config, propose=propose), 5)[0][0].tolist() == pytest.approx([2.0, -1.0])
    assert drive(Controller(model, lazy, config), 5)[0].abs().max() < 0.01


class TestRefusals:
    def observations(self) -> dict[str, Tensor]:
        return {"position": torch.zeros(2, 2), "eye": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}

    def begin(self) -> tuple[Controller, Any]:
        controller = Controller(PointMass(spec=MIXED), QUICK)
        return controller, controller.start(self.observations(), generator=seeded())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"position": None}, "channel position is missing"),
            ({"smell": torch.zeros(2, 1)}, "channel smell is not in the spec"),
            ({"position": torch.zeros(2, 3)}, r"channel position of shape \(2, 2\) expected, got \(2, 3\)"),
            ({"position": torch.zeros(3, 2)}, r"channel position of shape \(2, 2\) expected, got \(3, 2\)"),
            ({"position": torch.zeros(())}, r"channel position of shape \(2, 2\) expected, got \(\)"),
            ({"position": torch.full((2, 2), torch.nan)}, "channel position holds NaN"),
            ({"position": torch.zeros(2, 2, dtype=torch.bool)}, "channel position must be numbers, got torch.bool"),
            ({"position": [[0.0, 0.0]] * 2}, "channel position: a torch tensor expected, got list"),
            ({"eye": torch.zeros(2, 4, 4, 3)}, "channel eye must be uint8"),
            ({"eye": torch.zeros(2, 4, 4, 1, dtype=torch.uint8)}, r"channel eye of shape \(2, 4, 4, 3\) expected"),
        ],
    )
    def test_observations_that_do_not_fit(self, change: dict[str, Any], message: str) -> None:
        controller, state = self.begin()
        given = {name: value for name, value in {**self.observations(), **change}.items() if value is not None}
        with pytest.raises(SpecError, match="observations: .*" + message):
            controller.step(given, state)
        with pytest.raises(SpecError, match="goal: "):
            controller.start(given, generator=seeded(), batch=2)

    def test_quantities_may_stand_beside(self) -> None:
        controller, state = self.begin()
        action, _ = controller.step({**self.observations(), "truth": torch.zeros(2, 1)}, state)
        assert action.shape == (2, 2)

    def test_masks(self) -> None:
        """Missing values are zeroed, whatever they hold; masks reach the model with a step axis."""
        controller, state = self.begin()
        given = {**self.observations(), "position": torch.tensor([[1.0, torch.nan], [torch.inf, 2.0]])}
        mask = torch.tensor([[True, False], [False, True]])
        _, after = controller.step(given, state, {"position": mask})
        assert after.latents[0].squeeze(1).tolist() == [[1.0, 0.0], [0.0, 2.0]]
        model = controller.model
        assert isinstance(model, PointMass)
        seen = model.masks[-1]
        assert seen is not None
        assert torch.equal(seen["position"], mask.unsqueeze(1))
        assert seen["eye"].shape == (2, 1)
        _, after = controller.step(given, state, {"position": torch.tensor([False, False])})
        assert after.latents[0].abs().max() == 0
        with pytest.raises(SpecError, match="holds NaN"):
            controller.step(given, state, {"position": ~mask})
        for wrong in (mask.float(), mask[:1], mask.unsqueeze(2)):
            with pytest.raises(SpecError, match="mask of channel position"):
                controller.step(given, state, {"position": wrong})

    def test_goals_with_a_step_axis(self) -> None:
        controller, state = self.begin()
        stepped = controller.start({k: v.unsqueeze(1) for k, v in self.observations().items()}, generator=seeded())
        assert stepped.goal is not None
        assert torch.equal(stepped.goal, state.goal)

    def test_settings(self) -> None:
        with pytest.raises(SpecError, match="at most the 8 raw steps"):
            Controller(PointMass(config=Sizes(block=4)), QUICK, ControllerConfig(horizon=2, replan_every=9))
        with pytest.raises(SpecError, match="no actions"):
            Controller(PointMass(spec=replace(SPEC, action=ActionSpec())), QUICK)
        for wrong in ({"horizon": 0}, {"replan_every": 0}, {"terminal": -1.0}, {"discount": 0.0}, {"nearest": -1.0}):
            with pytest.raises(SpecError, match="controller:"):
                ControllerConfig(**wrong)  # type: ignore[arg-type]


WIND = replace(SPEC, action=replace(SPEC.action, exogenous=(SPEC.action.names[1],)))


def test_what_nobody_chooses_comes_as_it_is_told_and_the_rest_makes_up_for_it() -> None:
    """The second axis moves by itself: plans are imagined with what is told of it, and nothing where that ends."""
    model = PointMass(WIND, config=Sizes(block=2))
    planner = Counting()
    controller = Controller(model, planner, ControllerConfig(horizon=3, replan_every=2))
    state = controller.start(goal(), generator=seeded())
    told = torch.tensor([[[0.25], [0.5], [-0.25]]])
    action, state = controller.step({"position": torch.zeros(1, 2)}, state, ahead=told)
    assert state.plan is not None
    assert state.imagined is not None
    moves = state.plan.actions.reshape(6, 2)
    assert moves[:, 1].tolist() == [0.25, 0.5, -0.25, 0, 0, 0]
    assert action[0, 1] == 0.25
    assert torch.allclose(state.imagined.flatten()[1::2], torch.tensor([0.75, 0.5, 0.5]))
    # Between two plans what is told anew is what came.
    action, state = controller.step({"position": torch.zeros(1, 2)}, state, ahead=torch.full((1, 1, 1), 0.125))
    assert action[0].tolist() == pytest.approx([2e-5, 0.125])
    assert torch.equal(state.actions[:, -1], action)


@pytest.mark.parametrize("planner", [CEM(), ICEM(), MPPI(), Gradient()], ids=lambda p: type(p).__name__)
def test_plans_reach_the_goal_along_what_is_chosen(planner: Any) -> None:
    controller = Controller(PointMass(WIND), planner, ControllerConfig(horizon=8, replan_every=1))
    position, state = torch.zeros(1, 2), controller.start(goal(), generator=seeded())
    for _ in range(12):
        action, state = controller.step({"position": position}, state, ahead=torch.full((1, 2, 1), 0.1))
        position = position + action
    assert position[0, 0] == pytest.approx(2.0, abs=0.12)
    assert position[0, 1] == pytest.approx(1.2, abs=1e-5)


def test_what_is_told_must_fit() -> None:
    controller = Controller(PointMass(WIND), QUICK)
    state = controller.start(goal(), generator=seeded())
    with pytest.raises(SpecError, match=r"told ahead of shape \(1, steps, 1\) expected, got \(1, 2\)"):
        controller.step({"position": torch.zeros(1, 2)}, state, ahead=torch.zeros(1, 2))
