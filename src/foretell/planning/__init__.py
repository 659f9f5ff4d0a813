"""Planning: costs of plans, planners that search them, and the controller that executes them."""

from foretell.planning.cem import CEM
from foretell.planning.choose import Choose
from foretell.planning.controller import Controller, ControllerConfig, State
from foretell.planning.costs import combined, goal_cost, rollout_cost, squared_distance, target_cost, weighted_distance
from foretell.planning.gradient import Gradient
from foretell.planning.icem import ICEM
from foretell.planning.mppi import MPPI
from foretell.planning.planner import Cost, Plan, Planner, PlanningError, PlanState
from foretell.planning.realtime import RealTime

__all__ = [
    "CEM",
    "Choose",
    "Controller",
    "ControllerConfig",
    "Cost",
    "Gradient",
    "ICEM",
    "MPPI",
    "Plan",
    "PlanState",
    "Planner",
    "PlanningError",
    "RealTime",
    "State",
    "combined",
    "goal_cost",
    "rollout_cost",
    "squared_distance",
    "target_cost",
    "weighted_distance",
]
