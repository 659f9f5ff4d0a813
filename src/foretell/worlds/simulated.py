"""Worlds on simulators that others wrote: one episode at a time, goals taken from held-out episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import Channel, Episode, Spec, check_actions
from foretell.worlds.world import Scenes

Array = NDArray[np.float64]
_HELD_OUT = 0x0FF5E7
"""Apart from every seed that episodes are recorded with."""


@dataclass(frozen=True, kw_only=True)
class SimulatedOptions:
    """Options that all of these worlds have. size: px of the square picture. proprioception: see where the robot's own
    parts are, too. episode_steps: of an episode. Raises SpecError where one of them cannot be.
    """

    world: ClassVar[str] = ""

    size: int = 64
    proprioception: bool = False
    episode_steps: int = 150

    def __post_init__(self) -> None:
        for name, least, most in (("size", 16, 512), ("episode_steps", 1, 100_000)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise SpecError(f"{self.world}: {name} must be a whole number from {least} to {most}, got {value!r}")
        if not isinstance(self.proprioception, bool):
            raise SpecError(f"{self.world}: proprioception must be true or false, got {self.proprioception!r}")

    @property
    def camera(self) -> Channel:
        """The picture."""
        return Channel(name="camera", kind="image", shape=(self.size, self.size, 3))


class Simulation(Protocol):
    """One simulator, as its authors wrote it, with a behaviour policy of ours."""

    spec: Spec

    def reset(self, rng: np.random.Generator) -> None:
        """Begin somewhere."""
        ...

    def state(self) -> Array:
        """(S,) all that the future depends on."""
        ...

    def restore(self, state: Array) -> None:
        """Begin at a state (S,)."""
        ...

    def step(self, action: Array) -> None:
        """Act, (A,) within the bounds of the spec."""
        ...

    def seen(self) -> dict[str, NDArray[Any]]:
        """Every observation of the spec now, (*shape)."""
        ...

    def truth(self, state: Array) -> dict[str, Array]:
        """Every quantity of the spec, (F,), at a state (S,)."""
        ...

    def reached(self, state: Array, goal: Array) -> bool:
        """Whether a state (S,) is at the goal, also a state, as the task's authors define it."""
        ...

    def pushed(self, state: Array, rng: np.random.Generator) -> Array:
        """A state (S,) after somebody has interfered."""
        ...

    def straight(self, state: Array, goal: Array) -> Array:
        """(A,) what a policy without a model does that is told both."""
        ...

    def behaviour(self, rng: np.random.Generator) -> Callable[[], Array]:
        """Begins to act as recorded episodes do: (A,) at each call, by the state of now, which models do not see."""
        ...


def lived(simulation: Simulation, rng: np.random.Generator, steps: int) -> Iterator[tuple[Array, Array]]:
    """States (S,) before each of `steps` actions (A,), from a random start under the behaviour policy; the simulation
    then stands at the end.
    """
    simulation.reset(rng)
    act = simulation.behaviour(rng)
    for _ in range(steps):
        state, action = simulation.state(), act()
        yield state, action
        simulation.step(action)


class SimulatedWorld:
    """A world of such simulations. make: a new one. options: what it is made with. steps: of an episode."""

    def __init__(self, name: str, make: Callable[[], Simulation], options: Mapping[str, Any], steps: int) -> None:
        self.name, self.options, self._make, self._steps = name, options, make, steps
        self._one = make()
        self.spec: Spec = self._one.spec

    def episodes(self, count: int, *, seed: int, first: int = 0) -> Iterator[Episode]:
        """Episodes `first` to first + count - 1 of the behaviour policy; episode i depends on (seed, i) alone."""
        for i in range(first, first + count):
            yield self._recorded(np.random.default_rng([seed, i]))

    def task(self, **options: Any) -> OffsetTask:
        """Goals some steps ahead in held-out episodes; options as in `OffsetTask`."""
        unknown = options.keys() - {"offset", "budget", "disturbed"}
        if unknown:
            raise SpecError(f"{self.name}: a task takes offset, budget and disturbed, got {sorted(unknown)[0]!r}")
        return OffsetTask(self.name, self._make, self._steps, **options)

    def _recorded(self, rng: np.random.Generator) -> Episode:
        one, seen, actions = self._one, [], []
        try:
            for state, action in lived(one, rng, self._steps):
                seen.append(one.seen() | one.truth(state))
                actions.append(action)
            seen.append(one.seen() | one.truth(one.state()))
        except Exception:
            # Where a simulator fails the episode ends, short as it is; one that fails at once does not work at all.
            if len(seen) < 2:
                raise
            self._one = self._make()
        channels = {c.name: np.uint8 if c.kind == "image" else np.float32 for c in self.spec.channels}
        return Episode(
            observations={n: np.stack([s[n] for s in seen]).astype(kind) for n, kind in channels.items()},
            actions=np.stack(actions[: len(seen) - 1]).astype(np.float32),
        )


class OffsetTask:
    """Start somewhere in a held-out episode; the goal is what was seen `offset` steps later; twice as many steps may be
    taken unless `budget` says otherwise.

    disturbed: once, after a fifth to a half of the offset, somebody interferes: `push` (see `Simulation.pushed`), or
    `goal`: it moves to where the episode was a quarter of the offset later, or earlier where it had ended by then.

    A problem whose simulator fails counts as not solved and stands still from then on; `failed` (B,) marks it.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Simulation],
        steps: int,
        *,
        offset: int = 25,
        budget: int | None = None,
        disturbed: Literal["", "push", "goal"] = "",
    ) -> None:
        for what, value in (("offset", offset), ("budget", budget if budget is not None else 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecError(f"{name}: {what} must be a whole number, 1 or more, got {value!r}")
        if offset > steps:
            raise SpecError(f"{name}: an offset of at most {steps} expected, the steps of an episode, got {offset}")
        if disturbed not in ("", "push", "goal"):
            raise SpecError(f"{name}: disturbed must be 'push' or 'goal', got {disturbed!r}")
        self._name, self._make, self._steps, self._disturbed = name, make, steps, disturbed
        self.offset, self._budget = offset, 2 * offset if budget is None else budget
        self.budget: NDArray[np.int64] = np.zeros(0, np.int64)
        self._all: list[Simulation] = []

    def reset(self, seeds: Sequence[int]) -> Scenes:
        """One problem per seed."""
        while len(self._all) < len(seeds):
            self._all.append(self._make())
        self._running = self._all[: len(seeds)]
        goals, seen, wanted = [], [], []
        self._time, self._moved = 0, [np.zeros(0)] * len(seeds)
        self._rngs = [np.random.default_rng([_HELD_OUT, seed, 1]) for seed in seeds]
        span = (max(1, self.offset // 5), max(1, self.offset // 2))
        self._when = np.array([int(rng.integers(*span, endpoint=True)) for rng in self._rngs])
        for i, (one, seed) in enumerate(zip(self._running, seeds, strict=True)):
            rng = np.random.default_rng([_HELD_OUT, seed])
            states = [state for state, _ in lived(one, rng, self._steps)] + [one.state()]
            start = int(rng.integers(len(states) - self.offset))
            goals.append(states[start + self.offset])
            shift = max(1, self.offset // 4)
            later = start + self.offset + shift
            self._moved[i] = states[later if later < len(states) else start + self.offset - shift]
            one.restore(goals[-1])
            wanted.append(one.seen())
            one.restore(states[start])
            seen.append(one.seen())
        self._goal = np.stack(goals)
        self._seen, self._states = seen, [one.state() for one in self._running]
        self.budget = np.full(len(seeds), self._budget, np.int64)
        self.failed = np.zeros(len(seeds), np.bool_)
        self._solved = self._reached()
        names = [c.name for c in self._running[0].spec.observations]
        self._wanted = {n: np.stack([w[n] for w in wanted]) for n in names}
        return Scenes(self._together(names), self._wanted)

    def step(self, actions: Array) -> dict[str, NDArray[Any]]:
        """Act, (B, A), and see; SpecError outside the bounds."""
        spec = self._running[0].spec
        actions = np.asarray(actions, np.float64)
        if actions.shape != (len(self._running), spec.action.size):
            expected = (len(self._running), spec.action.size)
            raise SpecError(f"{self._name}: actions of shape {expected} expected, got {actions.shape}")
        check_actions(spec.action, actions, self._name)
        for i in np.flatnonzero(~self.failed):
            one = self._running[i]
            try:
                one.step(actions[i])
                if self._disturbed and self._time == self._when[i]:
                    self._disturb(int(i))
                self._seen[i], self._states[i] = one.seen(), one.state()
            except Exception:
                # Whatever a simulator throws ends its own problem, not the others.
                self.failed[i] = True
        self._time += 1
        self._solved |= self._reached() & ~self.failed
        return self._together([c.name for c in spec.observations])

    def goal(self) -> dict[str, NDArray[Any]]:
        """The picture of each goal, (B, *shape)."""
        return self._wanted

    def solved(self) -> NDArray[np.bool_]:
        """(B,) whether the goal has been reached, now or earlier."""
        return self._solved.copy()

    def truth(self) -> dict[str, Array]:
        """The spec's quantities now, (B, F) each."""
        return self._truth(self._states)

    def goal_truth(self) -> dict[str, Array]:
        """The spec's quantities at the goal, (B, F) each."""
        return self._truth(self._goal)

    def straight(self) -> Array:
        """(B, A) the actions of the policy that is told state and goal."""
        pairs = zip(self._running, self._states, self._goal, strict=True)
        return np.stack([one.straight(state, goal) for one, state, goal in pairs])

    def _disturb(self, i: int) -> None:
        one = self._running[i]
        now = one.state()
        if self._disturbed == "push":
            one.restore(one.pushed(now, self._rngs[i]))
            return
        self._goal[i] = self._moved[i]
        one.restore(self._goal[i])
        there = one.seen()
        one.restore(now)
        self._wanted = {n: np.concatenate([x[:i], there[n][None], x[i + 1 :]]) for n, x in self._wanted.items()}

    def _truth(self, states: Sequence[Array] | Array) -> dict[str, Array]:
        each = [one.truth(state) for one, state in zip(self._running, states, strict=True)]
        return {n: np.stack([e[n] for e in each]).astype(np.float64) for n in each[0]}

    def _together(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        return {n: np.stack([s[n] for s in self._seen]) for n in names}

    def _reached(self) -> NDArray[np.bool_]:
        pairs = zip(self._running, self._states, self._goal, strict=True)
        return np.array([one.reached(state, goal) for one, state, goal in pairs])
