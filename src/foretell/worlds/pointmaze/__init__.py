"""PointMaze: a ball in a maze seen from above."""

from __future__ import annotations

from typing import Any

from foretell.worlds.pointmaze.simulation import Options, Simulation
from foretell.worlds.simulated import SimulatedWorld
from foretell.worlds.world import chosen

__all__ = ["Options", "PointMaze", "Simulation"]


class PointMaze(SimulatedWorld):
    """The world `pointmaze`, of the extra `robots`; options are the fields of `Options`, SpecError for any other."""

    def __init__(self, **options: Any) -> None:
        found = chosen(Options, "pointmaze", options)
        super().__init__("pointmaze", lambda: Simulation(found), found)
