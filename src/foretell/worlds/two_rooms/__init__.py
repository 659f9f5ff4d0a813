"""Two rooms: a dot, a wall with a door, and a goal on the other side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from foretell.errors import SpecError
from foretell.spec import Episode, Spec
from foretell.worlds.two_rooms.behaviour import random_walks
from foretell.worlds.two_rooms.environment import TwoRoomsEnv, TwoRoomsVectorEnv
from foretell.worlds.two_rooms.simulator import Options, Simulator
from foretell.worlds.two_rooms.task import TwoRoomsTask
from foretell.worlds.world import chosen

__all__ = ["Options", "Simulator", "TwoRooms", "TwoRoomsEnv", "TwoRoomsTask", "TwoRoomsVectorEnv"]


class TwoRooms:
    """The world `two_rooms`; options are the fields of `Options`, SpecError for any other."""

    name = "two_rooms"

    def __init__(self, **options: Any) -> None:
        self._options = chosen(Options, self.name, options)
        self.spec: Spec = self._options.spec
        self.options: Mapping[str, Any] = dataclasses.asdict(self._options)

    def episodes(self, count: int, *, seed: int, first: int = 0) -> Iterator[Episode]:
        """Random walks `first` to first + count - 1 of `Options.episode_steps` steps; walk i depends on (seed, i)
        alone.
        """
        return random_walks(self._options, count, seed=seed, first=first)

    def task(self, **options: Any) -> TwoRoomsTask:
        """Goals in the other room; options as in `TwoRoomsTask`, SpecError for any other."""
        unknown = options.keys() - {"distance", "offset", "disturbed"}
        if unknown:
            raise SpecError(f"two_rooms: a task takes distance, offset and disturbed, got {sorted(unknown)[0]!r}")
        return TwoRoomsTask(self._options, **options)
