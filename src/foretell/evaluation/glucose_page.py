"""The page of the glucose demo: four answers about one patient, and beside each what it is over all held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation.glucose_answers import (
    LEVEL,
    MINUTES_AHEAD,
    NOON,
    Question,
)
from foretell.evaluation.glucose_charts import (
    TREATMENTS,
    clock,
    day_chart,
    fan_chart,
    on_second_day,
    said_marks,
    suspended,
    treated_chart,
    untold,
)
from foretell.evaluation.glucose_watch import FAULTS, Watching
from foretell.evaluation.machine import describe_machine, describe_versions
from foretell.evaluation.pages import training_section
from foretell.evaluation.report_parts import (
    Headline,
    Report,
    Section,
    Table,
    format_value,
)
from foretell.evaluation.trust import why
from foretell.training import TrainRecord
from foretell.training.log import NAME as LOG
from foretell.training.log import read_log
from foretell.worlds.glucose.behaviour import SPEC
from foretell.worlds.glucose.events import Event
from foretell.worlds.glucose.ward import DAY, MINUTES

if TYPE_CHECKING:
    from foretell.evaluation.glucose_demo import Answers, GlucoseDemo

Array = NDArray[np.float64]
_KINDS = {
    "bolus": "bolus forgotten, or half an hour later",
    "basal": "other basal rates",
    "dose": "another dose for the same meal",
    "extra": "a bolus without a meal",
}


def page(found: Answers, run: Path, *, settings: GlucoseDemo, seed: int, seconds: Mapping[str, float]) -> Report:
    """The page. run: the folder of the trained model. seconds: of each stage."""
    record = TrainRecord.read(run)
    return Report(
        title="Glucose: four answers about a patient whom the model has not learned from",
        summary=f"foretell recorded {settings.episodes:,} times two days of {len(record.groups)} virtual patients with"
        f" type 1 diabetes, learned from them what glucose does after meals and insulin, and is asked about"
        f" {found.patient}, one of {len(settings.patients)} others. Beside each answer stands the figure of all"
        f" {len(settings.patients)}, so that nobody judges by one.",
        command=f"foretell demo glucose --seed {seed}",
        headlines=_headlines(found),
        sections=[_forecast(found), _what_if(found), _treatment(found), _trust(found), _training(run, seconds)],
        facts={
            "Run": {
                "seed": seed,
                "episodes": len(record.training),
                "patients learned from": len(record.groups),
                "lives forecast": len(found.forecasts),
                "lives treated": len(found.treated),
                "logs": settings.logs.logs,
            },
            "Model": asdict(settings.training.model),
            "Machine": describe_machine(),
            "Versions": describe_versions(),
        },
        notice=SPEC.notice,
    )


def _headlines(found: Answers) -> list[Headline]:
    one, last = found.rmse(found.patient, 60)
    every = found.rmse("all", 60)
    mine = found.places(found.patient)
    planned, usual = (found.courses[name] for name in ("planned", "usual"))
    answered = sum(q.answered for q in found.questions)
    return [
        Headline(
            label="Forecast error, an hour ahead",
            value=_mgdl(one),
            note=f"last reading: {_mgdl(last)}; all patients: {_mgdl(every[0])}, last reading {_mgdl(every[1])}",
        ),
        Headline(
            label=f"Readings inside {LEVEL:.0%} intervals",
            value=_share(found.coverage(found.patient)),
            note=f"all patients: {_share(found.coverage('all'))}",
        ),
        Headline(
            label="What-ifs answered",
            value=f"{answered} of {len(found.questions)}",
            note="the others are refused, with reasons",
        ),
        Headline(
            label="Time between 70 and 180 mg/dL",
            value=_share(planned.shares(*mine)["tir"]),
            note=f"as prescribed: {_share(usual.shares(*mine)['tir'])}; all patients: "
            f"{_share(planned.shares()['tir'])}, as prescribed {_share(usual.shares()['tir'])}",
        ),
    ]


def _forecast(found: Answers) -> Section:
    rows = []
    for minutes in MINUTES_AHEAD:
        pairs = (found.rmse(group, minutes) for group in (found.patient, "all"))
        rows.append([f"{minutes} min", *(f"{x:.1f}" for pair in pairs for x in pair)])
    covered = []
    names = {"all patients": "all", "adults": "adult", "adolescents": "adolescent", found.patient: found.patient}
    for name, group in names.items():
        lives = found.of(group)
        if lives:
            each = [_share(found.coverage(group, [m])) for m in MINUTES_AHEAD]
            width = format_value(float(np.median([f.half_width(60) for f in lives])))
            unbounded = _share(float(np.mean([f.unbounded for f in lives])))
            covered.append([name, f"{len(lives)}", *each, _share(found.coverage(group)), f"± {width}", unbounded])
    return Section(
        title="1. Forecast",
        reading="Open loop: the model knows what was seen until now, and the insulin and meals that are told of from"
        " then on; never the outcome.",
        panels=[
            day_chart(
                f"A day of {found.patient}",
                found.life,
                found.day,
                [*untold(found.life), *suspended(found.life)],
                reading="Dots are what the sensor shows, the thin line is the true glucose, which no model sees. The"
                " blue line was forecast an hour before, its band should hold nine readings of ten. Shaded: the range"
                " aimed at.",
            ),
            Table(
                title="Root mean square error, mg/dL",
                columns=["ahead", found.patient, "last reading", "all patients", "last reading"],
                rows=rows,
                reading="Beside it, what 'it stays as it was' is off by. The second day of each life; patients count"
                " alike.",
            ),
            Table(
                title="Calibration by subgroup",
                columns=[
                    "patients",
                    "lives",
                    *(f"{m} min" for m in MINUTES_AHEAD),
                    "together",
                    "width, 60 min (mg/dL)",
                    "without ends",
                ],
                rows=covered,
                reading=f"Share of readings inside {LEVEL:.0%} intervals, whose widths come from other days of the"
                " training patients, of adults for adults, of adolescents for adolescents, and follow what turns out."
                " After many misses on end an interval has no ends, as nothing is sure then; these hold every reading.",
            ),
        ],
    )


def _what_if(found: Answers) -> Section:
    logs = [[v.action, _share(v.often), "yes" if v.varied else "no", *_most(v.where)] for v in found.overlap.report()]
    asked = []
    for q in found.questions:
        told = [_effects(q, minutes) for minutes in (120, 240)]
        reason = "; ".join(q.reasons) if not q.answered else _compared(q)
        asked.append([q.asked, "answered" if q.answered else "refused", *told, reason])
    over = [
        [
            _KINDS[kind],
            f"{e.asked}",
            _share(1 - e.answered),
            *(_figure(e.ratio[m]) for m in (120, 240)),
            *(_share(e.sign[m]) for m in (120, 240)),
        ]
        for kind, e in found.over.items()
    ]
    return Section(
        title="2. What if",
        reading="Logs in which treatment always follows from what is seen leave no trace of what another would do. So"
        " first, where they varied; then what is asked, beside what truly follows in a copy of the patient.",
        panels=[
            Table(
                title="Overlap: where the logs varied treatment",
                columns=["action", "of all steps", "enough", "most", "least"],
                rows=logs,
                reading="Share of steps at which an action differed by half of what is usual, or more, from what was to"
                " be expected of anybody in that state. What never varied there is not answered.",
            ),
            *(fan_chart(found.planned, q) for q in found.questions if q.answered),
            Table(
                title=f"Asked about {found.patient}",
                columns=["instead", "", "effect after 2 h (true)", "after 4 h (true)", "why"],
                rows=asked,
                reading="Effects in mg/dL: what the other plan adds to what is expected as planned. What is refused has"
                " no effect given.",
            ),
            Table(
                title="Asked about all patients",
                columns=["instead", "asked", "refused", "error, 2 h", "4 h", "direction, 2 h", "4 h"],
                rows=over,
                reading="Error: root mean square of the effects that are answered over that of the true ones; 1 is as"
                " good as 'no effect'. Direction: how often it is right where the true effect is above 10 mg/dL. Other"
                " doses are in no log: these are the weak answers.",
            ),
        ],
    )


def _treatment(found: Answers) -> Section:
    rows = []
    for who, patient in ((found.patient, found.patient), ("all patients", None)):
        for name, words in TREATMENTS.items():
            counted = found.courses[name].shares(*found.places(patient))
            shares = [_share(counted[k]) for k in ("tir", "below_70", "below_54", "above_180")]
            rows.append([who, words, *shares, f"{counted['risk']:.1f}"])
    each = []
    for patient in dict.fromkeys(found.treated):
        counted_of = [found.courses[name].shares(*found.places(patient)) for name in TREATMENTS]
        each.append([patient, *(_share(c[k]) for k in ("tir", "below_70") for c in counted_of)])
    return Section(
        title="3. Treatment",
        reading="At every step the model is asked which multiple of the usual basal rate, and which share of the bolus"
        " that is asked for, keeps glucose low enough for the next four hours, of those that most likely keep it high"
        " enough. All multiples, and boluses given, late and forgotten, are in the logs.",
        panels=[
            treated_chart(found),
            Table(
                title="Shares of time",
                columns=["who", "treated", "70 to 180", "below 70", "below 54", "above 180", "risk"],
                rows=rows,
                reading="True glucose, mg/dL, in the same lives. Risk: of Kovatchev, 0 at its best.",
            ),
            Table(
                title="Patient by patient",
                columns=["patient", "70 to 180, planned", "prescribed", "below 70, planned", "prescribed"],
                rows=each,
            ),
        ],
    )


def _trust(found: Answers) -> Section:
    rows = []
    for fault, each in found.watched.items():
        said: list[tuple[int, str, str]] = [
            (step, v.kind or "trusted", why(v.reasons)) for step, v in on_second_day(each)
        ]
        said += [(step, f"departure: {kind}", words) for step, kind, words in each.departures if step >= DAY]
        day, since = ("ordinary", DAY) if fault is None else (FAULTS[fault], NOON)
        rows += [[day, clock(step), kind, words] for step, kind, words in sorted(said) if step >= since]
    counted = [
        [
            "ordinary days" if fault is None else FAULTS[fault],
            f"{a.n}",
            *(_share(x) for x in (a.monitor, a.departures, a.either)),
            f"{a.hours:.1f} h" if np.isfinite(a.hours) and fault is not None else "",
        ]
        for fault, a in found.alarms.items()
    ]
    return Section(
        title="4. May it say so",
        reading="A monitor compares what was predicted with what came, step by step; beside it stands how far readings,"
        " errors of forecasts and doses depart from what they were. Both are calibrated on other days of the training"
        f" patients, so that each alarms in at most {_share(found.level)} of two ordinary days like theirs. What trust"
        " is lost in is not to be asked for forecasts.",
        panels=[
            *(
                day_chart(
                    _title(fault),
                    each.life,
                    None,
                    said_marks(each, fault),
                    watching=each,
                    reading=_heard(each, fault),
                )
                for fault, each in found.watched.items()
            ),
            Table(
                title="What is said",
                columns=["day", "at", "verdict", "in words"],
                rows=rows or [["ordinary", "", "trusted", "nothing on any of these days"]],
                reading="Of days on which something goes wrong, from then on. Departures: the first time of each kind.",
            ),
            Table(
                title="All patients",
                columns=["", "lives", "monitor alarmed", "departures alarmed", "either", "after, median"],
                rows=counted,
                reading="Alarms within two days; where something goes wrong, those from noon of the second day on, of"
                " lives that had not alarmed before.",
            ),
        ],
    )


def _title(fault: Event | None) -> str:
    return "An ordinary day" if fault is None else f"The same day with {FAULTS[fault]} from noon on"


def _training(run: Path, seconds: Mapping[str, float]) -> Section:
    return training_section(read_log(run / LOG), seconds)


def _heard(each: Watching, fault: Event | None) -> str:
    """When it is noticed, in a sentence."""
    since = DAY if fault is None else NOON
    lost = [step for step, v in on_second_day(each) if v.kind in ("surprise", "novelty")]
    steps = [step for step in (*lost, *(step for step, *_ in each.departures)) if step >= since]
    if fault is None:
        return f"An alarm at {clock(min(steps))}." if steps else "No alarm; it says where readings are missing."
    if not steps:
        return "It is not noticed: on ordinary days, too, things come that are predicted as badly as this."
    return f"Noticed at {clock(min(steps))}, {(min(steps) - NOON) * MINUTES / 60:.1f} h after it began."


def _effects(q: Question, minutes: int) -> str:
    true = (q.other_truth - q.truth)[minutes // MINUTES]
    if q.said is None or q.said.effect is None:
        return f"({true:+.0f})"
    return f"{q.said.effect[q.said.steps.index(minutes // MINUTES)][0]:+.0f} ({true:+.0f})"


def _compared(q: Question) -> str:
    """How often the logs differed as much where an answer is given."""
    assert q.said is not None
    return "; ".join(f"{name} differed as much at {_share(x)} of such steps" for name, x in q.said.compared.items())


def _most(where: Mapping[str, float]) -> tuple[str, str]:
    """Where an action varied most and least."""
    if not where:
        return "", ""
    most, least = max(where, key=lambda n: where[n]), min(where, key=lambda n: where[n])
    return f"{_share(where[most])} with {most}", f"{_share(where[least])} with {least}"


def _share(value: float) -> str:
    return format_value(round(value, 3), "share")


def _mgdl(value: float) -> str:
    return f"{value:.1f} mg/dL"


def _figure(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "none"
