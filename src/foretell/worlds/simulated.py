"""Worlds on simulators that others wrote: one episode at a time, goals taken from held-out episodes."""

from __future__ import annotations

import dataclasses
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

    What may have changed since a model was trained: gain: what actuators do of what they are told. shift: px that the
    camera's picture has moved by, right and down. colour: by how much of a turn all hues have changed. friction, mass:
    times what the author has, in worlds that have them.
    """

    world: ClassVar[str] = ""
    heavy: ClassVar[bool] = False
    """Whether friction and mass may change."""

    size: int = 64
    proprioception: bool = False
    episode_steps: int = 150
    gain: float = 1.0
    shift: int = 0
    colour: float = 0.0
    friction: float = 1.0
    mass: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("gain", -4.0, 4.0),
            ("colour", -1.0, 1.0),
            ("friction", 0.0, 100.0),
            ("mass", 0.01, 100.0),
        ):
            number = getattr(self, name)
            if not isinstance(number, int | float) or isinstance(number, bool) or not low <= number <= high:
                raise SpecError(f"{self.world}: {name} must be from {low:g} to {high:g}, got {number!r}")
        if not self.heavy and (self.friction != 1 or self.mass != 1):
            raise SpecError(f"{self.world}: neither friction nor mass can be changed here")
        if not isinstance(self.shift, int) or abs(self.shift) >= self.size:
            raise SpecError(f"{self.world}: shift must be a whole number of px within the picture, got {self.shift!r}")
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


class Changed:
    """A simulation whose actuators and camera are not what they were (see `SimulatedOptions`)."""

    def __init__(self, simulation: Simulation, options: SimulatedOptions) -> None:
        self._simulation, self._options, self.spec = simulation, options, simulation.spec
        self._low, self._high = np.array(self.spec.action.low), np.array(self.spec.action.high)

    def __getattr__(self, name: str) -> Any:
        """The rest is as it was."""
        return getattr(self._simulation, name)

    def step(self, action: Array) -> None:
        """Act, as far as actuators do what they are told."""
        self._simulation.step(np.clip(self._options.gain * action, self._low, self._high))

    def seen(self) -> dict[str, NDArray[Any]]:
        """As this camera sees it."""
        seen, options = self._simulation.seen(), self._options
        return seen | {"camera": turned(moved(seen["camera"], options.shift), options.colour)}


def moved(picture: NDArray[np.uint8], px: int) -> NDArray[np.uint8]:
    """The picture (H, W, C) moved right and down by so many px; what comes in repeats the border."""
    at = [np.clip(np.arange(side) - px, 0, side - 1) for side in picture.shape[:2]]
    found: NDArray[np.uint8] = picture[np.ix_(*at)]
    return found


def turned(picture: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The picture (H, W, 3) with all hues turned by a share of the circle: a rotation about the axis of greys."""
    if not share:
        return picture
    angle = 2 * np.pi * share
    across = (1 - np.cos(angle)) / 3
    side = np.sin(angle) / np.sqrt(3)
    row = [np.cos(angle) + across, across - side, across + side]
    matrix = np.array([np.roll(row, k) for k in range(3)])
    found: NDArray[np.uint8] = np.clip(picture @ matrix.T + 0.5, 0, 255).astype(np.uint8)
    return found


class SimulatedWorld:
    """A world of such simulations. make: a new one. options: what it is made with."""

    def __init__(self, name: str, make: Callable[[], Simulation], options: SimulatedOptions) -> None:
        self.name, self._steps = name, options.episode_steps
        self.options: Mapping[str, Any] = dataclasses.asdict(options)
        as_built = (options.gain, options.shift, options.colour) == (1.0, 0, 0.0)
        self._make: Callable[[], Simulation] = make if as_built else lambda: Changed(make(), options)
        self._one = self._make()
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
        # By seed: what was lived, and where in it the problem begins. Floors and planners are asked the same.
        self._problems: dict[int, tuple[list[Array], int]] = {}

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
            if seed not in self._problems:
                rng = np.random.default_rng([_HELD_OUT, seed])
                states = [state for state, _ in lived(one, rng, self._steps)] + [one.state()]
                self._problems[seed] = states, int(rng.integers(len(states) - self.offset))
            states, start = self._problems[seed]
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

    def step_blindly(self, actions: Array) -> dict[str, NDArray[Any]]:
        """`step` for whoever does not look, which takes most of the time: what was seen last stays."""
        return self.step(actions, look=False)

    def step(self, actions: Array, look: bool = True) -> dict[str, NDArray[Any]]:
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
                if look:
                    self._seen[i] = one.seen()
                self._states[i] = one.state()
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
