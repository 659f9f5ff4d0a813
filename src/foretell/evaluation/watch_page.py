"""The report of a watched store: p-values over time, events, and what the alarms depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation.machine import describe_machine, describe_versions
from foretell.evaluation.report_parts import (
    Chart,
    Comparison,
    Curve,
    Estimate,
    Headline,
    Panel,
    Report,
    Rollout,
    Rollouts,
    Section,
    Table,
)
from foretell.evaluation.trust import why
from foretell.model.world_model import WorldModel
from foretell.spec import Episode, Spec
from foretell.trust.attribution import Attribution, attribute_novelty, attribute_surprise
from foretell.trust.calibration import Calibration, Seen, see
from foretell.trust.monitor import Verdict

PAGES = 8
"""Alarmed episodes that are shown step by step."""
ROWS = 200
"""Events that are listed, at most."""
_FEWEST = 0.01
"""Share of an attribution from which a field is named."""
_TINT = np.array([255.0, 60.0, 0.0])


@dataclass(frozen=True)
class Watched:
    """An episode and the verdict after each of its steps."""

    number: int
    episode: Episode
    verdicts: Sequence[Verdict]

    @property
    def alarm(self) -> Verdict | None:
        """The verdict that alarmed, if one did."""
        return next((v for v in self.verdicts if v.alarm), None)


def watch_report(
    model: WorldModel, calibration: Calibration, result: Mapping[str, Any], shown: Sequence[Watched], *, command: str
) -> Report:
    """The page of what `foretell watch` found. result: its JSON. shown: the episodes to show step by step."""
    alarmed, episodes = result["alarmed"], result["episodes"]
    heads = [
        Headline(
            label="episodes that alarmed",
            value=f"{alarmed:,} of {episodes:,}",
            note=f"of ordinary ones at most {result['level']:.2g} may",
        ),
        Headline(label="steps watched", value=f"{result['steps']:,}", note=f"in {result['store']}"),
    ]
    sections = [_events(result["events"])] + [_episode(model, calibration, each) for each in shown]
    return Report(
        title="What was watched",
        summary="Where predictions did not hold, or what was seen is unlike training.",
        command=command,
        headlines=heads,
        sections=[s for s in sections if s.panels],
        facts={
            "Watched": {"run": result["run"], "store": result["store"], "level": f"{result['level']:.2g}"},
            "Machine": describe_machine(),
            "Versions": describe_versions(),
        },
        notice=model.spec.notice,
    )


def _events(events: Sequence[Mapping[str, Any]]) -> Section:
    rows = [(f"{e['episode']}", f"{e['step']}", e["kind"] or "", why(e["reasons"])) for e in events[:ROWS]]
    more = f"The first {ROWS} of {len(events):,}. " if len(events) > ROWS else ""
    table = Table(
        title="Events",
        columns=("episode", "step", "kind", "what is said"),
        rows=rows,
        reading=more + "An event is a step at which trust is lost, changes its reason, or returns.",
    )
    return Section(title="Events", panels=[table] if rows else [])


def _episode(model: WorldModel, calibration: Calibration, each: Watched) -> Section:
    """p-values over time, and what the alarm depends on."""
    panels: list[Panel] = [_p_values(each)]
    alarm = each.alarm
    if alarm is not None and alarm.kind in ("surprise", "novelty"):
        seen = see(model, each.episode)
        near = range(max(0, alarm.step - 4), min(len(each.verdicts), alarm.step + 5))
        found = {t: _depends(model, calibration, each.episode, t, seen, alarm.kind) for t in near}
        at = found[alarm.step]
        if at is not None:
            panels += _where(model.spec, each, alarm, at, found)
    title = f"Episode {each.number}" + (f": {'; '.join(alarm.reasons)}" if alarm is not None else "")
    return Section(title=title, panels=panels)


def _p_values(each: Watched) -> Chart:
    steps = [v.step for v in each.verdicts]
    curves = [Curve(name="surprise", x=steps, y=[_number(v.surprise) for v in each.verdicts])]
    for name in each.verdicts[0].novelty:
        said = [_number(v.novelty[name]) for v in each.verdicts]
        curves.append(Curve(name=f"novelty: {name}", x=steps, y=said, role="other"))
    return Chart(
        title="p-values",
        curves=curves,
        x_label="step",
        y_label="p-value",
        log=True,
        reading="On ordinary data they are spread evenly between 0 and 1. Gaps: not predicted, or missing.",
    )


def _where(
    spec: Spec, each: Watched, alarm: Verdict, at: Attribution, near: Mapping[int, Attribution | None]
) -> list[Panel]:
    """Shares by channel and field and, for pictures, the heat of the steps around the alarm."""
    shares = [(n, share) for n, share in at.channels.items() if n not in at.fields]
    shares += [
        (f"{n} {field}" if len(values) > 1 else n, float(v))
        for n, values in at.fields.items()
        for field, v in zip(spec.channel(n).fields, values, strict=True)
        if v >= _FEWEST
    ]
    panels: list[Panel] = []
    if len(shares) > 1:
        panels.append(
            Comparison(
                title=f"What step {alarm.step} depends on",
                estimates=[Estimate(name=n, value=v) for n, v in sorted(shares, key=lambda s: -s[1])[:12]],
                unit="share",
                reading="Attribution, not cause: by how much the score changes with what was seen.",
            )
        )
    if at.maps:
        name = max(at.maps, key=lambda n: at.channels[n])
        frames = np.stack([_coloured(each.episode.observations[name][t]) for t in near])
        heats = [None if found is None else found.maps[name] for found in near.values()]
        heated = np.stack([_heated(f, h) for f, h in zip(frames, heats, strict=True)])
        panels.append(
            Rollouts(
                title=f"{name}, steps {min(near)} to {max(near)}; the alarm is at {alarm.step}",
                rollouts=[Rollout(frames=frames, imagined=heated, caption=f"Episode {each.number}")],
                labels=("seen", "what the score depends on", "goal"),
                frames_per_second=2.0,
                reading="Attribution, not cause. Orange: the score at that step depends most on this place.",
            )
        )
    return panels


def _depends(
    model: WorldModel, calibration: Calibration, episode: Episode, step: int, seen: Seen, kind: str
) -> Attribution | None:
    """What the score of that kind depends on at a step; None where nothing predicted it."""
    if kind == "novelty":
        return attribute_novelty(model, calibration, episode, step)
    if step == 0:
        return None
    return attribute_surprise(model, calibration, episode, step, seen)


def _coloured(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) with three colours."""
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture[..., :3]


def _heated(picture: NDArray[np.uint8], heat: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """The picture in grey, its hottest places tinted."""
    grey = picture.mean(-1, keepdims=True).repeat(3, -1)
    share = np.zeros((*picture.shape[:2], 1))
    if heat is not None and heat.max() > 0:
        share = (heat / heat.max())[..., None]
    return np.asarray((1 - share) * grey + share * _TINT, np.uint8)


def _number(p: float | None) -> float:
    return float("nan") if p is None else p
