"""Events that a model trained on ordinary episodes has never met, by name and severity: what a trust benchmark asks.

A *violation* breaks the physics that the episodes taught, in the middle of an episode; what is seen stays ordinary.
An *appearance* is only new: the whole episode looks otherwise and behaves as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import Episode
from foretell.worlds.two_rooms.behaviour import Disturbance, walk_group
from foretell.worlds.two_rooms.simulator import BORDER, DOOR, SIZE, WALL, Options, Simulator, draw_dots

Array = NDArray[np.float64]
Kind = Literal["violation", "appearance"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """name: what happens. severity: of what the event's texts say (px, grey levels, a share); None where there is none.

    kind: a violation or an appearance. placed: whether it happens at one place of the picture.
    """

    name: str
    kind: Kind
    severity: float | None = None
    placed: bool = False

    @property
    def id(self) -> str:
        """The name with its severity: `teleport_3`."""
        return self.name if self.severity is None else f"{self.name}_{self.severity:g}"


EVENTS: tuple[Event, ...] = (
    # The dot is suddenly so many px away, in the same room.
    *(Event(name="teleport", kind="violation", severity=px, placed=True) for px in (1, 3, 10, 30)),
    # The wall stops the dot no longer.
    Event(name="through_wall", kind="violation", placed=True),
    # The picture stays as it is.
    Event(name="frozen", kind="violation"),
    # The pictures run backwards.
    Event(name="reversed", kind="violation"),
    # The dot stands still, turns the other way, or moves half as far.
    Event(name="not_executed", kind="violation"),
    Event(name="mirrored", kind="violation"),
    Event(name="gain", kind="violation", severity=0.5),
    # Share of the way from the dot's colour to green, and from the ground's to blue.
    *(Event(name="dot_colour", kind="appearance", severity=share, placed=True) for share in (0.25, 1)),
    *(Event(name="background", kind="appearance", severity=share) for share in (0.1, 0.5)),
    # The dot's radius in px (2 in training).
    *(Event(name="dot_size", kind="appearance", severity=px, placed=True) for px in (1.5, 3)),
    # Everything so many times as bright.
    *(Event(name="brightness", kind="appearance", severity=share) for share in (0.9, 0.6)),
    # Standard deviation of the sensor's noise in grey levels.
    *(Event(name="noise", kind="appearance", severity=grey) for grey in (2, 10)),
    # Fixed layout: the door so many px further down. Random ones: the wall lies across.
    Event(name="layout", kind="appearance", severity=8),
    # Another dot of the same colour that never moves.
    Event(name="second_dot", kind="appearance", placed=True),
)


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """An episode with an event. onset: the first step whose observation it touches. place: (2,) px where it is then."""

    episode: Episode
    onset: int
    place: Array | None


def disturbed(
    event: Event, options: Options, count: int, *, seed: int, onset: int | None = None
) -> Iterator[Disturbed]:
    """`count` random walks with the event, each with a layout and actions of its own.

    onset: when a violation begins, the middle of an episode unless given; one of a wall begins where the dot first
    touches what was wall from then on, and walks that never enter it by more than half a pixel are left out.
    Raises SpecError for an onset that is not within an episode, and for an event that hardly any walk meets.
    """
    at = options.episode_steps // 2 if onset is None else onset
    if not 1 <= at < options.episode_steps:
        raise SpecError(f"event: an onset from 1 to {options.episode_steps - 1} expected, got {onset}")
    given, drawn, group = 0, 0, min(count, 64)
    while given < count:
        if drawn > 1000 * (given + group):
            raise SpecError(f"event {event.id}: met in {given} of {drawn} walks; ask for longer episodes")
        rngs = [np.random.default_rng([seed, 0xE7E, drawn + i]) for i in range(group)]
        drawn += group
        change = _Change(event, options, at, [rng.spawn(1)[0] for rng in rngs])
        for i, episode in enumerate(walk_group(change.options, rngs, change)):
            if change.met[i] and given < count:
                given += 1
                start = int(change.onset[i])
                episode = change.finished(i, episode)
                yield Disturbed(episode=episode, onset=start, place=change.place(i, episode, start))


class _Change(Disturbance):
    """The event at work in a group of rooms."""

    def __init__(self, event: Event, options: Options, at: int, rngs: list[np.random.Generator]) -> None:
        self.event, self.at, self.rngs = event, at, rngs
        self.options = _looks(event, options)
        walled = event.name == "through_wall"
        never = options.episode_steps + 1
        first = never if walled else 0 if event.kind == "appearance" else at + 1
        self.onset = np.full(len(rngs), first)
        self.met = np.full(len(rngs), not walled)
        self.second: Array = np.zeros((len(rngs), 2))
        self.layout = self.second

    def begin(self, simulator: Simulator, rngs: list[np.random.Generator]) -> None:
        if self.event.name == "layout" and self.options.layout == "fixed":
            assert self.event.severity is not None
            x, y = simulator.layout[0]
            for i, rng in enumerate(rngs):
                simulator.reset(i, rng, (float(x), float(y + self.event.severity)))
        self.layout = simulator.layout.copy()
        if self.event.name == "second_dot":
            self.second = np.stack([simulator.free_position(i, rng) for i, rng in enumerate(self.rngs)])

    def executed(self, step: int, actions: Array, simulator: Simulator) -> Array:
        if step < self.at:
            return actions
        factor = {"not_executed": 0.0, "mirrored": -1.0, "gain": self.event.severity}.get(self.event.name)
        return actions if factor is None else actions * factor

    def moved(self, step: int, before: Array, simulator: Simulator) -> None:
        if self.event.name == "teleport" and step == self.at:
            assert self.event.severity is not None
            for i, rng in enumerate(self.rngs):
                simulator.position[i] = _away(simulator, i, self.event.severity, rng)
        if self.event.name == "through_wall" and step >= self.at:
            # The picture keeps its wall; the physics has none any more.
            simulator.layout[:, 0] = -SIZE
            touches, enters = (
                _within_wall(simulator.position, self.layout, simulator.radius, px) for px in (1e-9, 0.5)
            )
            self.onset = np.where(touches, np.minimum(self.onset, step + 1), self.onset)
            self.met |= enters

    def seen(self, frames: NDArray[np.uint8], simulator: Simulator) -> None:
        if self.event.name == "frozen":
            frames[self.at + 1 :] = frames[self.at]
        if self.event.name == "reversed":
            for t in range(self.at + 1, len(frames)):
                frames[t] = frames[max(0, 2 * self.at - t)]
        if self.event.name == "second_dot":
            colour = np.tile(np.array(self.options.dot, float), (len(self.rngs), 1))
            for frame in frames:
                draw_dots(frame, self.second, simulator.radius, colour)

    def finished(self, i: int, episode: Episode) -> Episode:
        """The episode as it is recorded."""
        if self.event.name != "layout" or self.options.layout == "fixed":
            return episode
        camera = np.ascontiguousarray(episode.observations["camera"].swapaxes(1, 2))
        position = np.ascontiguousarray(episode.observations["position"][:, ::-1])
        actions = np.ascontiguousarray(episode.actions[:, ::-1])
        return replace(
            episode, observations={**episode.observations, "camera": camera, "position": position}, actions=actions
        )

    def place(self, i: int, episode: Episode, onset: int) -> Array | None:
        """(2,) px where the event is when it begins."""
        if not self.event.placed:
            return None
        where = self.second[i] if self.event.name == "second_dot" else episode.observations["position"][onset]
        return np.asarray(where, float)


def _looks(event: Event, options: Options) -> Options:
    """Options with the event's looks."""
    severity: Any = event.severity
    changed: dict[str, Any] = {}
    mixed = {"dot_colour": ("dot", (40, 200, 40)), "background": ("background", (60, 120, 245))}
    if event.name in mixed:
        name, towards = mixed[event.name]
        blend = [round(a + severity * (b - a)) for a, b in zip(getattr(options, name), towards, strict=True)]
        changed = {name: tuple(blend)}
    elif event.name in ("dot_size", "brightness", "noise"):
        changed = {"radius" if event.name == "dot_size" else event.name: float(severity)}
    return replace(options, **changed)


def _away(simulator: Simulator, i: int, px: float, rng: np.random.Generator) -> Array:
    """(2,) a free place in the same room, `px` away; where 200 draws find none, the nearest to one."""
    r, after, wall = simulator.radius[i], simulator.position[i], simulator.layout[i, 0]
    low, high = BORDER + r, SIZE - BORDER - r
    side = WALL / 2 + r
    left, right = (low, wall - side) if after[0] < wall else (wall + side, high)
    best, nearest = after, math.inf
    for _ in range(200):
        angle = rng.uniform(0, 2 * math.pi)
        there = after + px * np.array([math.cos(angle), math.sin(angle)])
        inside = np.clip(there, [left, low], [right, high])
        off = float(np.abs(inside - there).max())
        if off < nearest:
            best, nearest = inside, off
        if off == 0:
            break
    return np.asarray(best)


def _within_wall(position: Array, layout: Array, radius: Array, px: float) -> NDArray[np.bool_]:
    """(n,) whether a dot at (n, 2) px overlaps the wall between the rooms by more than so many pixels."""
    deep = np.abs(position[:, 0] - layout[:, 0]) < WALL / 2 + radius - px
    in_door = np.abs(position[:, 1] - layout[:, 1]) < DOOR / 2 - radius + px
    return np.asarray(deep & ~in_door)
