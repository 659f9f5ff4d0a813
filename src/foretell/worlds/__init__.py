"""Built-in worlds by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from foretell.errors import SpecError
from foretell.worlds.glucose import Glucose
from foretell.worlds.pointmaze import PointMaze
from foretell.worlds.pusht import PushT
from foretell.worlds.reacher import Reacher
from foretell.worlds.two_rooms import TwoRooms
from foretell.worlds.world import Scenes, Task, World

__all__ = ["Scenes", "Task", "World", "make", "names"]

_WORLDS: dict[str, Callable[..., World]] = {
    "two_rooms": TwoRooms,
    "glucose": Glucose,
    "pusht": PushT,
    "reacher": Reacher,
    "pointmaze": PointMaze,
}


def names() -> tuple[str, ...]:
    """Names that `make` takes."""
    return tuple(_WORLDS)


def make(name: str, **options: Any) -> World:
    """The built-in world of that name; SpecError for an unknown name or option."""
    if name not in _WORLDS:
        close = difflib.get_close_matches(name, _WORLDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SpecError(f"no world {name!r}: built in are {', '.join(_WORLDS)}{hint}")
    return _WORLDS[name](**options)
