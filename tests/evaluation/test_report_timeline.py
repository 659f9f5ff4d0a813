"""Timelines: values where they belong, events in words, labels that do not lie on each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from foretell.evaluation.report import Lane, Mark, Report, Section, Timeline, Trace, write_report
from foretell.evaluation.report_timeline import LEFT, RIGHT, TALL, WIDTH, timeline
from tests.evaluation.test_report import Page

HOURS = np.arange(289) / 12


def day(*marks: Mark, nasty: str = "") -> Timeline:
    level = 120 + 60 * np.sin(HOURS)
    doses = np.where(np.arange(289) % 96 == 30, 6.0, 0.0)
    return Timeline(
        title=f"A day{nasty}",
        lanes=[
            Lane(
                label=f"level (mg/dL){nasty}",
                shaded=(70, 180),
                traces=[
                    Trace(name="readings", x=HOURS, y=np.where(HOURS > 20, np.nan, level), draw="dots", colour="ink"),
                    Trace(name=f"forecast{nasty}", x=HOURS, y=level, low=level - 9, high=level + 9),
                ],
            ),
            Lane(label="dose (U)", height=0.3, traces=[Trace(name="dose", x=HOURS, y=doses, draw="bars")]),
            Lane(label="rate", height=0.3, traces=[Trace(name="rate", x=[0, 2, 4, 24], y=[1, 0, 2, 2], draw="steps")]),
        ],
        marks=marks,
        span=(0, 24),
        every=3,
        clock=True,
    )


def page(panel: Timeline, path: Path) -> str:
    write_report(Report(title="t", sections=[Section(title="s", panels=[panel])]), path)
    Page(path.read_text())
    return path.read_text()


def test_a_day_is_drawn_and_told_in_words(tmp_path: Path) -> None:
    source = page(day(Mark(x=12.5, label="meal untold"), Mark(x=13, label="surprise", alarm=True)), tmp_path / "r.html")
    assert '<article class="panel wide"><h3>A day</h3>' in source
    (words,) = re.findall(r'timeline broad"[^>]*aria-label="([^"]*)"', source)
    assert "level (mg/dL): readings 60 to 180" in words
    assert words.endswith("12:30: meal untold. 13:00: surprise.")
    assert source.count('<circle class="dots ink"') == int((HOURS <= 20).sum())
    assert source.count('<rect class="bars model"') == 3
    assert source.count('<polygon class="band model"') == 1
    assert source.count('<line class="mark alarm"') == 2
    for hour in range(0, 25, 3):
        assert f">{hour:02d}:00</text>" in source


def test_values_stand_where_they_belong() -> None:
    found = timeline(day())
    ends = LEFT, WIDTH - RIGHT
    data = json.loads(found.split('<script type="application/json">')[1].split("</script>")[0])
    readings, forecast, dose, _ = data["curves"]
    assert (forecast["px"][0], forecast["px"][-1]) == ends
    assert dose["y"] == [6.0] * 3
    high, low = min(forecast["py"]), max(forecast["py"])
    assert data["box"][1] < high < low < data["box"][1] + TALL + 20
    assert readings["y"][-1] is None
    # A rate holds until the next: across, then up or down.
    (steps,) = re.findall(r'<polyline class="line thin model" points="([^"]*)"', found)
    corners = [tuple(map(float, p.split(","))) for p in steps.split(" ")]
    assert [x for x, _ in corners] == pytest.approx(
        np.interp([0, 2, 2, 4, 4, 24, 24], [0, 24], ends)[: len(corners)], abs=0.1
    )
    assert len({y for _, y in corners[:2]}) == 1
    assert min(y for _, y in corners) > low


def test_labels_of_what_happened_do_not_lie_on_each_other_or_leave_the_page() -> None:
    marks = [Mark(x=x, label="something that takes words") for x in (1.0, 1.5, 2.0, 23.5)]
    found = timeline(day(*marks))
    texts = re.findall(r'<text class="mark" x="([\d.]+)" y="(\d+)" text-anchor="(\w+)"', found)
    rows = [int(y) for _, y, _ in texts]
    assert len(set(rows[:3])) == 3
    assert rows[3] == rows[0]
    assert [side for *_, side in texts] == ["start"] * 3 + ["end"]


def test_names_are_escaped_and_nothing_is_a_figure_too(tmp_path: Path) -> None:
    source = page(day(Mark(x=1, label="<b>&"), nasty='</script>"<i>'), tmp_path / "r.html")
    assert "<b>" not in source
    assert "<i>" not in source.split("<body>")[1].replace("<i></i>", "")
    empty = Timeline(title="e", lanes=[Lane(label="l", traces=[Trace(name="n", x=[], y=[])])])
    assert "No values were recorded." in page(empty, tmp_path / "e.html")
    missing = Timeline(title="e", lanes=[Lane(label="l", log=True, traces=[Trace(name="n", x=[0, 1], y=[np.nan] * 2)])])
    assert "no values" in page(missing, tmp_path / "m.html")


def test_timelines_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="lane l: at least one trace"):
        Lane(label="l", traces=[])
    with pytest.raises(ValueError, match="timeline t: at least one lane"):
        Timeline(title="t", lanes=[])
    with pytest.raises(ValueError, match="ticks more than 0 apart"):
        Timeline(title="t", every=0, lanes=day().lanes)
