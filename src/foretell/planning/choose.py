"""Choose: the best of the plans that are offered, where others are not to be made up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from foretell.errors import SpecError
from foretell.planning.planner import Best, Cost, Plan, PlanState, offered, score


@dataclass(frozen=True, kw_only=True)
class Choose:
    """The cheapest of the proposals (`Controller(propose=...)`), such as treatments that are in use; never another.

    Of equally cheap ones the first. Raises SpecError without proposals, PlanningError where none has a finite cost.
    """

    @torch.no_grad()
    def __call__(self, cost: Cost, state: PlanState) -> Plan:
        """The plan found from `state`."""
        if state.proposals is None or not state.proposals.shape[1]:
            raise SpecError("choose: proposals to choose from expected, got none; give the controller `propose`")
        candidates = offered(state, state.proposals.shape[1] + 1)[1]
        best = Best.none(state).of(candidates, score(cost, candidates)).require()
        return Plan(best.actions, best.cost, replace(state, mean=best.actions, elites=None, proposals=None))
