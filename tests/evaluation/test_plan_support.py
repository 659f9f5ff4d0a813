"""Plans that leave training are counted, each kind by itself, and said where."""

from __future__ import annotations

import pytest
import torch

from foretell.evaluation.pages import _leaving
from foretell.evaluation.plan_support import plans_that_leave
from foretell.planning.guard import Planned
from foretell.trust.support import Support


def known() -> Support:
    """States 0 and 1 on a line and no action but 0 were seen; ordinary plans went at most 1 away from either."""
    support = Support(latent=1, action=1, block=2, states=2, blocks=1, plans=39)
    support.get_buffer("states").copy_(torch.tensor([[0.0], [1.0]]))
    support.get_buffer("furthest").copy_(torch.linspace(0.1, 1, 39).repeat(2, 1))
    return support


def planned(states: list[float], actions: list[float]) -> Planned:
    return Planned(torch.tensor(states).view(-1, 1, 1), torch.tensor(actions).view(-1, 2))


def test_plans_that_leave_are_counted_and_told() -> None:
    stays = planned([0.0, 0.5, 1.5], [0.0, 0.5, 0.5, 0.0])
    far = planned([0.0, 1.0, 9.0], [0.0] * 4)
    strong = planned([0.0, 0.5, 1.0], [0.0, 3.0, 0.0, 0.0])
    both = planned([0.0, 5.0, 5.0], [0.0, 0.0, 0.0, 2.0])
    found = plans_that_leave(known(), [[(0, stays), (2, far)], [], [(0, strong), (4, both)]])
    assert [(i, step, [(x.what, x.step) for x in each]) for i, step, each in found.found] == [
        (0, 2, [("states", 4)]),
        (2, 0, [("actions", 2)]),
        (2, 4, [("states", 2), ("actions", 4)]),
    ]
    assert found.to_json() == {
        "level": 0.1,
        "plans": 4,
        "share": 0.75,
        "states": {"share": 0.5, "median_step": 3.0},
        "actions": {"share": 0.5, "median_step": 3.0},
    }
    rows = _leaving(found, shown=1).rows
    assert rows[0] == ["all 4 plans", "", "50% leave the states"]
    assert rows[2:] == [["episode 1", "step 2", "plan leaves the states seen in training at step 4 (p = 0.03)"]]


def test_no_plan_leaves() -> None:
    found = plans_that_leave(known(), [[(0, planned([0.0, 0.5], [0.0, 0.0]))]])
    assert found.to_json()["states"] == {"share": 0.0, "median_step": None} == found.to_json()["actions"]
    assert found.share == pytest.approx(0)
