"""Two rooms: success of planning beside its floors, replanning time, forecast error, training throughput."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.result import Options, Row, median_interval, milliseconds, run, share
from foretell.evaluation.demo import DEMO
from foretell.evaluation.experiment import Experiment, Finished, Silent, run_experiment
from foretell.evaluation.recipes import RECIPES
from foretell.evaluation.suite import EvaluationConfig
from foretell.model.world_model import ModelConfig
from foretell.planning import CEM, ControllerConfig
from foretell.training import TrainConfig
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit
from foretell.worlds.two_rooms import Options as SceneOptions
from foretell.worlds.two_rooms import Simulator

RANDOM = replace(RECIPES["two_rooms_random"], evaluation=EvaluationConfig(keep=0))
FAR = Experiment(
    world="two_rooms",
    options={"step": 0.8, "episode_steps": 240, "persistence": 0.96, "turns": 0.0},
    episodes=250,
    training=TrainConfig(model=ModelConfig(block=8), steps=1500),
    evaluation=EvaluationConfig(task={"distance": "far"}, keep=0),
    trust=False,
)
SEEDS = (0, 1, 2)


@functools.cache
def demo(options: Options) -> Finished:
    """The demo's own settings, trained once for all rows that need it."""
    return _measured(DEMO, 0, options)


def fixed(options: Options) -> Iterator[Row]:
    """The layout of the demo."""
    yield _success("two_rooms.fixed.success", [demo(options)], (0,))


def replanning(options: Options) -> Iterator[Row]:
    """From picture to plan, one problem at a time."""
    yield milliseconds("two_rooms.replan_ms", demo(options).evaluation.replan_ms.tolist(), (0,))


def forecasting(options: Options) -> Iterator[Row]:
    """Open-loop error; the model imagines whole blocks, so the horizon is the first multiple from 50 steps on."""
    ahead = demo(options).evaluation.forecast_json()
    assert ahead is not None
    yield Row(
        id="two_rooms.forecast_px_50",
        value=ahead["rmse"],
        interval=(ahead["interval"][0], ahead["interval"][1]),
        n=ahead["contexts"],
        seeds=(0,),
        unit=ahead["unit"],
        baselines={"no_change": ahead["no_change"], "horizon": float(ahead["horizon"])},
    )


def throughput(options: Options) -> Iterator[Row]:
    """Frames through the encoder in training, over all of its time."""
    done = demo(options)
    yield Row(
        id="training.frames_per_second",
        value=done.frames_per_second,
        n=1,
        seeds=(0,),
        unit="frames/s",
        baselines={"training_seconds": done.seconds["train"], "parameters": float(done.parameters)},
    )


def random(options: Options) -> Iterator[Row]:
    """Layouts drawn anew for every episode, those of the problems unseen; several trainings."""
    seeds = SEEDS[:1] if options.quick else SEEDS
    yield _success("two_rooms.random.success", [_measured(RANDOM, seed, options) for seed in seeds], seeds)


def far(options: Options) -> Iterator[Row]:
    """Shortest paths of 60 to 120 steps, within 1.5 times as many."""
    yield _success("two_rooms.far.success", [_measured(FAR, 0, options)], (0,))


def rendering(options: Options) -> Iterator[Row]:
    """Frames that 64 rooms step and render in one process, one thread."""
    count, rounds = 64, 3 if options.quick else 15
    rooms = Simulator(SceneOptions(layout="random"), count)
    rng = np.random.default_rng(0)
    for i in range(count):
        rooms.reset(i, rng)
    found = []
    for _ in range(rounds):
        started, frames = time.perf_counter(), 0
        while time.perf_counter() - started < 0.3:
            rooms.step(rng.uniform(-2, 2, (count, 2)))
            frames += len(rooms.render())
        found.append(frames / (time.perf_counter() - started))
    value, interval = median_interval(found)
    yield Row(id="two_rooms.rendered_frames_per_second", value=value, interval=interval, n=rounds, unit="frames/s")


def _success(row_id: str, runs: Sequence[Finished], seeds: tuple[int, ...]) -> Row:
    """Success over all runs' problems. Beside the floors: each run's own, and the longest training in seconds."""
    solved = np.concatenate([r.evaluation.planning.solved for r in runs])
    floors = {
        name: float(np.mean([r.evaluation.floors[name].success for r in runs])) for name in runs[0].evaluation.floors
    }
    each = {f"seed_{s}": r.evaluation.planning.success for s, r in zip(seeds, runs, strict=True)} if runs[1:] else {}
    longest = max(r.seconds["train"] for r in runs)
    return share(row_id, solved, seeds, {**floors, **each, "training_seconds": longest})


def small(settings: Experiment) -> Experiment:
    """The same experiment in a moment, to see that it works."""
    quick = {"steps": 4, "holdout": 0.25, "distance": DistanceFit(steps=4), "refine": Refine(steps=2)}
    return replace(
        settings,
        episodes=12,
        before=tuple(replace(stage, **quick) for stage in settings.before),
        training=replace(settings.training, **quick),
        evaluation=replace(
            settings.evaluation,
            episodes=3,
            replans=3,
            planner=CEM(samples=16, iterations=1, elites=4),
            controller=ControllerConfig(horizon=3),
        ),
        trust=False,
    )


def _measured(settings: Experiment, seed: int, options: Options) -> Finished:
    settings = small(settings) if options.quick else settings
    lines = Lines()
    with tempfile.TemporaryDirectory() as folder:
        done = run_experiment(settings, Path(folder), seed=seed, listener=lines)
    lines.say(f"seed {seed}: {done.evaluation.planning.success:.0%} reached, {done.seconds['train']:.0f} s of training")
    return done


class Lines(Silent):
    """A line on standard error for every stage."""

    def say(self, what: str) -> None:
        """Print it."""
        print(f"  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(
        "two_rooms",
        {
            "two_rooms.rendered_frames_per_second": rendering,
            "two_rooms.fixed": fixed,
            "two_rooms.replan_ms": replanning,
            "two_rooms.forecast_px_50": forecasting,
            "training.frames_per_second": throughput,
            "two_rooms.random": random,
            "two_rooms.far": far,
        },
    )
