"""A timeline of a report as inline SVG: lanes on one axis of time, and what happened, marked through all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from foretell.evaluation.report_charts import (
    Scale,
    band,
    embedded_json,
    finite,
    limits,
    line,
    log_ticks,
    numbers_of,
    runs,
    thinned,
    tick_label,
    ticks,
)
from foretell.evaluation.report_parts import Array, Lane, Timeline, Trace, format_value

WIDTH, NARROW, LEFT, RIGHT = 960, 480, 52, 14
TALL = 190
"""Height of a lane whose own is 1."""
_GAP, _TITLE, _BOTTOM, _ROW, _LETTER = 12, 18, 40, 15, 6.4


def timeline(panel: Timeline) -> str:
    """The timeline as a figure: legend, SVG with a description in words, the numbers that its read-out shows."""
    lanes = [[t if t.draw == "bars" else thinned(t) for t in lane.traces] for lane in panel.lanes]
    xs = finite([t.xs for traces in lanes for t in traces])
    if not len(xs):
        return '<p class="empty">No values were recorded.</p>'
    start, stop = panel.span or (float(xs.min()), max(float(xs.max()), float(xs.min()) + 1e-9))
    width = WIDTH if panel.wide else NARROW
    across = Scale(start, stop, LEFT, width - RIGHT)
    labels, top = _labels(panel, across)
    parts, curves, at = [], [], top
    for number, (lane, traces) in enumerate(zip(panel.lanes, lanes, strict=True)):
        low = at + _TITLE + TALL * lane.height
        up = _scale(lane, traces, at + _TITLE, low)
        parts += [f'<text class="lane" x="{LEFT}" y="{at + 12:.1f}">{escape(lane.label)}</text>']
        parts += _lane(lane, traces, across, up)
        curves += [_read_out(t, across, up) for t in traces]
        at = low + (_GAP if number < len(lanes) - 1 else 0)
    parts += _axis(panel, across, at)
    parts += labels
    parts += [
        f'<line class="mark{" alarm" * m.alarm}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{at:.1f}"/>'
        for m in panel.marks
        for x in [float(across(m.x))]
    ]
    told = {"box": [LEFT, top, width - RIGHT, at], "x": panel.x_label, "clock": panel.clock, "curves": curves}
    keys: dict[tuple[str, str], str] = {}
    for trace in (t for traces in lanes for t in traces):
        keys.setdefault((trace.name, trace.colour), f"{trace.draw} {trace.colour}")
    legend = "".join(f'<span class="key {key}"><i></i>{escape(name)}</span>' for (name, _), key in keys.items())
    return (
        f'<div class="legend">{legend}</div><div class="scroll"><div class="plot">'
        f'<svg class="chart timeline{" broad" * panel.wide}" viewBox="0 0 {width} {at + _BOTTOM:.0f}" role="img"'
        f' aria-label="{escape(described(panel))}">{"".join(parts)}</svg>'
        f'<script type="application/json">{embedded_json(told)}</script></div></div>'
    )


def described(panel: Timeline) -> str:
    """The timeline in words, for those who cannot see it: lanes, the ranges of their series, what happened when."""
    said = [panel.title + "."]
    for lane in panel.lanes:
        series = []
        for trace in lane.traces:
            ys = finite([trace.ys])
            ends = f" {format_value(float(ys.min()))} to {format_value(float(ys.max()))}" if len(ys) else " no values"
            series.append(trace.name + ends)
        said.append(f"{lane.label}: {', '.join(series)}.")
    said += [f"{_time(panel, m.x)}: {m.label}." for m in sorted(panel.marks, key=lambda m: m.x)]
    return " ".join(said)


def _time(panel: Timeline, x: float) -> str:
    if not panel.clock:
        return f"{tick_label(round(x, 6))} {panel.x_label}"
    minutes = round(x * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _labels(panel: Timeline, across: Scale) -> tuple[list[str], float]:
    """Texts of the marks, in as many rows as keep them from overlapping, and where the lanes begin below them."""
    ends: list[float] = []
    parts = []
    for mark in sorted(panel.marks, key=lambda m: m.x):
        x, wide = float(across(mark.x)), _LETTER * len(mark.label)
        right = x + wide > across.stop
        first = x - wide - 5 if right else x
        row = next((i for i, end in enumerate(ends) if end + 8 <= first), len(ends))
        ends[row : row + 1] = [first + wide + 5]
        parts.append((mark, x, row, right))
    top = 6 + _ROW * len(ends)
    texts = [
        f'<text class="mark{" alarm" * mark.alarm}" x="{x + (-4 if right else 4):.1f}" y="{_ROW * (row + 1) - 2}"'
        f' text-anchor="{"end" if right else "start"}">{escape(mark.label)}</text>'
        f'<line class="mark{" alarm" * mark.alarm}" x1="{x:.1f}" x2="{x:.1f}" y1="{_ROW * row + 3}" y2="{top}"/>'
        for mark, x, row, right in parts
    ]
    return texts, float(top)


def _scale(lane: Lane, traces: Sequence[Trace], top: float, bottom: float) -> Scale:
    ys = finite([v for t in traces for v in (t.ys, *(t.band or ()))])
    if lane.log:
        ys = ys[ys > 0]
    bars = any(t.draw in ("bars", "steps") for t in traces)
    if lane.limits is not None:
        low, high = lane.limits
    elif len(ys):
        low, high = limits(ys, lane.log, from_zero=bars)
    else:
        low, high = (0.1, 1.0) if lane.log else (0.0, 1.0)
    return Scale(low, high, bottom, top, lane.log)


def _lane(lane: Lane, traces: Sequence[Trace], across: Scale, up: Scale) -> Iterator[str]:
    top, bottom = up.stop, up.start
    if lane.shaded is not None:
        low, high = (float(np.clip(up(v), top, bottom)) for v in lane.shaded)
        place = f'y="{high:.1f}" height="{low - high:.1f}"'
        yield f'<rect class="shade" x="{LEFT}" width="{across.stop - LEFT:.0f}" {place}/>'
    few = max(2, round((bottom - top) / 40))
    for value in log_ticks(10**up.low, 10**up.high)[:: 1 if few > 2 else 2] if up.log else ticks(up.low, up.high, few):
        y = float(up(value))
        yield (
            f'<line class="grid" x1="{LEFT}" x2="{across.stop:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick_label(value)}</text>'
        )
    yield f'<line class="axis" x1="{LEFT}" x2="{across.stop:.0f}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>'
    yield from (band(t, t.colour, across, up) for t in traces)
    for trace in traces:
        yield from _drawn(trace, across, up)


def _drawn(trace: Trace, across: Scale, up: Scale) -> Iterator[str]:
    x, y = across(trace.xs), up(trace.ys)
    match trace.draw:
        case "line":
            yield line(trace, trace.colour, across, up)
        case "thin" | "dashed":
            yield line(trace, f"{trace.draw} {trace.colour}", across, up)
        case "dots":
            for a, b in zip(x, y, strict=True):
                if np.isfinite(a) and np.isfinite(b):
                    yield f'<circle class="dots {trace.colour}" cx="{a:.1f}" cy="{b:.1f}" r="1.8"/>'
        case "bars":
            for a, b, value in zip(x, y, trace.ys, strict=True):
                if np.isfinite(b) and value != 0:
                    tall = abs(up.start - b)
                    yield (
                        f'<rect class="bars {trace.colour}" x="{a - 2:.1f}" width="4" y="{min(b, up.start):.1f}"'
                        f' height="{tall:.1f}"/>'
                    )
        case "steps":
            for run in runs(x, y):
                corners = [f"{a:.1f},{b:.1f}" for a, b in zip(x[run].repeat(2)[1:], y[run].repeat(2)[:-1], strict=True)]
                yield f'<polyline class="line thin {trace.colour}" points="{" ".join(corners)}"/>'


def _axis(panel: Timeline, across: Scale, bottom: float) -> Iterator[str]:
    start, stop = across.low, across.high
    if panel.every is None:
        marks = ticks(start, stop, 12 if panel.wide else 6)
    else:
        marks = [k * panel.every for k in range(int(np.ceil(start / panel.every - 1e-9)), int(stop / panel.every) + 1)]
    for value in marks:
        x = float(across(value))
        side = "end" if x > across.stop - 8 and panel.clock else "middle"
        x += RIGHT * (side == "end")
        text = _time(panel, value) if panel.clock else tick_label(value)
        yield f'<text x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="{side}">{text}</text>'
    middle = (LEFT + across.stop) / 2
    yield (
        f'<text class="label" x="{middle}" y="{bottom + 34:.1f}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )


def _read_out(trace: Trace, across: Scale, up: Scale) -> dict[str, object]:
    """What the pointer shows of a series; of bars those alone that are there."""
    kept = trace.ys != 0 if trace.draw == "bars" else np.ones(len(trace.ys), np.bool_)

    def numbers(values: Array, digits: int | None = None) -> list[float | None]:
        return numbers_of(np.asarray(values)[kept], digits)

    return {
        "name": trace.name,
        "style": f"{trace.draw} {trace.colour}",
        "x": numbers(trace.xs),
        "y": numbers(trace.ys),
        "band": None if trace.band is None else [numbers(b) for b in trace.band],
        "px": numbers(across(trace.xs), 1),
        "py": numbers(up(trace.ys), 1),
    }
