"""The demo of glucose: virtual patients from nothing to four answers about one of them, in minutes on a laptop's CPU.

For research, not a medical device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError
from foretell.evaluation import glucose_answers as answers
from foretell.evaluation import glucose_watch as watching
from foretell.evaluation.asking import PART as OVERLAP
from foretell.evaluation.asking import overlap_in
from foretell.evaluation.demo import clear, peak_memory_mb
from foretell.evaluation.experiment import EPISODES, RUN, Experiment, Laps, Listener, record_world, train_stages
from foretell.evaluation.report import write_json, write_report
from foretell.evaluation.suite import EvaluationConfig
from foretell.evaluation.treatment import groups
from foretell.evaluation.trust import PART as TRUST
from foretell.evaluation.what_if import WhatIf
from foretell.model.checkpoint import load, save
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.objective.objective import ObjectiveConfig
from foretell.spec import Episode
from foretell.training import TrainConfig, TrainRecord
from foretell.training.card import write_calibration
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit
from foretell.trust.calibration import calibrate, fit, see
from foretell.trust.intervals import Intervals
from foretell.trust.overlap import Overlap
from foretell.worlds.glucose import HELD_OUT, TRAINING, Options
from foretell.worlds.glucose.events import Event
from foretell.worlds.glucose.trials import Kind
from foretell.worlds.glucose.ward import DAY

TRAINING_SETTINGS = TrainConfig(
    model=ModelConfig(latent=32, block=6, look=DAY, grounded=("glucose",), features=96, width=192),
    objective=ObjectiveConfig(prediction=0.1, sigreg=0.1, slices=32, inverse=0.0, spread="state", settle=0, ramp=1),
    steps=2400,
    batch=64,
    length=9,
    weight_decay=0.01,
    gains=("insulin+basal+bolus:0.3", "meal+carbohydrates:0.2", "glucose:0.2@110"),
    holdout=0.0,
    refine=Refine(steps=0),
    distance=DistanceFit(steps=0),
    precision="float32",
    device="cpu",
)


@dataclass(frozen=True, kw_only=True)
class GlucoseDemo:
    """Settings. patient: whom the answers are about, one of `patients`, who are held out.

    episodes: of two days, to learn from. others: other days of the same patients, which intervals and alarms are
    calibrated on. judged: training episodes that overlap is judged by; fitted: those that surprise is fitted on, in so
    many `law_steps`. lives: of each held-out patient, for forecasts and alarms. asked: what-ifs of each kind. days,
    each: of treatment, of so many lives of each patient. level: share of ordinary lives that may alarm. shown: what
    goes wrong on the days that are shown.
    """

    training: TrainConfig = TRAINING_SETTINGS
    patients: tuple[str, ...] = HELD_OUT
    patient: str = HELD_OUT[0]
    episodes: int = 72 * len(TRAINING)
    others: int = 8 * len(TRAINING)
    judged: int = 140
    fitted: int = 60
    law_steps: int = 500
    lives: int = 4
    asked: int = 48
    days: int = 2
    each: int = 2
    level: float = 0.05
    shown: tuple[Event, ...] = ("bias", "dead")
    logs: Options = field(default_factory=lambda: Options(logs="randomised"))

    def __post_init__(self) -> None:
        if self.patient not in self.patients:
            raise SpecError(f"demo: one of {', '.join(self.patients)} expected, got {self.patient!r}")


DEMO = GlucoseDemo()


@dataclass(frozen=True)
class Answers:
    """All that the page shows. forecasts: of each life of each held-out patient, `patient`'s first.

    life, day: the patient's life that is shown, and what was forecast through it. planned: what is expected at its
    largest meal as planned. over: what-ifs of all held-out patients, by kind. courses: of `treated`, a name each.
    watched: of the life as it is (None), then with some faults; alarms: of all held-out patients, with every fault.
    """

    patient: str
    life: answers.Life
    day: answers.Foreseen
    forecasts: Sequence[answers.Foreseen]
    overlap: Overlap
    planned: WhatIf
    questions: Sequence[answers.Question]
    over: Mapping[str, answers.Effects]
    treated: Sequence[str]
    courses: Mapping[str, answers.Course]
    watched: Mapping[Event | None, watching.Watching]
    alarms: Mapping[Event | None, watching.Alarms]
    level: float

    def of(self, group: str) -> list[answers.Foreseen]:
        """Forecasts of a patient, of adults or adolescents, or of `all`."""
        if group == "all":
            return list(self.forecasts)
        return [f for f in self.forecasts if group in (f.group, f.group.split("#")[0])]

    def rmse(self, group: str, minutes: int) -> tuple[float, float]:
        """Root mean square error, mg/dL, of the model and of the last reading, patients counted alike."""
        squares: dict[str, list[NDArray[np.float64]]] = {}
        for each in self.of(group):
            squares.setdefault(each.group, []).append(np.square(np.stack(each.errors(minutes), axis=1)))
        mean = np.mean([np.concatenate(x).mean(0) for x in squares.values()], axis=0)
        return float(np.sqrt(mean[0])), float(np.sqrt(mean[1]))

    def coverage(self, group: str, minutes: Sequence[int] = answers.MINUTES_AHEAD) -> float:
        """Share of readings inside 90% intervals, so many minutes ahead."""
        return float(np.mean([each.inside(m).mean() for each in self.of(group) for m in minutes]))

    def places(self, patient: str | None = None) -> list[int]:
        """Which of those treated are a patient; None: all."""
        return [i for i, name in enumerate(self.treated) if patient in (None, name)]


def run_glucose_demo(out: Path, *, seed: int, listener: Listener, settings: GlucoseDemo = DEMO) -> dict[str, Any]:
    """Run the demo into the folder `out` and write report.html and report.json there; returns what report.json holds.

    The run in it is calibrated, and can be asked by `foretell what-if` and watched with. An earlier demo in `out` is
    replaced. Raises DataError where `out` holds anything else, or cannot be written.
    """
    from foretell.evaluation.glucose_page import page

    clear(out, listener)
    lap = Laps()
    experiment = Experiment(
        world="glucose",
        options={"logs": settings.logs.logs},
        episodes=settings.episodes,
        training=settings.training,
        evaluation=EvaluationConfig(),
    )
    record_world(experiment, out, seed=seed, listener=listener)
    lap("record")
    train_stages(experiment, out, seed=seed, listener=listener)
    lap("train")
    asking = _Asking(out / RUN, EpisodeStore(out / EPISODES), settings, seed, listener)
    listener.say(f"judging overlap, calibrating on {settings.others} other days of the training patients")
    calibrated = asking.calibrated()
    lap("calibrate")
    found = asking.answers(*calibrated, lap=lap)
    record = TrainRecord.read(out / RUN)
    seconds = lap.total()
    listener.say("writing the report")
    write_report(page(found, out / RUN, settings=settings, seed=seed, seconds=seconds), out / "report.html")
    result = {
        **figures(found, asking.model.spec.notice),
        "train": {
            "seconds": seconds["train"],
            "frames_per_second": record.frames_per_second,
            "parameters": record.parameters,
        },
        "seconds": seconds,
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(result, out / "report.json")
    return result


class _Asking:
    """A trained run that is calibrated and asked. Days of every purpose have a seed of their own."""

    def __init__(self, run: Path, store: EpisodeStore, settings: GlucoseDemo, seed: int, listener: Listener) -> None:
        self.run, self.store, self.settings, self.seed, self.listener = run, store, settings, seed, listener
        self.model: WorldModel = load(run).model
        self.care = replace(settings.logs, patients=settings.patients)
        self.longest = TrainRecord.read(run).longest

    def calibrated(self) -> tuple[Overlap, dict[str, Intervals], watching.Eye]:
        """Overlap, intervals by group and what watches; they are saved with the run."""
        settings, model = self.settings, self.model
        overlap = overlap_in(self.store, range(min(settings.judged, len(self.store))), seed=self.seed)
        who = [TRAINING[i % len(TRAINING)] for i in range(settings.others)]
        others = answers.recorded(settings.logs, who, [[self.seed, 0xCA1, i] for i in range(len(who))])
        seen = [see(model, e) for e in others]
        errors = [answers.errors_of(model, e, s) for e, s in zip(others, seen, strict=True)]
        every, apart = answers.intervals_by_group(model, others, errors)
        count = min(settings.fitted, len(self.store))
        some = (see(model, self.store.read(k * len(self.store) // count)) for k in range(count))
        trust = calibrate(fit(model, some, seed=self.seed, steps=settings.law_steps), model, seen, seed=self.seed)
        save(self.run, model, {OVERLAP: overlap, "intervals.glucose": every, TRUST: trust})
        write_calibration(
            self.run,
            model,
            [
                f"Calibrated on {len(others)} other days of the patients that it learned from, so that nothing is"
                " guaranteed for others. Alarms may be set to a share of false ones of"
                f" {trust.lowest:.2g} or more. Intervals around: glucose, up to {max(every.horizons)} steps ahead.",
            ],
        )
        level = max(settings.level, trust.lowest)
        return overlap, apart, watching.Eye(trust, watching.departures_in(others, errors), level)

    def answers(self, overlap: Overlap, around: Mapping[str, Intervals], eye: watching.Eye, lap: Any) -> Answers:
        """Ask everything. lap: told the name of each stage when it ends."""
        settings, model, say = self.settings, self.model, self.listener.say
        who = list(dict.fromkeys((p, i) for p in (settings.patient, *settings.patients) for i in range(settings.lives)))
        names, seeds = [p for p, _ in who], [self._life(p, i) for p, i in who]
        say(f"forecasting {len(who)} lives of {len(settings.patients)} held-out patients")
        life = answers.lived(self.care, settings.patient, seeds[0])
        ordinary = answers.recorded(self.care, names, seeds)
        forecasts = [answers.foreseen(model, e, around[_kind(e)]) for e in ordinary]
        lap("forecast")
        say("asking what would have been")
        own = around[_kind(life.episode)]
        planned, questions = answers.questions(model, overlap, own, life, self.longest)
        kinds: tuple[Kind, ...] = ("bolus", "basal", "dose", "extra")
        over: dict[str, answers.Effects] = {
            k: answers.effects(
                model, overlap, self.care, settings.asked, k, seed=self.seed + 0xA5C, longest=self.longest
            )
            for k in kinds
        }
        lap("what_if")
        treated = [p for p in settings.patients for _ in range(settings.each)]
        say(f"treating {len(treated)} lives for {settings.days} days")
        courses = answers.courses(model, treated, settings.days, seed=self.seed + 0x7EA)
        lap("treat")
        say("watching")
        watched: dict[Event | None, watching.Watching] = {None: watching.watched(model, eye, life)}
        alarms: dict[Event | None, watching.Alarms] = {None: watching.alarms(model, eye, ordinary)}
        for fault in watching.FAULTS:
            if fault in settings.shown:
                failed = answers.lived(self.care, settings.patient, seeds[0], fault=fault)
                watched[fault] = watching.watched(model, eye, failed)
            lives = answers.recorded(self.care, names, seeds, fault=fault)
            alarms[fault] = watching.alarms(model, eye, lives, since=answers.NOON)
        lap("watch")
        return Answers(
            patient=settings.patient,
            life=life,
            day=forecasts[0],
            forecasts=forecasts,
            overlap=overlap,
            planned=planned,
            questions=questions,
            over=over,
            treated=treated,
            courses=courses,
            watched=watched,
            alarms=alarms,
            level=eye.level,
        )

    def _life(self, patient: str, number: int) -> list[int]:
        return [self.seed, 0x11FE, self.settings.patients.index(patient), number]


def _kind(episode: Episode) -> str:
    return str(groups([episode.group])[0])


def figures(found: Answers, notice: str) -> dict[str, Any]:
    """What report.json holds of the answers: of the patient, and of all who are held out."""
    who = {"patient": found.patient, "all": "all"}
    return {
        "notice": notice,
        "patient": found.patient,
        "patients": sorted({f.group for f in found.forecasts}),
        "forecast": {
            name: {
                "minutes": list(answers.MINUTES_AHEAD),
                "rmse": [found.rmse(group, m)[0] for m in answers.MINUTES_AHEAD],
                "last_reading": [found.rmse(group, m)[1] for m in answers.MINUTES_AHEAD],
            }
            for name, group in who.items()
        },
        "coverage_90": {
            name: found.coverage(group)
            for name, group in ({**who, "adult": "adult", "adolescent": "adolescent"}).items()
            if found.of(group)
        },
        "overlap": [str(v) for v in found.overlap.report()],
        "what_if": {
            "questions": [
                {
                    "asked": q.asked,
                    "at": q.at,
                    "answered": q.answered,
                    "reasons": list(q.reasons),
                    "effect": None if q.said is None else q.said.effect,
                    "true_effect": (q.other_truth - q.truth).tolist(),
                }
                for q in found.questions
            ],
            "all": {
                kind: {"asked": e.asked, "answered": e.answered, "effect_ratio": e.ratio, "sign": e.sign}
                for kind, e in found.over.items()
            },
        },
        "treatment": {
            name: {
                treatment: course.shares(*found.places(None if group == "all" else group))
                for treatment, course in found.courses.items()
            }
            for name, group in who.items()
        },
        "trust": {
            "level": found.level,
            "patient": {
                fault or "ordinary": {
                    "monitor": [{"step": step, "reasons": list(v.reasons)} for step, v in w.events],
                    "departures": [{"step": step, "kind": kind, "reason": why} for step, kind, why in w.departures],
                }
                for fault, w in found.watched.items()
            },
            "all": {fault or "ordinary": asdict(a) for fault, a in found.alarms.items()},
        },
    }
