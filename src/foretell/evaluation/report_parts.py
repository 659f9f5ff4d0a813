"""What a report is made of: headlines and panels as plain data, for any world."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Role = Literal["model", "baseline", "other"]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One figure at the top of the page, ready to print, and the words under it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; `low` and `high`, where given, are drawn as a band around it.

    x, y, low, high: (N,) numbers; a y that is not finite leaves a gap.
    role: `model` is drawn in the accent colour, `baseline` grey and dashed, `other` in a colour of its own.
    Raises ValueError where the lengths differ.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    role: Role = "model"

    def __post_init__(self) -> None:
        for part in ("x", "y", "low", "high"):
            values = getattr(self, part)
            if values is not None:
                object.__setattr__(self, part, np.asarray(values, dtype=np.float64))
        if (self.low is None) != (self.high is None):
            raise ValueError(f"curve {self.name}: low and high come together")
        for part in ("y", "low", "high"):
            values = getattr(self, part)
            if values is not None and values.shape != (len(self.xs),):
                raise ValueError(f"curve {self.name}: {part} of shape {(len(self.xs),)} expected, got {values.shape}")

    @property
    def xs(self) -> Array:
        """x as an array, (N,)."""
        return np.asarray(self.x, dtype=np.float64)

    @property
    def ys(self) -> Array:
        """y as an array, (N,)."""
        return np.asarray(self.y, dtype=np.float64)

    @property
    def band(self) -> tuple[Array, Array] | None:
        """low and high as arrays, (N,) each."""
        if self.low is None or self.high is None:
            return None
        return np.asarray(self.low, dtype=np.float64), np.asarray(self.high, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over one pair of axes. `reading` says in plain words what a good and a bad chart look like."""

    title: str
    curves: Sequence[Curve]
    x_label: str
    y_label: str
    reading: str = ""
    log: bool = False
    from_zero: bool = True


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One measured value with its interval, (low, high) or None where there is none."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    role: Role = "model"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Estimates of the same quantity under each other, on one scale.

    unit: "share" prints 0.98 as 98%; anything else stands behind the number.
    limits: the ends of the scale; None fits them to the values.
    """

    title: str
    estimates: Sequence[Estimate]
    unit: str
    reading: str = ""
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.estimates:
            raise ValueError(f"comparison {self.title}: at least one estimate expected")
        if self.unit == "share" and self.limits is None:
            object.__setattr__(self, "limits", (0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How often each value came, with its median and 95th percentile marked. values: (N,)."""

    title: str
    values: ArrayLike
    x_label: str
    unit: str = ""
    reading: str = ""


_WORDY, _BROAD, _BETWEEN = 40, 60, 3
"""Letters beyond which a table's cell is more than a figure or a name, those of a row that half a page holds, and those
that go between two columns."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under column names; the first column is left-aligned, the rest right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    reading: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title}: {len(self.columns)} cells a row expected, got {len(row)}")

    @property
    def wordy(self) -> bool:
        """Whether its cells hold sentences, which take the whole width of a page."""
        return any(len(cell) > _WORDY for row in self.rows for cell in row)

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of a page."""
        columns = zip(self.columns, *self.rows, strict=True)
        return self.wordy or sum(max(map(len, column)) + _BETWEEN for column in columns) > _BROAD


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One episode as it happened, beside what the model imagined.

    frames: (T, H, W, 3) uint8, what the camera saw.
    imagined: (T, H, W, 3) uint8, what the model expected to see at that step, or None.
    goal: (H, W, 3) uint8, or None.
    path: (T, 2) positions x, y in pixels from the top left corner of the frame, drawn as a trail, or None.
    plans: (T, K, 2) positions, likewise, imagined ahead at each step, drawn as a dotted line; NaN where there are none.
    reached: whether the goal was reached; None where there was none to reach.
    Raises ValueError where shapes or types do not fit.
    """

    frames: NDArray[np.uint8]
    imagined: NDArray[np.uint8] | None = None
    goal: NDArray[np.uint8] | None = None
    path: ArrayLike | None = None
    plans: ArrayLike | None = None
    caption: str = ""
    reached: bool | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.frames)
        if len(shape) != 4 or shape[0] < 1 or shape[3] != 3:
            raise ValueError(f"rollout {self.caption!r}: frames of shape (T, H, W, 3) expected, got {shape}")
        for part, expected in (("frames", shape), ("imagined", shape), ("goal", shape[1:])):
            value = getattr(self, part)
            if value is not None and (value.shape != expected or value.dtype != np.uint8):
                raise ValueError(
                    f"rollout {self.caption!r}: {part} of shape {expected} uint8 expected,"
                    f" got {value.shape} {value.dtype}"
                )
        for part, dimensions in (("path", 2), ("plans", 3)):
            if getattr(self, part) is None:
                continue
            value = np.asarray(getattr(self, part), dtype=np.float64)
            if value.ndim != dimensions or value.shape[0] != shape[0] or value.shape[-1] != 2:
                raise ValueError(
                    f"rollout {self.caption!r}: {part} with {shape[0]} steps and 2 coordinates expected,"
                    f" got {value.shape}"
                )
            object.__setattr__(self, part, value)


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Episodes that play side by side. `labels` stand under the three pictures of each."""

    title: str
    rollouts: Sequence[Rollout]
    reading: str = ""
    labels: tuple[str, str, str] = ("happened", "imagined", "goal")
    frames_per_second: float = 8.0

    def __post_init__(self) -> None:
        if not self.rollouts:
            raise ValueError(f"rollouts {self.title}: at least one rollout expected")
        if not 0 < self.frames_per_second <= 60:
            raise ValueError(f"rollouts {self.title}: 0 to 60 frames per second, got {self.frames_per_second}")


Draw = Literal["line", "thin", "dashed", "dots", "bars", "steps"]
Colour = Literal["model", "baseline", "other0", "other1", "other2", "other3", "ink"]


@dataclass(frozen=True, kw_only=True)
class Trace(Curve):
    """One series of a lane.

    draw: a line, a thin or dashed one, dots, bars from zero, or steps that hold until the next value. colour: named as
    in the page's style; traces of one colour belong together. Bars of height 0 are not drawn.
    """

    draw: Draw = "line"
    colour: Colour = "model"


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Series over each other on a scale of their own. label: what it shows, with its unit.

    shaded: (low, high) of a range to aim at. height: how tall it is beside the others. limits: the ends of the scale;
    None fits them to the values. log: on a logarithmic scale.
    """

    label: str
    traces: Sequence[Trace]
    shaded: tuple[float, float] | None = None
    height: float = 1.0
    limits: tuple[float, float] | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not self.traces:
            raise ValueError(f"lane {self.label}: at least one trace expected")
        if not self.height > 0:
            raise ValueError(f"lane {self.label}: a height above 0 expected, got {self.height}")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at x, drawn through all lanes. alarm: whether it asks for attention."""

    x: float
    label: str
    alarm: bool = False


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Lanes under each other on one axis of time, for a day of a patient or a shift of a machine.

    span: the ends of the axis; None fits them to the values. every: distance between its ticks; None chooses.
    clock: x are hours of the day, written 06:00. wide: over the whole page, else as wide as a chart.
    """

    title: str
    lanes: Sequence[Lane]
    marks: Sequence[Mark] = ()
    x_label: str = "hours"
    span: tuple[float, float] | None = None
    every: float | None = None
    clock: bool = False
    wide: bool = True
    reading: str = ""

    def __post_init__(self) -> None:
        if not self.lanes:
            raise ValueError(f"timeline {self.title}: at least one lane expected")
        if self.every is not None and not self.every > 0:
            raise ValueError(f"timeline {self.title}: ticks more than 0 apart expected, got {self.every}")


Panel = Chart | Comparison | Histogram | Table | Rollouts | Timeline


@dataclass(frozen=True, kw_only=True)
class Section:
    """Panels that belong together, under one heading."""

    title: str
    panels: Sequence[Panel]
    reading: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One page. facts: by group (machine, run, versions, settings), a name and a value each. notice: stands above all
    else, "" for nothing.
    """

    title: str
    sections: Sequence[Section]
    summary: str = ""
    headlines: Sequence[Headline] = ()
    command: str = ""
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notice: str = ""


def rollouts_from_arrays(
    frames: NDArray[np.uint8],
    *,
    goals: NDArray[np.uint8] | None = None,
    imagined: NDArray[np.uint8] | None = None,
    paths: ArrayLike | None = None,
    plans: ArrayLike | None = None,
    lengths: Sequence[int] | None = None,
    reached: Sequence[bool] | None = None,
    captions: Sequence[str] | None = None,
) -> tuple[Rollout, ...]:
    """E rollouts from stacked arrays.

    frames, imagined: (E, T, H, W, 3) uint8. goals: (E, H, W, 3) uint8. paths: (E, T, 2). plans: (E, T, K, 2).
    lengths: steps of each episode, at most T; what lies behind them is dropped.
    """
    found = []
    for i, episode in enumerate(frames):
        stop = len(episode) if lengths is None else int(lengths[i])
        found.append(
            Rollout(
                frames=episode[:stop],
                imagined=None if imagined is None else imagined[i, :stop],
                goal=None if goals is None else goals[i],
                path=None if paths is None else np.asarray(paths)[i, :stop],
                plans=None if plans is None else np.asarray(plans)[i, :stop],
                caption=f"Episode {i + 1}" if captions is None else captions[i],
                reached=None if reached is None else bool(reached[i]),
            )
        )
    return tuple(found)


def format_value(value: float, unit: str = "") -> str:
    """A value with three significant figures and its unit; shares as whole or tenth percents."""
    if not math.isfinite(value):
        return "none"
    if unit == "share":
        percent = 100 * value
        return f"{percent:.0f}%" if abs(percent - round(percent)) < 0.05 else f"{percent:.1f}%"
    if value == 0:
        text = "0"
    elif 1e-3 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.2e}"
    return f"{text} {unit}".rstrip()
