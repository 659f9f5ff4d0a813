"""`foretell evaluate`: how well a run plans and forecasts, beside its floors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.cli.console import show_notice, table
from foretell.cli.record import world_options
from foretell.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Measure how well a run plans and forecasts.

    Plans held-out problems of the world that its episodes were recorded in, beside what random actions, heading
    straight for the goal and imitation reach; forecasts held-out episodes, beside 'nothing changes'. Writes
    evaluation.json and report.html into the run.

      foretell evaluate runs/rooms
      foretell evaluate runs/rooms --episodes 20 --set distance=far --json
      foretell evaluate runs/pusht --set offset=50
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A folder that `foretell train` wrote."""
    episodes: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """How many problems to plan."""
    world: Annotated[str | None, tyro.conf.arg(metavar="WORLD", help_behavior_hint="(default: the episodes')")] = None
    """The built-in world to plan in."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """An option of the world's task; repeat it for more. two_rooms: distance, any or far (long shortest paths, with a
    budget of 1.5 times these). pusht, reacher, pointmaze: offset, the steps to the goal; budget; disturbed,
    push or goal."""
    store: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: where they were)")] = None
    """Where the episodes that the run learned from are now."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise SpecError(f"--episodes: 1 or more expected, got {self.episodes}")

    def run(self, context: Context) -> dict[str, Any]:
        """Evaluate; returns what evaluation.json holds."""
        from foretell.evaluation.imagination import imagined_rollouts
        from foretell.evaluation.pages import report
        from foretell.evaluation.report import write_json, write_report
        from foretell.evaluation.runs import open_run
        from foretell.evaluation.suite import EvaluationConfig, evaluate, readout_for
        from foretell.training.log import NAME as LOG
        from foretell.training.log import read_log

        def say(what: str) -> None:
            context.console.print(what)

        found = open_run(self.run_folder, store=self.store)
        world, task = found.world(self.world), world_options(self.set)
        # Before the work, not after it.
        world.task(**task)
        config = EvaluationConfig(episodes=self.episodes, seed=context.seed, task=task)
        say("encoding the episodes")
        recorded = found.recorded()
        readout = readout_for(found.model, found.parts, recorded, seed=context.seed)
        made = evaluate(found.model, found.parts, recorded, world, config, readout=readout, say=say)
        result = {"run": str(self.run_folder), "world": world.name, "options": dict(world.options), **made.to_json()}
        result["notice"] = found.model.spec.notice
        page = report(
            made,
            title=f"{world.name.replace('_', ' ')}: evaluation of {self.run_folder.name}",
            command=f"foretell evaluate {self.run_folder} --episodes {self.episodes} --seed {context.seed}"
            + "".join(f" --set {setting}" for setting in self.set),
            rollouts=imagined_rollouts(found.model, recorded, made.planning, readout),
            block=found.model.config.block,
            log=read_log(self.run_folder / LOG),
            stages=made.seconds,
            facts={"Run": {"folder": self.run_folder, "seed": context.seed, "threads": context.threads}},
            notice=found.model.spec.notice,
        )
        write_json(result, self.run_folder / "evaluation.json")
        write_report(page, self.run_folder / "report.html")
        return result

    def show(self, result: dict[str, Any], console: Console) -> None:
        """The table, and where the report is."""
        show_notice(result["notice"], console)
        console.print(figures(result["world"], result))
        console.print(f"wrote {result['run']}/evaluation.json and {result['run']}/report.html", soft_wrap=True)


def figures(title: str, result: Mapping[str, Any]) -> Any:
    """A table of an evaluation: success beside its floors, forecasts, replanning, plans that leave training."""
    from foretell.evaluation.intervals import wilson
    from foretell.evaluation.suite import FLOORS

    planning, forecast, leaving = result["planning"], result["forecast"], result["plans_leaving_training"]
    shown = table(title.replace("_", " "), "", "value>", "95% interval>")
    low, high = planning["interval"]
    shown.add_row(
        f"goals reached, {planning['episodes']} held out",
        _share(planning["success"]),
        f"{_share(low)} to {_share(high)}",
        style="bold",
    )
    for key, name in ((key, name) for key, name in FLOORS.items() if key in planning):
        low, high = wilson(round(planning[key] * planning["episodes"]), planning["episodes"])
        shown.add_row(f"  {name}", _share(planning[key]), f"{_share(low)} to {_share(high)}")
    if forecast is not None:
        unit = forecast["unit"]
        for name, key, style in (
            (f"forecast error, {forecast['horizon']} steps ahead", "rmse", "bold"),
            ("  nothing changes", "no_change", None),
        ):
            ends = forecast.get("interval" if key == "rmse" else "no_change_interval")
            between = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""
            shown.add_row(name, f"{forecast[key]:.2f} {unit}", between, style=style)
    shown.add_row("replanning, median", f"{planning['replan_ms']:.0f} ms", "")
    if leaving is not None:
        for what in ("states", "actions"):
            shown.add_row(f"plans that leave the {what} seen in training", _share(leaving[what]["share"]), "")
    return shown


def _share(value: float) -> str:
    percent = 100 * value
    return f"{percent:.0f}%" if abs(percent - round(percent)) < 0.05 else f"{percent:.1f}%"
