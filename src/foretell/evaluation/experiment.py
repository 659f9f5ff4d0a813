"""One experiment from nothing to figures: record a world, train, calibrate, evaluate."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foretell import worlds
from foretell.episodes.parallel import in_parallel
from foretell.episodes.record import record
from foretell.episodes.store import EpisodeStore
from foretell.errors import SpecError
from foretell.evaluation.forecast import calibrate, forecast
from foretell.evaluation.report import write_json
from foretell.evaluation.runs import open_run
from foretell.evaluation.suite import Evaluation, EvaluationConfig, Recorded, evaluate, readout_for
from foretell.evaluation.trust import calibrate_run
from foretell.model.checkpoint import load, save
from foretell.model.readout import Readout
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.training import TrainConfig, train
from foretell.training.loop import OnStep
from foretell.worlds import World

T = TypeVar("T")
EPISODES, RUN, CALIBRATION = "episodes", "run", "calibration.json"


class Listener(Protocol):
    """What is told how an experiment goes on."""

    def say(self, what: str) -> None:
        """A stage begins."""
        ...

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items, one by one, with their progress."""
        ...

    def training(self, steps: int) -> AbstractContextManager[OnStep | None]:
        """What is called after each of so many training steps."""
        ...


class Silent:
    """Listens and shows nothing."""

    def say(self, what: str) -> None:
        """Nothing."""

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """The items."""
        return iter(items)

    def training(self, steps: int) -> AbstractContextManager[OnStep | None]:
        """Nothing."""
        return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings. options: of the world. episodes: to record. training, evaluation: what is done with them.

    before: trainings that come first, each beginning with the weights of the one before it. trust: whether the run is
    calibrated to know when it is not to be trusted.
    """

    world: str
    options: Mapping[str, Any] = field(default_factory=dict)
    episodes: int
    training: TrainConfig
    evaluation: EvaluationConfig
    before: tuple[TrainConfig, ...] = ()
    trust: bool = True

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise SpecError(f"experiment: at least 2 episodes expected, got {self.episodes}")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What an experiment made.

    frames_per_second: observations that went through the encoder, a second of its training. seconds: of record,
    train (the temporal distance included), calibrate, evaluate and in total.
    """

    world: World
    model: WorldModel
    recorded: Recorded
    readout: Readout | None
    calibration: dict[str, Any] | None
    evaluation: Evaluation
    frames_per_second: float
    seconds: dict[str, float]

    @property
    def parameters(self) -> int:
        """Learned values of the world model."""
        return sum(p.numel() for p in self.model.parameters())


def record_world(settings: Experiment, folder: Path, *, seed: int, listener: Listener, workers: int = 1) -> World:
    """Record the experiment's episodes into folder/episodes, by so many processes; returns the world."""
    listener.say(f"recording {settings.episodes} episodes of {settings.world}")
    world = worlds.make(settings.world, **settings.options)
    episodes: Iterable[Episode] = world.episodes(settings.episodes, seed=seed)
    if workers > 1:
        make = partial(_episodes, settings.world, dict(settings.options), seed)
        episodes = in_parallel(make, settings.episodes, workers)
    source = listener.track(episodes, "recording", settings.episodes)
    metadata = {"world": world.name, "options": dict(world.options), "seed": seed}
    record((world.spec, source), folder / EPISODES, episodes=settings.episodes, metadata=metadata)
    return world


def _episodes(world: str, options: Mapping[str, Any], seed: int, first: int, count: int) -> Iterable[Episode]:
    """Some of the episodes; in a process of its own."""
    return worlds.make(world, **options).episodes(count, seed=seed, first=first)


def train_stages(settings: Experiment, folder: Path, *, seed: int, listener: Listener) -> None:
    """Train on folder/episodes, stage after stage, the last into folder/run."""
    init: Path | None = None
    for i, stage in enumerate((*settings.before, settings.training)):
        out = folder / (RUN if i == len(settings.before) else f"{RUN}.{i}")
        listener.say(f"training, {stage.steps:,} steps")
        with listener.training(stage.steps) as on_step:
            train(EpisodeStore(folder / EPISODES), out, replace(stage, seed=seed), init=init, on_step=on_step)
        init = out


class Laps:
    """Seconds of each stage since the one before."""

    def __init__(self) -> None:
        self.started = self._at = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        """A stage has ended."""
        now = time.perf_counter()
        self.seconds[name], self._at = now - self._at, now

    def total(self) -> dict[str, float]:
        """Of all stages, and of everything until now as `total`."""
        return {**self.seconds, "total": time.perf_counter() - self.started}


def run_experiment(settings: Experiment, folder: Path, *, seed: int, listener: Listener) -> Finished:
    """Record into folder/episodes, train into folder/run, calibrate, evaluate. `folder` holds neither yet.

    The episodes, the training and the problems are all drawn by `seed`.
    """
    lap = Laps()
    world = record_world(settings, folder, seed=seed, listener=listener)
    lap("record")
    train_stages(settings, folder, seed=seed, listener=listener)
    lap("train")
    listener.say("calibrating on held-out episodes")
    run = open_run(folder / RUN)
    recorded = run.recorded()
    readout = readout_for(run.model, run.parts, recorded, seed=seed)
    parts = dict(run.parts)
    calibration = None
    if readout is not None:
        parts[f"readout.{readout.channel}"] = readout
        save(folder / RUN, run.model, parts)
        made = forecast(
            run.model,
            run.store,
            run.held_out,
            readout,
            steps=settings.evaluation.horizon,
            latents=recorded.of(run.held_out),
        )
        calibration = calibrate(made, seed=seed)
        write_json(calibration, folder / RUN / CALIBRATION)
    if settings.trust:
        calibrate_run(folder / RUN, seed=seed)
        parts = dict(load(folder / RUN).parts)
    lap("calibrate")
    evaluation = replace(settings.evaluation, seed=seed)
    measured = evaluate(run.model, parts, recorded, world, evaluation, readout=readout, say=listener.say)
    lap("evaluate")
    return Finished(
        world=world,
        model=run.model,
        recorded=recorded,
        readout=readout,
        calibration=calibration,
        evaluation=measured,
        frames_per_second=run.note.frames_per_second,
        seconds=lap.total(),
    )
