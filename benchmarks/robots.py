"""Robots: the models that ship, on simulators that others wrote, beside floors, published figures and LeWM's planner.

`--world NAME` measures one of them; `--train DIR` records and trains it anew there first, as its card says, and
measures that; `--ship` makes it the one that ships.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result import Measure, Options, Row, milliseconds, run, share
from benchmarks.two_rooms import Lines
from foretell.adapt import Adapt, adapt
from foretell.episodes.record import record
from foretell.evaluation.baselines import Imitating
from foretell.evaluation.experiment import EPISODES, RUN, record_world, train_stages
from foretell.evaluation.pretrained import FOLDER, Pretrained, opened, ship, write_figures
from foretell.evaluation.protocols import Outcome, replan_times, run_controller, run_policy
from foretell.evaluation.realtime import run_real_time
from foretell.evaluation.recipes import RECIPES
from foretell.evaluation.suite import IMITATION, EvaluationConfig, controller_for, floors_for
from foretell.model.checkpoint import load
from foretell.model.imitation import Imitation
from foretell.planning import CEM, ICEM, Controller, ControllerConfig
from foretell.planning.adaptation import Adaptation
from foretell.training.card import NAME as CARD
from foretell.training.card import write_section

PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "pusht.o25": {"lewm": 0.96, "pldm": 0.78, "dino_wm": 0.74, "gc_idm": 0.84},
    "reacher.o25": {"lewm": 0.86, "pldm": 0.78, "dino_wm": 0.79, "gc_idm": 1.0},
    "pointmaze_medium.o50": {"straightened_dino": 0.99},
}
"""LeWM: arXiv 2603.19312, which measured PLDM (2502.14819) and DINO-WM (2411.04983) too. GC-IDM: 2605.08732.
Straightened DINO features: 2603.12231. On the authors' own episodes and, where these differ, worlds."""
OFFSETS = (25, 50, 100)
LEWM = CEM(samples=300, iterations=30, elites=30)
LEWM_BLOCKS = 5
"""LeWM's planner: CEM on the last latent's distance alone, all blocks of a plan executed before the next is made."""
LEWM_PROBLEMS = 40
THOROUGH = (ICEM(samples=64, iterations=3, elites=8), ControllerConfig(horizon=5, replan_every=1))
"""How changed worlds are planned in: what is imitated was done in the world as it was."""
ADAPTS, TICKS = "reacher", "pointmaze_medium"
"""Which of them is adapted, and which acts in real time."""


def success(found: Pretrained, offset: int, options: Options) -> Row:
    """Problems of one offset, budget twice that."""
    config = evaluation(found, options, offset=offset)
    task = found.world().task(**config.task)
    floors = floors_for(found.model, found.parts, None, seed=config.seed)
    beside = {name: run_policy(task, config.problems, policy).success for name, policy in floors.items()}
    outcome = planned(found, config)
    published = {f"published_{who}": value for who, value in PUBLISHED.get(f"{found.name}.o{offset}", {}).items()}
    return share(f"robots.{found.name}.o{offset}.success", outcome.solved, (0,), {**beside, **published})


def planned(found: Pretrained, config: EvaluationConfig) -> Outcome:
    """What became of the problems, planned as the recipe says."""
    controller = controller_for(found.model, found.parts, config)
    return run_controller(found.world().task(**config.task), config.problems, controller, seed=config.seed)


def evaluation(found: Pretrained, options: Options, **task: object) -> EvaluationConfig:
    """The recipe's, of other problems; a few where it is to be quick."""
    config = found.recipe.evaluation
    config = replace(config, task={**config.task, **task})
    if options.quick:
        quick = CEM(samples=16, iterations=1, elites=4)
        config = replace(config, episodes=3, replans=3, planner=quick, controller=ControllerConfig(horizon=5))
    return config


def planning(found: Pretrained, options: Options) -> Iterator[Row]:
    """Time of a plan, one problem at a time; goals reached in each second of planning, beside LeWM's planner."""
    config = evaluation(found, options)
    ours = run_timed(found, config)
    theirs = run_timed(
        found,
        replace(
            config,
            planner=LEWM if not options.quick else CEM(samples=16, iterations=2, elites=4),
            controller=ControllerConfig(
                horizon=LEWM_BLOCKS, replan_every=LEWM_BLOCKS * found.model.config.block, terminal=1e6
            ),
            imitate=False,
            episodes=min(config.episodes, LEWM_PROBLEMS),
            replans=min(config.replans, 5),
        ),
        distance=False,
    )
    beside = {
        "lewm_planner": theirs.per_second,
        "lewm_planner_success": theirs.success,
        "lewm_planner_plan_ms": float(np.median(theirs.times)),
        "lewm_planner_n": float(theirs.problems),
    }
    yield milliseconds(f"robots.{found.name}.plan_ms", ours.times, (0,))
    yield goals(f"robots.{found.name}.per_second", ours, theirs, beside)


def goals(row: str, ours: Timed, theirs: Timed, beside: Mapping[str, float]) -> Row:
    """Goals that a planner reaches in a second of planning, and how many times what LeWM's does."""
    times = ours.per_second / theirs.per_second if theirs.per_second else float("inf")
    return Row(
        id=row,
        value=ours.per_second,
        n=ours.problems,
        seeds=(0,),
        unit="goals a second of planning",
        baselines={**beside, "times_lewm_planner": times},
    )


class Timed:
    """times: ms of single plans. per_second: goals reached in a second of planning, problems one after the other."""

    def __init__(self, outcome: Outcome, times: list[float]) -> None:
        self.times, self.success, self.problems = times, outcome.success, len(outcome.solved)
        plans = sum(len(made) for made in outcome.plans)
        self.per_second = float(outcome.solved.sum()) / max(1e-9, plans * 1e-3 * float(np.median(times)))


def run_timed(found: Pretrained, config: EvaluationConfig, *, distance: bool = True) -> Timed:
    """Plan the problems, and time single plans. distance: by the temporal one where the model has it."""
    parts = found.parts if distance else {}
    controller = controller_for(found.model, parts, config)
    task = found.world().task(**config.task)
    times = replan_times(task, config.problems, controller, seed=config.seed, count=config.replans)
    return Timed(run_controller(task, config.problems, controller, seed=config.seed), times)


def recovery(found: Pretrained, options: Options) -> Iterator[Row]:
    """Something is pushed, or the goal moves, once; beside the same problems without."""
    still = planned(found, evaluation(found, options)).success
    both = {how: planned(found, evaluation(found, options, disturbed=how)).solved for how in ("push", "goal")}
    solved = np.concatenate(list(both.values()))
    beside = {"undisturbed": still, **{how: float(x.mean()) for how, x in both.items()}}
    yield share(f"robots.recover.{found.name}", solved, (0,), beside)


CHANGES: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "friction": {"friction": 10.0},
    "mass": {"mass": 4.0},
    "gain": {"gain": 0.3},
    "shift": {"shift": 6},
    "colour": {"colour": 0.33},
}
"""What has changed since training, and how: times the friction of the joints, the mass of the arm, what actuators do;
px that the camera's picture has moved by; share of a turn of all hues."""
FEW, CHANGED = 20, 50
"""Episodes that `foretell adapt` is given, and problems of each changed world."""
TICKS_PER_SECOND, IN_REAL_TIME = 10.0, 20


def adapting(found: Pretrained, change: str, options: Options) -> Iterator[Row]:
    """The same problems of a changed world: with the model as it is; adapted to a few episodes; and while it acts."""
    world, config = found.world(**CHANGES[change]), evaluation(found, options)
    planner, controller = (config.planner, config.controller) if options.quick else THOROUGH
    config = replace(config, planner=planner, controller=controller, imitate=False)
    task, problems = world.task(**config.task), config.problems[:CHANGED]
    few = 3 if options.quick else FEW

    def reached(controller: Controller) -> Outcome:
        return run_controller(task, problems, controller, seed=config.seed)

    frozen = reached(controller_for(found.model, found.parts, config))
    yield share(f"robots.adapt.{change}.frozen", frozen.solved, (0,), {})
    online = reached(controller_for(found.model, found.parts, config, adaptation=Adaptation()))
    yield share(f"robots.adapt.{change}.online", online.solved, (0,), {"frozen": frozen.success})
    with tempfile.TemporaryDirectory() as folder:
        store, started = Path(folder) / "episodes", time.perf_counter()
        # Apart from the episodes of training, and from the problems.
        record((world.spec, world.episodes(few, seed=1)), store, episodes=few)
        settings = Adapt(steps=3, refine=2, distance=2) if options.quick else Adapt()
        adapt(found.folder, store, Path(folder) / "run", settings, objective=found.recipe.training.objective)
        seconds, made = time.perf_counter() - started, load(Path(folder) / "run")
    adapted = reached(controller_for(made.model, made.parts, config))
    beside = {"frozen": frozen.success, "episodes": float(few), "seconds": seconds}
    yield share(f"robots.adapt.{change}.few_episodes", adapted.solved, (0,), beside)


def real_time(found: Pretrained, options: Options) -> Iterator[Row]:
    """Ticks at whose end no action had come, the simulator in another process."""
    config = evaluation(found, options)
    made = run_real_time(
        found.recipe.world,
        found.recipe.options,
        config.task,
        config.problems[: 1 if options.quick else IN_REAL_TIME],
        controller_for(found.model, found.parts, config),
        hz=TICKS_PER_SECOND,
    )
    beside = {"late_plans": made.late / max(1, made.count), "success": float(made.solved.mean())}
    missed = np.arange(made.count) < made.missed
    yield share("robots.realtime.misses", missed, (0,), {**beside, "ticks_per_second": TICKS_PER_SECOND})


def measures(name: str, found: Pretrained) -> dict[str, Measure]:
    """All of one world's, by the prefix of their rows."""
    rows: dict[str, Measure] = {}
    for offset in OFFSETS:

        def one(options: Options, offset: int = offset) -> Iterator[Row]:
            yield success(found, offset, options)

        rows[f"robots.{name}.o{offset}"] = one
    rows[f"robots.{name}.p"] = functools.partial(planning, found)
    rows[f"robots.recover.{name}"] = functools.partial(recovery, found)
    if name == ADAPTS:
        for change in CHANGES:
            rows[f"robots.adapt.{change}"] = functools.partial(adapting, found, change)
    if name == TICKS:
        rows["robots.realtime"] = functools.partial(real_time, found)
    return rows


def train(name: str, folder: Path, out: Path, *, workers: int) -> None:
    """Record and train as the recipe says, into `folder`, and make what ships of it in `out`."""
    recipe, lines = RECIPES[name], Lines()
    if not (folder / EPISODES).exists():
        record_world(recipe, folder, seed=0, listener=lines, workers=workers)
    train_stages(recipe, folder, seed=0, listener=lines)
    pack(name, folder, out, lines)


def pack(name: str, folder: Path, out: Path, lines: Lines) -> None:
    """Make what ships of the run in `folder`; where there is no room for cloning, what it reaches is on the card."""
    config = RECIPES[name].evaluation
    reach = 2 * int(config.task["offset"])
    left = ship(folder / RUN, out, seed=0, reach=reach, command=command(name), say=lines.say)
    cloning = left.get(f"{IMITATION}.cloning")
    if isinstance(cloning, Imitation):
        found = opened(name, out)
        lines.say("what cloning reaches, for which there is no room")
        outcome = run_policy(found.world().task(**config.task), config.problems, Imitating(found.model, cloning))
        reached = "{:.0%} [{:.0%}, {:.0%}] of {}".format(outcome.success, *outcome.interval, len(outcome.solved))
        write_section(
            out / CARD,
            "## Left out",
            "There is no room for behaviour cloning. When this was made it reached"
            f" {reached} problems of the benchmark, {config.task['offset']} steps ahead.",
        )


def command(name: str) -> str:
    """How a model that ships is made again."""
    return f"python -m benchmarks.robots --world {name} --train DIR"


def main(arguments: list[str]) -> None:
    """Measure the worlds asked for."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--world", choices=list(RECIPES), action="append")
    parser.add_argument("--train", type=Path, metavar="DIR")
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    chosen, rest = parser.parse_known_args(arguments)
    wanted = chosen.world or list(RECIPES)
    rows: dict[str, Measure] = {}
    for name in wanted:
        place = FOLDER / name
        if chosen.train is not None:
            place = place if chosen.ship else chosen.train / name / "shipped"
            train(name, chosen.train / name, place, workers=chosen.workers)
        if place.exists():
            rows |= measures(name, opened(name, place))
    # Kept apart, as each takes its time.
    result = run("robots" if len(wanted) > 1 else f"robots_{wanted[0]}", rows, rest, module="robots")
    if "--keep" in rest and len(wanted) == 1:
        tell(wanted[0], result)


def tell(name: str, result: Mapping[str, Any]) -> None:
    """What was measured, on the card of the model that ships."""
    lines = [f"By `python -m benchmarks.robots --world {name} --keep`, {result['machine']}:"]
    for row in result["rows"]:
        ends = "" if row["interval"] is None else " [{:.4g}, {:.4g}]".format(*row["interval"])
        beside = "".join(f"; {what} {value:.4g}" for what, value in row["baselines"].items())
        lines.append(f"`{row['id']}` {row['value']:.4g}{ends} {row['unit']}, n = {row['n']}{beside}")
    write_figures(FOLDER / name, lines)


if __name__ == "__main__":
    main(sys.argv[1:])
