"""The physics and the picture of two rooms, for many rooms at once.

A dot moves in a square of 64 x 64 px. A vertical wall with one door divides it. Each step moves the
dot by the action, first along x, then along y; it stops where it touches a wall and slides along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.spec import ActionSpec, Channel, Spec

SIZE = 64
BORDER = 2.0
WALL = 4.0
DOOR = 12.0
FIXED = (32.0, 20.0)
WALL_RANGE = (20.0, 44.0)
DOOR_RANGE = (12.0, 52.0)

Factor = Literal["colours", "dot_size", "brightness", "noise", "gain"]
FACTORS: tuple[Factor, ...] = get_args(Factor)
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How rooms look and behave. Lengths in px, colours in 0..255, `noise` a standard deviation in 0..255.

    layout: `fixed` (wall at x = 32, door at y = 20) or `random` per episode.
    step: the largest move per step along each axis. gain: executed share of an action.
    vary: factors drawn anew for each episode instead of taking their value here. Each is drawn apart, so
    that switching one on changes neither the others nor the layout.
    persistence: correlation of successive actions in the recorded random walks. turns: their chance at each
    step of turning round where they are blocked.
    """

    layout: Literal["fixed", "random"] = "fixed"
    step: float = 2.0
    radius: float = 2.0
    dot: tuple[int, int, int] = (220, 40, 40)
    wall: tuple[int, int, int] = (40, 60, 110)
    background: tuple[int, int, int] = (245, 245, 240)
    brightness: float = 1.0
    noise: float = 0.0
    gain: float = 1.0
    vary: tuple[Factor, ...] = ()
    episode_steps: int = 80
    persistence: float = 0.9
    turns: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dot", "wall", "background"):
            value = getattr(self, name)
            three = isinstance(value, Sequence) and len(value) == 3
            if not three or not all(_number(v, whole=True) and 0 <= v <= 255 for v in value):
                raise SpecError(f"two_rooms: {name} must be three whole numbers in 0..255, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        vary = (self.vary,) if isinstance(self.vary, str) else self.vary
        if not isinstance(vary, Sequence) or not all(v in FACTORS for v in vary):
            raise SpecError(f"two_rooms: vary takes some of {', '.join(FACTORS)}, got {self.vary!r}")
        object.__setattr__(self, "vary", tuple(vary))
        if self.layout not in ("fixed", "random"):
            raise SpecError(f"two_rooms: layout must be 'fixed' or 'random', got {self.layout!r}")
        limits = {
            "step": (0.01, 4.0),
            "radius": (0.5, 5.0),
            "brightness": (0.01, 2.0),
            "noise": (0.0, 128.0),
            "gain": (-2.0, 2.0),
            "episode_steps": (1, 100_000),
            "persistence": (0.0, 0.9999),
            "turns": (0.0, 1.0),
        }
        for name, (least, most) in limits.items():
            value, whole = getattr(self, name), name == "episode_steps"
            if not _number(value, whole=whole) or not least <= value <= most:
                kind = "a whole number" if whole else "a number"
                raise SpecError(f"two_rooms: {name} must be {kind} from {least:g} to {most:g}, got {value!r}")
        if self.gain == 0:
            raise SpecError("two_rooms: gain must not be 0, with which no action moves the dot")

    @property
    def spec(self) -> Spec:
        """Camera image seen; position of the dot and layout recorded as quantities; moves in px per step."""
        return Spec(
            observations=(Channel(name="camera", kind="image", shape=(SIZE, SIZE, 3)),),
            action=ActionSpec(
                names=("dx", "dy"),
                units=("px", "px"),
                low=(-self.step, -self.step),
                high=(self.step, self.step),
                safe=(0.0, 0.0),
            ),
            hz=10.0,
            quantities=(
                Channel(name="position", kind="vector", shape=(2,), fields=("x", "y"), units=("px", "px")),
                Channel(name="layout", kind="vector", shape=(2,), fields=("wall_x", "door_y"), units=("px", "px")),
            ),
        )


class Simulator:
    """`count` rooms side by side: positions (n, 2) px, layouts (n, 2) px (wall x, door y)."""

    def __init__(self, options: Options, count: int) -> None:
        self.options = options
        self.position: Array = np.zeros((count, 2))
        self.layout: Array = np.tile(np.array(FIXED), (count, 1))
        self.radius = np.full(count, options.radius)
        self.gain = np.full(count, options.gain)
        self._noise = np.full(count, options.noise)
        self._brightness = np.full(count, options.brightness)
        self._colours = np.tile(np.array([options.dot, options.wall, options.background], float), (count, 1, 1))
        self._canvas = np.zeros((count, SIZE, SIZE, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.position)

    def reset(self, index: int, rng: np.random.Generator, layout: tuple[float, float] | None = None) -> None:
        """New layout, factors and a free position for room `index`."""
        o = self.options
        drawn = (rng.uniform(*WALL_RANGE), rng.uniform(*DOOR_RANGE)) if o.layout == "random" else FIXED
        self.layout[index] = drawn if layout is None else layout
        # A stream for each factor; the room's own stream is not advanced by it.
        apart = dict(zip(FACTORS, rng.spawn(len(FACTORS)), strict=True)) if o.vary else {}
        if "colours" in o.vary:
            self._colours[index] = _distinct_colours(apart["colours"])
        if "dot_size" in o.vary:
            self.radius[index] = apart["dot_size"].uniform(1.5, 3.0)
        if "brightness" in o.vary:
            self._brightness[index] = apart["brightness"].uniform(0.6, 1.0)
        if "noise" in o.vary:
            self._noise[index] = apart["noise"].uniform(0.0, 12.0)
        if "gain" in o.vary:
            self.gain[index] = apart["gain"].uniform(0.5, 1.0)
        self.position[index] = self.free_position(index, rng)
        self._canvas[index] = self._background(index)

    def free_position(self, index: int, rng: np.random.Generator, side: int | None = None) -> Array:
        """(2,) a random free position in either room, or in the left (0) or right (1) one."""
        r = self.radius[index]
        low, high = BORDER + r, SIZE - BORDER - r
        left, right = self.layout[index, 0] - WALL / 2 - r, self.layout[index, 0] + WALL / 2 + r
        if side is None:
            side = int(rng.uniform() * (left - low + high - right) > left - low)
        x = rng.uniform(low, left) if side == 0 else rng.uniform(right, high)
        return np.array([x, rng.uniform(low, high)])

    def step(self, actions: Array) -> None:
        """Move every dot by its action (n, 2) px times the gain, stopping at walls."""
        move = actions * self.gain[:, None]
        r = self.radius
        low, high = BORDER + r, SIZE - BORDER - r
        left, right = self.layout[:, 0] - WALL / 2 - r, self.layout[:, 0] + WALL / 2 + r
        top, bottom = self.layout[:, 1] - DOOR / 2 + r, self.layout[:, 1] + DOOR / 2 - r
        x, y = self.position.T
        in_door = (y >= top) & (y <= bottom)
        free = np.clip(x + move[:, 0], low, high)
        stopped = np.where(x <= left, np.minimum(free, left), np.where(x >= right, np.maximum(free, right), free))
        x = np.where(in_door, free, stopped)
        inside = (x > left) & (x < right)
        y = np.clip(y + move[:, 1], np.where(inside, top, low), np.where(inside, bottom, high))
        self.position = np.stack([x, y], axis=1)

    def render(self, rngs: Sequence[np.random.Generator] = ()) -> NDArray[np.uint8]:
        """(n, 64, 64, 3) what the camera sees; `rngs`, one per room, draw the sensor noise where there is any."""
        frames = self._canvas.copy()
        n = len(frames)
        draw_dots(frames, self.position, self.radius, np.minimum(self._colours[:, 0] * self._brightness[:, None], 255))
        if self._noise.max() > 0:
            if len(rngs) != n:
                raise ValueError(f"rooms with sensor noise need one generator each to render, got {len(rngs)} for {n}")
            for frame, rng, spread in zip(frames, rngs, self._noise, strict=True):
                noise = rng.standard_normal(frame.shape, dtype=np.float32) * np.float32(spread)
                frame[:] = np.clip(np.rint(frame + noise), 0, 255)
        return frames

    def truth(self) -> dict[str, Array]:
        """The spec's quantities now, (n, 2) each."""
        return {"position": self.position.copy(), "layout": self.layout.copy()}

    def _background(self, index: int) -> NDArray[np.uint8]:
        _, wall, ground = self._colours[index]
        x, y = self.layout[index]
        column = _cover(x - WALL / 2, x + WALL / 2)
        door = _cover(y - DOOR / 2, y + DOOR / 2)
        edge = 1 - _cover(BORDER, SIZE - BORDER)
        alpha = np.maximum(column[None, :] * (1 - door[:, None]), np.maximum(edge[None, :], edge[:, None]))
        picture = (ground + alpha[..., None] * (wall - ground)) * self._brightness[index]
        return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)


def draw_dots(frames: NDArray[np.uint8], position: Array, radius: Array, colour: Array) -> None:
    """Paint a dot into each of (n, 64, 64, 3) frames, in place: position (n, 2) px, radius (n,) px, colour (n, 3)."""
    reach = int(np.ceil(radius.max() + 1))
    offset = np.arange(-reach, reach + 1)
    corner = np.floor(position).astype(np.int64)
    cols = np.clip(corner[:, :1] + offset, 0, SIZE - 1)
    rows = np.clip(corner[:, 1:] + offset, 0, SIZE - 1)
    dx = cols + 0.5 - position[:, :1]
    dy = rows + 0.5 - position[:, 1:]
    distance = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2)
    alpha = np.clip(radius[:, None, None] + 0.5 - distance, 0.0, 1.0)[..., None]
    at = (np.arange(len(frames))[:, None, None] * SIZE + rows[:, :, None]) * SIZE + cols[:, None, :]
    flat = frames.reshape(-1, 3)
    under = flat[at]
    flat[at] = np.rint(under + alpha * (colour[:, None, None, :] - under)).astype(np.uint8)


def _number(value: object, *, whole: bool) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)


def _cover(low: float, high: float) -> Array:
    """(64,) the share of each pixel between low and high."""
    edges = np.arange(SIZE, dtype=float)
    return np.asarray(np.clip(np.minimum(edges + 1, high) - np.maximum(edges, low), 0.0, 1.0))


def _distinct_colours(rng: np.random.Generator) -> Array:
    """(3, 3) dot, wall and ground colours at least 120 apart from each other."""
    while True:
        colours = rng.uniform(0, 255, (3, 3))
        gaps = [np.linalg.norm(colours[i] - colours[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        if min(gaps) >= 120:
            return colours


def shortest_steps(start: Array, goal: Array, layout: Array, radius: Any, step: Any) -> NDArray[np.int64]:
    """(n,) fewest steps from start to goal (n, 2) px in the rooms, moves bounded by `step` along each axis.

    radius of the dots and step: of all rooms, or (n,) of each.
    In each convex piece (room, doorway, room) the fewest steps are the larger of the two axes'
    distances; the crossing points are searched on a grid of the doorway. One step too many at most:
    the step that leaves the doorway may turn already.
    """
    radius = np.broadcast_to(np.asarray(radius, float), (len(start),))
    left, right = layout[:, 0] - WALL / 2 - radius, layout[:, 0] + WALL / 2 + radius
    half = DOOR / 2 - radius
    grid = layout[:, 1, None] + half[:, None] * np.linspace(-1, 1, 33)
    near = np.where((start[:, 0] < layout[:, 0])[:, None], left[:, None], right[:, None])
    far = np.where((goal[:, 0] < layout[:, 0])[:, None], left[:, None], right[:, None])

    def gap(dx: Array, dy: Array) -> Array:
        return np.asarray(np.maximum(np.abs(dx), np.abs(dy)))

    first = gap(near - start[:, :1], grid - start[:, 1:])
    last = gap(far - goal[:, :1], grid - goal[:, 1:])
    middle = gap((far - near)[:, :, None], grid[:, :, None] - grid[:, None, :])
    through = (first[:, :, None] + middle + last[:, None, :]).min((1, 2))
    same = (start[:, 0] < layout[:, 0]) == (goal[:, 0] < layout[:, 0])
    direct = gap(goal[:, 0] - start[:, 0], goal[:, 1] - start[:, 1])
    return np.asarray(np.ceil(np.where(same, direct, through) / step - 1e-9), np.int64)
