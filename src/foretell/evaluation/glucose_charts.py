"""Charts of the glucose demo: a day with all that was eaten, given and said in it, two treatments, and a what-if."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation.glucose_answers import HORIZONS, NOON, Course, Foreseen, Life, Question, readings
from foretell.evaluation.glucose_watch import Watching
from foretell.evaluation.report_parts import Lane, Mark, Timeline, Trace
from foretell.evaluation.what_if import WhatIf
from foretell.trust.departures import KINDS
from foretell.trust.monitor import Verdict
from foretell.worlds.glucose.events import Event
from foretell.worlds.glucose.risk import HIGH, LOW
from foretell.worlds.glucose.sensor import HIGHEST, LOWEST
from foretell.worlds.glucose.ward import DAY, MINUTES

if TYPE_CHECKING:
    from foretell.evaluation.glucose_demo import Answers

Array = NDArray[np.float64]
TREATMENTS = {"planned": "planned with the model", "usual": "as prescribed"}
_DEPARTURES = {
    "error": "forecast far off",
    "drift": "errors to one side",
    "stuck": "stands still",
    "jump": "jumps",
    "dose": "unusual dose",
}
_SUSPENDED_BELOW = 80.0
_RAREST = 1e-4
"""p-value below which a chart does not go."""
_APART = 6
"""Steps within which the pump's stops are one event on a chart."""


def day_chart(
    title: str,
    life: Life,
    day: Foreseen | None,
    marks: Sequence[Mark],
    *,
    reading: str,
    watching: Watching | None = None,
) -> Timeline:
    """The second day of a life: glucose, what is eaten and given, and what was forecast or how surprising it was."""
    episode = life.episode
    span = slice(DAY, 2 * DAY + 1)
    hours = (np.arange(len(episode)) - DAY) * MINUTES / 60
    shown, true = readings(episode)[:, 0].double().numpy(), episode.observations["plasma"][:, 0].astype(np.float64)
    glucose = [
        Trace(name="true glucose", x=hours[span], y=true[span], draw="thin", colour="other1"),
        Trace(name="sensor", x=hours[span], y=shown[span], draw="dots", colour="ink"),
    ]
    ends = [true[span], shown[span]]
    if day is not None:
        k, late = HORIZONS.index(60 // MINUTES), 60 // MINUTES
        value, low, high = (_later(x[:, k], late)[span] for x in (day.said, day.low, day.high))
        ends.append(value)
        low, high = np.maximum(low, LOWEST), np.minimum(high, HIGHEST)
        glucose.append(Trace(name="forecast an hour before", x=hours[span], y=value, low=low, high=high))
    # Bands are cut off where nothing else is: one without ends fills the lane.
    limits = float(np.nanmin(np.concatenate(ends))) - 30, float(np.nanmax(np.concatenate(ends))) + 30
    lanes = [
        Lane(label="glucose (mg/dL)", traces=[_cut(t, limits) for t in glucose], shaded=(LOW, HIGH), limits=limits)
    ]
    if watching is not None:
        p = np.array([np.nan if v.surprise is None else v.surprise for v in watching.verdicts])
        departed = (len(KINDS) * watching.departed.p.amin(1)).clamp(_RAREST, 1.0).double().numpy()
        traces = [
            Trace(name="surprise", x=hours[span], y=np.maximum(p, _RAREST)[span], draw="thin"),
            Trace(name="departure", x=hours[span], y=departed[span], draw="thin", colour="other3"),
        ]
        lanes.append(Lane(label="p-value", traces=traces, height=0.32, limits=(_RAREST, 1.0), log=True))
    ward = life.wards[DAY]
    steps = len(episode.actions)
    told, untold = ward.told[0, :steps], life.untold[:steps]
    during = slice(DAY, steps)
    lanes += _doses(hours[during], told[during], untold[during], np.asarray(episode.actions[during, :2], np.float64))
    return Timeline(
        title=title,
        lanes=lanes,
        marks=marks,
        x_label="time of day",
        span=(0, 24),
        every=3,
        clock=True,
        reading=reading,
    )


def treated_chart(found: Answers) -> Timeline:
    """The last day of the patient's first life, under both treatments."""
    place = found.places(found.patient)[0]
    planned, usual = (found.courses[name] for name in TREATMENTS)
    days = planned.glucose.shape[1] // DAY
    during = slice((days - 1) * DAY, days * DAY)
    hours, told = np.arange(DAY) * MINUTES / 60, planned.told[place, during]

    def both(of: str, part: int | None, draw: str) -> list[Trace]:
        pairs: list[tuple[str, Course, str]] = [
            ("as prescribed", usual, "baseline"),
            ("planned with the model", planned, "model"),
        ]
        return [
            Trace(
                name=name,
                x=hours if draw != "bars" else hours + (0.06 if colour == "model" else -0.06),
                y=course.glucose[place, during] if part is None else course.given[place, during, part],
                draw=draw,  # type: ignore[arg-type]
                colour=colour,  # type: ignore[arg-type]
            )
            for name, course, colour in pairs
        ]

    return Timeline(
        title=f"The last day of {found.patient} under both treatments",
        lanes=[
            Lane(label="true glucose (mg/dL)", traces=both("glucose", None, "line"), shaded=(LOW, HIGH)),
            Lane(
                label="carbohydrates told of (g)",
                traces=[Trace(name="meal, told of", x=hours, y=told, draw="bars", colour="other0")],
                height=0.28,
            ),
            Lane(label="bolus (U)", traces=both("bolus", 1, "bars"), height=0.28),
            Lane(label="basal rate (U/h)", traces=both("basal", 0, "steps"), height=0.34),
        ],
        x_label="time of day",
        span=(0, 24),
        every=3,
        clock=True,
        reading="The same life twice: meals, errors in counting them and the sensor's noise are the same.",
    )


def fan_chart(planned: WhatIf, q: Question) -> Timeline:
    """What is expected as planned and otherwise, beside what truly follows each."""
    assert q.said is not None
    assert q.said.plan is not None
    ahead = np.array(q.said.steps) * MINUTES
    true = np.arange(len(q.truth)) * MINUTES
    plan, other = (np.asarray(x)[:, 0] for x in (q.said.plan, q.said.other))
    low, high = (None if x is None else np.asarray(x)[:, 0] for x in (q.said.low, q.said.high))
    return Timeline(
        title=f"{q.asked[0].upper()}{q.asked[1:]}, at {clock(q.at)}",
        lanes=[
            Lane(
                label="glucose (mg/dL)",
                traces=[
                    Trace(name="as planned", x=ahead, y=plan),
                    Trace(name="truly", x=true, y=q.truth, draw="dashed"),
                    Trace(name="instead", x=ahead, y=other, low=low, high=high, colour="other0"),
                    Trace(name="truly", x=true, y=q.other_truth, draw="dashed", colour="other0"),
                ],
                shaded=(LOW, HIGH),
            )
        ],
        x_label="minutes from now",
        span=(0, float(true[-1])),
        every=60,
        wide=False,
    )


def untold(life: Life) -> list[Mark]:
    """Meals of the second day that nobody was told of."""
    return [Mark(x=_hour(t), label="meal untold") for t in np.flatnonzero(life.untold).tolist() if t >= DAY]


def suspended(life: Life) -> list[Mark]:
    """When the pump stops because glucose is low."""
    episode = life.episode
    low = episode.observations["glucose"][: len(episode.actions), 0] < _SUSPENDED_BELOW
    off = (episode.actions[:, 0] == 0) & low
    begins = [t for t in (np.flatnonzero(off[1:] & ~off[:-1]) + 1).tolist() if t >= DAY]
    kept = [t for i, t in enumerate(begins) if i == 0 or t - begins[i - 1] > _APART]
    return [Mark(x=_hour(t), label="pump suspended") for t in kept]


def said_marks(each: Watching, fault: Event | None) -> list[Mark]:
    """What is said on the second day, and when something goes wrong."""
    marks = [Mark(x=_hour(NOON), label="goes wrong")] if fault is not None else []
    for step, verdict in on_second_day(each):
        if verdict.kind is not None:
            words = f"{verdict.kind}: {verdict.reasons[0].split(':')[0]}"
            marks.append(Mark(x=_hour(step), label=words, alarm=verdict.kind != "missing"))
        elif marks and _hour(step) - marks[-1].x > 0.5:
            marks.append(Mark(x=_hour(step), label="trusted again"))
    return marks + [Mark(x=_hour(t), label=_DEPARTURES[k], alarm=True) for t, k, _ in each.departures if t >= DAY]


def on_second_day(each: Watching) -> list[tuple[int, Verdict]]:
    """What is said on the second day."""
    return [(step, v) for step, v in each.events if step >= DAY]


def clock(step: int) -> str:
    """Time of day of a step."""
    minutes = step % DAY * MINUTES
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _doses(hours: Array, told: Array, untold: Array | None, given: Array) -> list[Lane]:
    """Lanes of carbohydrates (T,), boluses and basal rates (T, 2)."""
    eaten = [Trace(name="meal, told of", x=hours, y=told, draw="bars", colour="other0")]
    if untold is not None and untold.any():
        eaten.append(Trace(name="meal, not told of", x=hours, y=untold, draw="bars", colour="other3"))
    return [
        Lane(label="carbohydrates (g)", traces=eaten, height=0.28),
        Lane(
            label="bolus (U)",
            traces=[Trace(name="bolus", x=hours, y=given[:, 1], draw="bars", colour="other2")],
            height=0.28,
        ),
        Lane(
            label="basal rate (U/h)",
            traces=[Trace(name="basal rate", x=hours, y=given[:, 0], draw="steps", colour="other2")],
            height=0.28,
        ),
    ]


def _cut(trace: Trace, limits: tuple[float, float]) -> Trace:
    """The same with its band within the ends of an axis."""
    if trace.band is None:
        return trace
    low, high = (np.clip(x, *limits) for x in trace.band)
    return replace(trace, low=low, high=high)


def _later(values: Array, steps: int) -> Array:
    """What was said of each step (T,), so many steps before it."""
    return np.concatenate([np.full(steps, np.nan), values[:-steps]])


def _hour(step: int) -> float:
    """Of the second day."""
    return float((step - DAY) * MINUTES / 60)
