"""What every built-in world offers: a spec, a behaviour that records data, and a task that scores a controller."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import Episode, Spec

Options = TypeVar("Options")


@dataclass(frozen=True)
class Scenes:
    """B held-out problems, just reset. observations and goal: by channel name, (B, *shape)."""

    observations: dict[str, NDArray[Any]]
    goal: dict[str, NDArray[Any]]


class Task(Protocol):
    """A batch of problems, one per seed, stepped together."""

    budget: NDArray[np.int64]
    """(B,) steps after which a problem counts as failed."""

    def reset(self, seeds: Sequence[int]) -> Scenes:
        """Set up one problem per seed; the same seed is the same problem."""
        ...

    def step(self, actions: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Act, (B, A); returns what is observed then. Actions outside the bounds raise SpecError."""
        ...

    def goal(self) -> dict[str, NDArray[Any]]:
        """What is to be seen, by channel name, (B, *shape): the same object until a goal moves."""
        ...

    def solved(self) -> NDArray[np.bool_]:
        """(B,) whether each problem has been solved, now or earlier."""
        ...

    def truth(self) -> dict[str, NDArray[np.float64]]:
        """The spec's quantities as they are now, (B, F) each; for scoring, never for the model."""
        ...

    def goal_truth(self) -> dict[str, NDArray[np.float64]]:
        """The spec's quantities at the goal, (B, F) each; for scoring and floors, never for the model."""
        ...

    def straight(self) -> NDArray[np.float64]:
        """(B, A) the actions of the floor that knows where the goal is and heads straight for it."""
        ...


def chosen(kind: type[Options], world: str, options: Mapping[str, Any]) -> Options:
    """The options of a world, a dataclass, with these fields; SpecError for any other."""
    known = {f.name for f in dataclasses.fields(cast(Any, kind))}
    unknown = options.keys() - known
    if unknown:
        raise SpecError(f"{world} has no option {sorted(unknown)[0]!r}; it has {', '.join(sorted(known))}")
    return kind(**options)


class World(Protocol):
    """A simulator with a behaviour policy and a task."""

    name: str
    spec: Spec
    options: Mapping[str, Any]

    def episodes(self, count: int, *, seed: int, first: int = 0) -> Iterator[Episode]:
        """Episodes `first` to first + count - 1 of the behaviour policy; episode i depends on (seed, i) alone."""
        ...

    def task(self, **options: Any) -> Task:
        """The world's task, with its own options."""
        ...
