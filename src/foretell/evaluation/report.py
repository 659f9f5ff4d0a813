"""Reports: one self-contained HTML file that reads without a network, and the figures behind it as JSON."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from foretell import __version__
from foretell.errors import DataError
from foretell.evaluation.report_charts import chart, comparison, embedded_json, histogram
from foretell.evaluation.report_frames import encode_rollouts, episode_picture
from foretell.evaluation.report_parts import (
    Chart,
    Comparison,
    Curve,
    Estimate,
    Headline,
    Histogram,
    Lane,
    Mark,
    Panel,
    Report,
    Rollout,
    Rollouts,
    Section,
    Table,
    Timeline,
    Trace,
    format_value,
    rollouts_from_arrays,
)
from foretell.evaluation.report_timeline import timeline

__all__ = [
    "Chart",
    "Comparison",
    "Curve",
    "Estimate",
    "Headline",
    "Histogram",
    "Lane",
    "Mark",
    "Panel",
    "Report",
    "Rollout",
    "Rollouts",
    "Section",
    "Table",
    "Timeline",
    "Trace",
    "episode_picture",
    "format_value",
    "rollouts_from_arrays",
    "write_json",
    "write_report",
]

FRAMES_BUDGET = 3_300_000
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title} · foretell</title>
<style>
{style}</style>
</head>
<body>
{notice}<header><p class="brand">foretell</p><h1>{title}</h1>{summary}{command}</header>
{headlines}
<main>
{sections}
{facts}
</main>
<footer>Written by foretell {version} on {written}. This page loads nothing from elsewhere.</footer>
<noscript><p class="empty">The animations and the read-outs of the charts need JavaScript.</p></noscript>
<script>
{script}</script>
</body>
</html>
"""


def write_report(report: Report, path: Path) -> None:
    """Write the report as one HTML file below 4 MB, replacing `path` in one step; every text in it is escaped.

    Raises DataError where the folder cannot be written.
    """
    sets = [p for s in report.sections for p in s.panels if isinstance(p, Rollouts)]
    budget = FRAMES_BUDGET // max(1, len(sets))
    sources = files("foretell.evaluation")
    now = datetime.now(UTC)
    page = PAGE.format(
        policy=escape(POLICY),
        title=escape(report.title),
        style=sources.joinpath("report.css").read_text(encoding="utf-8"),
        script=sources.joinpath("report.js").read_text(encoding="utf-8"),
        notice=f'<p class="notice" role="note">{escape(report.notice)}</p>\n' if report.notice else "",
        summary=f'<p class="summary">{escape(report.summary)}</p>' if report.summary else "",
        command=f'<pre class="command"><code>{escape(report.command)}</code></pre>' if report.command else "",
        headlines=_headlines(report),
        sections="\n".join(_section(s, budget) for s in report.sections),
        facts=_facts(report.facts),
        version=escape(__version__),
        written=f"{now.day} {now:%B %Y, %H:%M} UTC",
    )
    _replace(path, page)


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write `data` as indented JSON, replacing `path` in one step; NaN and infinities become null.

    Raises DataError where the folder cannot be written.
    """
    _replace(path, json.dumps(_plain(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _replace(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def _headlines(report: Report) -> str:
    cards = "".join(
        f'<div class="headline"><p class="label">{escape(h.label)}</p><p class="value">{escape(h.value)}</p>'
        f'<p class="note">{escape(h.note)}</p></div>'
        for h in report.headlines
    )
    return f'<div class="headlines">{cards}</div>' if cards else ""


def _section(section: Section, budget: int) -> str:
    reading = f'<p class="reading">{escape(section.reading)}</p>' if section.reading else ""
    panels = "\n".join(_panel(p, budget) for p in section.panels)
    return f'<section><h2>{escape(section.title)}</h2>{reading}<div class="panels">\n{panels}\n</div></section>'


def _panel(panel: Panel, budget: int) -> str:
    match panel:
        case Chart():
            body = chart(panel)
        case Comparison():
            body = comparison(panel)
        case Histogram():
            body = histogram(panel)
        case Table():
            body = _table(panel)
        case Rollouts():
            body = _player(panel, budget)
        case Timeline():
            body = timeline(panel)
    wide = " wide" if isinstance(panel, Rollouts) or (isinstance(panel, Table | Timeline) and panel.wide) else ""
    reading = f'<p class="reading">{escape(panel.reading)}</p>' if panel.reading else ""
    return f'<article class="panel{wide}"><h3>{escape(panel.title)}</h3>{reading}{body}</article>'


def _table(panel: Table) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in panel.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in panel.rows)
    style = ' class="wordy"' if panel.wordy else ""
    return f'<div class="scroll"><table{style}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _player(panel: Rollouts, budget: int) -> str:
    data = {
        "rollouts": encode_rollouts(panel.rollouts, budget),
        "labels": panel.labels,
        "framesPerSecond": panel.frames_per_second,
    }
    return f'<div class="player"><script type="application/json">{embedded_json(data)}</script></div>'


def _facts(facts: Mapping[str, Mapping[str, Any]]) -> str:
    def group(name: str, values: Mapping[str, Any]) -> str:
        rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>" for k, v in values.items())
        return f'<div class="facts"><h3>{escape(name)}</h3><dl>{rows}</dl></div>'

    groups = "".join(group(name, values) for name, values in facts.items() if values)
    if not groups:
        return ""
    return f'<section><h2>How this was made</h2><div class="panels">{groups}</div></section>'
