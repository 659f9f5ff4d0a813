"""`foretell demo`: record, train, ask and report, in one command, for one of the built-in worlds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.cli.console import show_notice, table
from foretell.cli.evaluate import figures
from foretell.cli.train import watching
from foretell.errors import SpecError
from foretell.training.loop import OnStep

T = TypeVar("T")
TRAINED = ("two_rooms", "glucose")
"""Demos that record and train; the others use models that ship."""


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """See it work, in minutes: plan, forecast and report.

    Of two rooms: records random walks, trains a world model from their pixels, and
    asks it to reach goals in the other room. Of glucose: records virtual patients
    with type 1 diabetes, learns what meals and insulin do, and answers about one it
    has not learned from: forecast, what if, treatment, and when not to trust it.
    Of a model that ships (pusht, reacher, pointmaze_medium, pointmaze_large): plans
    on a simulator that others wrote, which pip install 'foretell[robots]' brings.
    Writes report.html and report.json. An earlier demo in the same folder is
    replaced.

      foretell demo
      foretell demo glucose
      foretell demo reacher
      foretell demo --out runs/other --seed 1
    """

    world: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WORLD")] = "two_rooms"
    """two_rooms, glucose, or a model that ships."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="TO", help_behavior_hint="(default: runs/demo, runs/demo-WORLD)")
    ] = None
    """Folder to write."""

    def __post_init__(self) -> None:
        if self.world not in TRAINED:
            from foretell.evaluation.pretrained import names

            if self.world not in names():
                known = ", ".join((*TRAINED, *names()))
                raise SpecError(f"demo: a world of {known} expected, got {self.world!r}")

    @property
    def folder(self) -> Path:
        """Where it goes."""
        apart = "" if self.world == "two_rooms" else f"-{self.world}"
        return Path(f"runs/demo{apart}") if self.out is None else self.out

    def run(self, context: Context) -> dict[str, Any]:
        """Run the demo; returns what report.json holds."""
        from foretell.evaluation import demo, glucose_demo, pretrained_demo

        listener = _Listener(context)
        if self.world == "two_rooms":
            return demo.run_demo(self.folder, seed=context.seed, listener=listener)
        if self.world == "glucose":
            return glucose_demo.run_glucose_demo(self.folder, seed=context.seed, listener=listener)
        return pretrained_demo.run_pretrained_demo(self.world, self.folder, seed=context.seed, listener=listener)

    def show(self, result: dict[str, Any], console: Console) -> None:
        """The table, the time, and where the report is."""
        if self.world == "glucose":
            show_notice(result["notice"], console)
            console.print(_answers(result))
        elif self.world != "two_rooms":
            console.print(figures(self.world, result))
        else:
            ahead = result["forecast"]
            forecast = {
                "horizon": ahead["horizon"],
                "unit": "px",
                "rmse": ahead["rmse_px"],
                "no_change": ahead["no_change_px"],
            }
            console.print(figures("two rooms", {**result, "forecast": forecast}))
        seconds, train = result["seconds"], result.get("train")
        parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if name != "total")
        made = (
            f"{result['parameters'] / 1e6:.2f} M parameters"
            if train is None
            else f"{train['parameters'] / 1e6:.2f} M parameters, {train['frames_per_second']:,.0f} frames a second"
        )
        console.print(
            f"{made}; {parts}; {seconds['total']:.0f} s and {result['peak_memory_mb']:,.0f} MB in all",
            soft_wrap=True,
        )
        console.print(f"wrote {self.folder / 'report.html'} and {self.folder / 'report.json'}", soft_wrap=True)


def _answers(result: dict[str, Any]) -> Any:
    """A table of the four answers, of the patient and of all who are held out."""
    shown = table("glucose", "", f"{result['patient']}>", f"{len(result['patients'])} held out>", "beside, of all>")
    one, every = (result["forecast"][who] for who in ("patient", "all"))
    for k, minutes in enumerate(one["minutes"]):
        figure = (f"{x:.1f} mg/dL" for x in (one["rmse"][k], every["rmse"][k]))
        shown.add_row(f"forecast error, {minutes} min ahead", *figure, f"last reading {every['last_reading'][k]:.1f}")
    covered = result["coverage_90"]
    shown.add_row("readings inside 90% intervals", *(f"{covered[who]:.1%}" for who in ("patient", "all")), "")
    questions = result["what_if"]["questions"]
    answered, asked = sum(q["answered"] for q in questions), result["what_if"]["all"]
    of_all = [e["answered"] * e["asked"] for e in asked.values()]
    count = sum(e["asked"] for e in asked.values())
    shown.add_row("what-ifs answered", f"{answered} of {len(questions)}", f"{sum(of_all):.0f} of {count}", "")
    mine, them = result["treatment"]["patient"], result["treatment"]["all"]
    for name, key in (("time from 70 to 180 mg/dL", "tir"), ("time below 70", "below_70")):
        row = (f"{part['planned'][key]:.1%}" for part in (mine, them))
        shown.add_row(f"{name}, planned", *row, f"as prescribed {them['usual'][key]:.1%}")
    for what, found in result["trust"]["all"].items():
        shown.add_row(f"alarmed: {what}", "", f"{found['either']:.0%} of {found['n']}", "")
    return shown


@dataclass(frozen=True)
class _Listener:
    context: Context

    def say(self, what: str) -> None:
        """A line on standard error."""
        self.context.console.print(what, soft_wrap=True)

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """A progress bar."""
        return self.context.track(items, what, total)

    def training(self, steps: int) -> AbstractContextManager[OnStep | None]:
        """A progress bar with the losses."""
        return watching(self.context.console, steps)
