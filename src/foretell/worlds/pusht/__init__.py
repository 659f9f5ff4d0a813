"""Push-T: a round finger pushes a T-shaped block about."""

from __future__ import annotations

from typing import Any

from foretell.worlds.pusht.simulation import Options, Simulation
from foretell.worlds.simulated import SimulatedWorld
from foretell.worlds.world import chosen

__all__ = ["Options", "PushT", "Simulation"]


class PushT(SimulatedWorld):
    """The world `pusht`, of the extra `robots`; options are the fields of `Options`, SpecError for any other."""

    def __init__(self, **options: Any) -> None:
        found = chosen(Options, "pusht", options)
        super().__init__("pusht", lambda: Simulation(found), found)
