"""Charts of a report as inline SVG and HTML: lines with bands, histograms, estimates with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import TypeVar

import numpy as np

from foretell.evaluation.report_parts import Array, Chart, Comparison, Curve, Estimate, Histogram, format_value

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 44
MOST_POINTS = 400
C = TypeVar("C", bound=Curve)


class Scale:
    """From values to positions on a page, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, stop: float, log: bool = False) -> None:
        self.log = log
        self.low, self.high = (math.log10(low), math.log10(high)) if log else (low, high)
        self.start, self.stop = start, stop

    def __call__(self, values: Array | float) -> Array:
        """Positions of values, same shape."""
        raw = np.asarray(values, dtype=np.float64)
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                raw = np.log10(raw)
        share = (raw - self.low) / (self.high - self.low)
        return np.asarray(self.start + share * (self.stop - self.start))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high], at most `most` + 1, at steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high]; twos and fives too where there are few, at most seven in all."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [k * 10.0**e for e in exponents for k in factors]
        found = [v for v in found if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        if len(found) <= 7:
            return found
    return found[:: math.ceil(len(found) / 7)]


def tick_label(value: float) -> str:
    """A short label: 2,500, but 25k rather than 25,000."""
    if abs(value) >= 1e9 or (value and abs(value) < 1e-4):
        return f"{value:.3g}"
    for size, suffix in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if suffix == 'k' else size):g}{suffix}"
    return f"{value:,.10g}"


def chart(panel: Chart) -> str:
    """The chart as a figure: legend, SVG, and the numbers that its pointer read-out shows."""
    curves = [thinned(c) for c in panel.curves]
    names = _class_names([c.role for c in curves])
    xs = finite([c.xs for c in curves])
    ys = finite([v for c in curves for v in (c.ys, *(c.band or ()))])
    if panel.log:
        ys = ys[ys > 0]
    if not len(xs) or not len(ys):
        return '<p class="empty">No values were recorded.</p>'
    low, high = limits(ys, panel.log, panel.from_zero)
    across = Scale(
        float(xs.min()), float(xs.max()) if xs.max() > xs.min() else float(xs.min()) + 1, LEFT, WIDTH - RIGHT
    )
    up = Scale(low, high, HEIGHT - BOTTOM, TOP, panel.log)
    parts = [_axes(across, up, panel.x_label, panel.y_label)]
    parts += [band(c, name, across, up) for c, name in zip(curves, names, strict=True)]
    parts += [line(c, name, across, up) for c, name in zip(curves, names, strict=True)]
    numbers = {
        "box": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
        "x": panel.x_label,
        "curves": [
            {
                "name": c.name,
                "style": name,
                "x": numbers_of(c.xs),
                "y": numbers_of(c.ys),
                "band": None if c.band is None else [numbers_of(b) for b in c.band],
                "px": numbers_of(across(c.xs), 1),
                "py": numbers_of(up(c.ys), 1),
            }
            for c, name in zip(curves, names, strict=True)
        ],
    }
    keys = "".join(
        f'<span class="key {name}"><i></i>{escape(c.name)}</span>' for c, name in zip(curves, names, strict=True)
    )
    return (
        f'<div class="legend">{keys}</div><div class="plot">{_svg(panel.title, parts)}'
        f'<script type="application/json">{embedded_json(numbers)}</script></div>'
    )


def histogram(panel: Histogram) -> str:
    """Bars of counts, with the median and the 95th percentile marked."""
    values = finite([np.asarray(panel.values, dtype=np.float64)])
    if not len(values):
        return '<p class="empty">No values were recorded.</p>'
    spread = float(values.max() - values.min())
    edges = np.histogram_bin_edges(values, bins=min(40, max(8, round(math.sqrt(len(values)) * 1.5))))
    counts, edges = np.histogram(values, bins=edges if spread > 0 else 1)
    across = Scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    up = Scale(0, float(counts.max()) * 1.18, HEIGHT - BOTTOM, TOP)
    parts = [_axes(across, up, panel.x_label, "count")]
    for count, left, right in zip(counts, across(edges[:-1]), across(edges[1:]), strict=True):
        top = float(up(float(count)))
        parts.append(
            f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}"'
            f' height="{HEIGHT - BOTTOM - top:.1f}"/>'
        )
    for share, name, row in ((0.5, "median", 0), (0.95, "95%", 1)):
        value = float(np.quantile(values, share))
        x = float(across(value))
        side = ("end", -5) if x > WIDTH * 0.62 else ("start", 5)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="mark" x="{x + side[1]:.1f}" y="{TOP + 11 + 16 * row}" text-anchor="{side[0]}">'
            f"{name} {escape(format_value(value, panel.unit))}</text>"
        )
    return f'<div class="plot">{_svg(panel.title, parts)}</div>'


def comparison(panel: Comparison) -> str:
    """One row an estimate: its name, a dot with its interval on a common scale, and the figures."""
    ends = [v for e in panel.estimates for v in (e.value, *(e.interval or ())) if math.isfinite(v)]
    low, high = panel.limits or (min(0.0, *ends, 0.0), max(*ends, 0.0) * 1.05 or 1.0)
    across = Scale(low, high, 0, 100)
    marks = ticks(low, high, 4)
    lines = "".join(f'<i class="tick" style="left:{float(across(m)):.2f}%"></i>' for m in marks)
    rows = [_estimate(e, panel.unit, across, lines) for e in panel.estimates]
    scale = "".join(
        f'<span style="left:{float(across(m)):.2f}%">{escape(format_value(m, panel.unit))}</span>' for m in marks
    )
    return f'<div class="estimates">{"".join(rows)}<div></div><div class="scale">{scale}</div><div></div></div>'


def embedded_json(data: object) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _estimate(estimate: Estimate, unit: str, across: Scale, lines: str) -> str:
    style = "model" if estimate.role == "model" else "baseline"
    interval, words = "", ""
    if estimate.interval is not None:
        left, right = (float(np.clip(across(v), 0, 100)) for v in estimate.interval)
        interval = f'<i class="interval" style="left:{left:.2f}%;width:{right - left:.2f}%"></i>'
        words = " to ".join(format_value(v, unit) for v in estimate.interval)
    x = float(np.clip(across(estimate.value), 0, 100)) if math.isfinite(estimate.value) else 0.0
    return (
        f'<div class="name {style}">{escape(estimate.name)}</div>'
        f'<div class="track {style}">{lines}{interval}<i class="dot" style="left:{x:.2f}%"></i></div>'
        f'<div class="figures {style}"><b>{escape(format_value(estimate.value, unit))}</b>'
        f"<span>{escape(words)}</span></div>"
    )


def thinned(curve: C) -> C:
    """The same curve with at most MOST_POINTS points, first and last kept."""
    if len(curve.xs) <= MOST_POINTS:
        return curve
    keep = np.linspace(0, len(curve.xs) - 1, MOST_POINTS).round().astype(np.int64)
    low, high = curve.band or (None, None)
    return replace(
        curve,
        x=curve.xs[keep],
        y=curve.ys[keep],
        low=None if low is None else low[keep],
        high=None if high is None else high[keep],
    )


def _class_names(roles: Sequence[str]) -> list[str]:
    """A style for each curve: baselines share one; the model's first is the accent, all else gets colours in turn."""
    names, used = [], 0
    for role in roles:
        if role == "baseline":
            names.append("baseline")
        elif role == "model" and "model" not in names:
            names.append("model")
        else:
            names.append(f"other{used % 4}")
            used += 1
    return names


def finite(arrays: Sequence[Array]) -> Array:
    """Those of the values of some arrays that are finite, (n,)."""
    values = np.concatenate([a.reshape(-1) for a in arrays]) if arrays else np.empty(0)
    return np.asarray(values[np.isfinite(values)])


def limits(ys: Array, log: bool, from_zero: bool) -> tuple[float, float]:
    """Ends of an axis that values fit on with some room."""
    low, high = float(ys.min()), float(ys.max())
    if log:
        return (low / 1.1, high * 1.1) if high > low * 1.01 else (low / 2, high * 2)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (0.0 if from_zero and low >= 0 else low - room), high + room


def _axes(across: Scale, up: Scale, x_label: str, y_label: str) -> str:
    bottom = HEIGHT - BOTTOM
    rows = log_ticks(10**up.low, 10**up.high) if up.log else ticks(up.low, up.high)
    parts = []
    for value in rows:
        y = float(up(value))
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick_label(value)}</text>'
        )
    for value in ticks(across.low, across.high, 6):
        x = float(across(value))
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick_label(value)}</text>')
    middle = (TOP + bottom) / 2
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 7}" text-anchor="middle">{escape(x_label)}'
        f'</text><text class="label" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def runs(*rows: Array) -> list[slice]:
    """Stretches in which every row is finite."""
    good = np.isfinite(np.stack(rows)).all(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def points(x: Array, y: Array) -> str:
    """The points of an SVG polyline."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def line(curve: Curve, name: str, across: Scale, up: Scale) -> str:
    """A curve as SVG, in pieces where it has gaps; `name`: its style."""
    x, y = across(curve.xs), up(curve.ys)
    parts = []
    for run in runs(x, y):
        if run.stop - run.start == 1:
            parts.append(f'<circle class="line {name}" cx="{x[run][0]:.1f}" cy="{y[run][0]:.1f}" r="2.5"/>')
        else:
            parts.append(f'<polyline class="line {name}" points="{points(x[run], y[run])}"/>')
    return "".join(parts)


def band(curve: Curve, name: str, across: Scale, up: Scale) -> str:
    """The band around a curve as SVG."""
    if curve.band is None:
        return ""
    floor = 10**up.low if up.log else -math.inf
    x, low, high = across(curve.xs), up(np.maximum(curve.band[0], floor)), up(np.maximum(curve.band[1], floor))
    return "".join(
        f'<polygon class="band {name}" points="{points(x[run], low[run])} {points(x[run][::-1], high[run][::-1])}"/>'
        for run in runs(x, low, high)
    )


def numbers_of(values: Array, digits: int | None = None) -> list[float | None]:
    """Plain numbers for JSON, to four significant figures or `digits` decimals; None where not finite."""
    return [
        None if not math.isfinite(v) else round(v, digits) if digits is not None else float(f"{v:.4g}")
        for v in values.tolist()
    ]


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
