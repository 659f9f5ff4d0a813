"""Reacher: an arm of two links in a plane, moved by torques."""

from __future__ import annotations

from typing import Any

from foretell.worlds.reacher.simulation import Options, Simulation
from foretell.worlds.simulated import SimulatedWorld
from foretell.worlds.world import chosen

__all__ = ["Options", "Reacher", "Simulation"]


class Reacher(SimulatedWorld):
    """The world `reacher`, of the extra `robots`; options are the fields of `Options`, SpecError for any other."""

    def __init__(self, **options: Any) -> None:
        found = chosen(Options, "reacher", options)
        super().__init__("reacher", lambda: Simulation(found), found)
