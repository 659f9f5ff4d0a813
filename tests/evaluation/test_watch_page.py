"""The page of a watched store: what is shown is what was found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.evaluation.report_parts import Chart, Comparison, Report, Rollouts, Section, Table
from foretell.evaluation.trust import is_event, verdicts_of
from foretell.evaluation.watch_page import Watched, watch_report
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.calibration import Calibration, calibrate, fit
from foretell.trust.monitor import Monitor
from tests.trust.samples import episodes, jumped, model, seen


@pytest.fixture(scope="module")
def made() -> tuple[WorldModel, Calibration]:
    world = model()
    fitted = fit(world, seen(world, episodes(40, seed=1)), seed=0, steps=200)
    return world, calibrate(fitted, world, seen(world, episodes(210, seed=2)), seed=0)


def page(made: tuple[WorldModel, Calibration], *several: Episode) -> Report:
    world, calibration = made
    monitor = Monitor(world, calibration, level=0.2)
    shown = [Watched(i, e, list(verdicts_of(monitor, e))) for i, e in enumerate(several)]
    events = [
        {"episode": w.number, **v.to_json()}
        for w in shown
        for v, before in zip(w.verdicts, (None, *w.verdicts[:-1]), strict=True)
        if is_event(v, before)
    ]
    result = {
        "run": "runs/a",
        "store": "data/b",
        "level": 0.2,
        "episodes": len(shown),
        "steps": sum(len(w.verdicts) for w in shown),
        "alarmed": sum(w.alarm is not None for w in shown),
        "events": events,
    }
    return watch_report(world, calibration, result, [w for w in shown if w.alarm], command="foretell watch")


def panel(section: Section, kind: type) -> object:
    return next(p for p in section.panels if isinstance(p, kind))


def test_a_jump_is_shown_where_it_was(made: tuple[WorldModel, Calibration]) -> None:
    report = page(made, jumped(next(episodes(1, seed=5)), 10, 9.0))
    events, episode = report.sections
    table, chart = panel(events, Table), panel(episode, Chart)
    assert isinstance(table, Table)
    assert isinstance(chart, Chart)
    step = int(table.rows[0][1])
    assert step in (10, 11, 12)
    surprise = chart.curves[0]
    assert np.isnan(surprise.ys).tolist() == [t == 0 for t in range(len(surprise.ys))]
    assert np.nanargmin(surprise.ys) in (10, 11, 12)
    shares = panel(episode, Comparison)
    assert isinstance(shares, Comparison)
    assert {e.name for e in shares.estimates} == {"camera", "place x", "place y"}
    assert sum(e.value for e in shares.estimates if e.name.startswith("place ")) > 0.5
    assert sum(e.value for e in shares.estimates) == pytest.approx(1.0, abs=0.03)


def test_a_spot_is_shown_by_its_heat(made: tuple[WorldModel, Calibration]) -> None:
    ordinary = next(episodes(1, seed=6))
    camera = ordinary.observations["camera"].copy()
    camera[8:, 11:14, 2:5] = (255, 0, 255)
    spotted = replace(ordinary, observations={**ordinary.observations, "camera": camera})
    found = panel(page(made, spotted).sections[1], Rollouts)
    assert isinstance(found, Rollouts)
    (shown,) = found.rollouts
    assert shown.imagined is not None
    # Where the picture is tinted, red exceeds blue.
    tint = shown.imagined[-1, ..., 0].astype(int) - shown.imagined[-1, ..., 2]
    row, column = np.unravel_index(int(tint.argmax()), tint.shape)
    assert abs(row - 12) <= 3
    assert abs(column - 3) <= 3


def test_nothing_to_show_is_a_page_too(made: tuple[WorldModel, Calibration]) -> None:
    report = page(made)
    assert [h.value for h in report.headlines] == ["0 of 0", "0"]
    assert report.sections == []
