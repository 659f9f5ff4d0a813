"""Protocols count what was solved within its budget, and plan no more for what has ended."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from foretell.errors import SpecError
from foretell.evaluation.baselines import RandomActions, straight
from foretell.evaluation.protocols import replan_times, run_controller, run_policy
from foretell.planning import CEM, Controller, ControllerConfig
from tests.evaluation.points import SPEC, STEP, PointTask, exact


def controller(history: int = 1) -> Controller:
    planner = CEM(samples=64, iterations=3, elites=8)
    return Controller(exact(history=history), planner, ControllerConfig(horizon=6, replan_every=2))


def test_an_exact_model_reaches_every_goal() -> None:
    outcome = run_controller(PointTask(), range(12), controller(), keep=2)
    assert outcome.success == 1
    assert outcome.interval[0] == pytest.approx(1 / (1 + 1.959964**2 / 12), abs=1e-6)
    assert (outcome.steps >= 4 / (STEP * np.sqrt(2)) - 1).all()
    assert (outcome.steps < outcome.budget).all()
    assert len(outcome.replan_ms) == -(-outcome.steps.max() // 2)


def test_a_goal_that_moves_is_followed() -> None:
    task = PointTask(moves=3)
    outcome = run_controller(task, range(12), controller())
    assert outcome.success == 1
    assert (outcome.steps > 5).all()


def test_a_problem_solved_after_its_budget_counts_as_failed() -> None:
    budgets = [40, 3]
    outcome = run_policy(PointTask(budgets), range(6), straight)
    assert outcome.solved.tolist() == [True, False] * 3
    assert (outcome.steps[1::2] == 3).all()
    assert outcome.success == 0.5


@pytest.mark.parametrize("history", [1, 2])
def test_what_has_ended_is_not_planned_and_changes_nothing_else(history: int) -> None:
    together = controller(history)
    mixed = run_controller(PointTask([40, 3]), range(6), together)
    assert together.model.encoded[:4] == [6, 6, 6, 3]  # type: ignore[attr-defined]  # the goals, steps 0, 2 and 4
    apart = run_controller(PointTask([40]), range(6), controller(history))
    assert mixed.steps[::2].tolist() == apart.steps[::2].tolist()


def test_traces_hold_what_happened() -> None:
    outcome = run_controller(PointTask(), range(4), controller(), keep=2)
    assert len(outcome.traces) == 2
    assert len(outcome.plans) == 4
    for trace, plans, steps in zip(outcome.traces, outcome.plans, outcome.steps, strict=False):
        places = trace.truth["place"]
        assert len(places) == steps + 1 == len(trace.observations["sensor"])
        np.testing.assert_allclose(places[0] + trace.actions.sum(0), places[-1])
        np.testing.assert_allclose(trace.observations["sensor"], places, atol=1e-6)
        assert np.linalg.norm(places[-1] - trace.goal["sensor"]) < 0.3
        assert [made for made, _ in plans] == list(range(0, steps, 2))
        made, plan = plans[2]
        np.testing.assert_allclose(places[made], plan.latents[0, 0].numpy(), atol=1e-5)
        np.testing.assert_allclose(places[made + 2], plan.latents[1, 0].numpy(), atol=1e-5)
        np.testing.assert_allclose(trace.actions[made : made + 2].ravel(), plan.actions[0].numpy(), atol=1e-5)


def test_random_actions_keep_to_the_bounds_and_the_seed() -> None:
    task = PointTask()
    policy = RandomActions(action=SPEC.action, seed=4)
    first = run_policy(task, range(50), policy)
    moves = np.stack(task.stepped)
    assert np.abs(moves).max() > 0.99 * STEP
    assert abs(moves.mean()) < 0.02
    assert run_policy(PointTask(), range(50), policy).steps.tolist() == first.steps.tolist()
    unbounded = dataclasses.replace(SPEC.action, low=(-np.inf, 0.0), high=(np.inf, 0.25))
    act = RandomActions(action=unbounded, seed=0)(task, task.reset(range(200)))
    drawn = act({}, 0, np.arange(200))
    assert drawn[:, 0].std() == pytest.approx(1, abs=0.2)
    assert (drawn[:, 1] >= 0).all()
    assert (drawn[:, 1] <= 0.25).all()


def test_replanning_is_timed_one_problem_at_a_time() -> None:
    timed = controller()
    times = replan_times(PointTask(), range(9), timed, count=11)
    assert len(times) == 11
    assert min(times) > 0
    assert set(timed.model.encoded) == {1}  # type: ignore[attr-defined]


def test_no_problems_are_refused() -> None:
    with pytest.raises(SpecError, match="at least one problem"):
        run_policy(PointTask(), [], straight)
    assert torch.is_grad_enabled()
