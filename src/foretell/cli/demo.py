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
FOLDERS = {"two_rooms": Path("runs/demo"), "glucose": Path("runs/demo-glucose")}
"""Where the demo of each world goes, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Record, train, plan, forecast and report, in minutes.

    Of two rooms: records random walks, trains a world model from their pixels, and
    asks it to reach goals in the other room. Of glucose: records virtual patients
    with type 1 diabetes, learns what meals and insulin do, and answers about one it
    has not learned from: forecast, what if, treatment, and when not to trust it.
    Writes report.html and report.json. An earlier demo in the same folder is
    replaced.

      foretell demo
      foretell demo glucose
      foretell demo --out runs/other --seed 1
    """

    world: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[two_rooms|glucose]")] = "two_rooms"
    """The world."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="TO", help_behavior_hint="(default: runs/demo, runs/demo-glucose)")
    ] = None
    """Folder to write."""

    def __post_init__(self) -> None:
        if self.world not in FOLDERS:
            raise SpecError(f"demo: a world of {', '.join(FOLDERS)} expected, got {self.world!r}")

    @property
    def folder(self) -> Path:
        """Where it goes."""
        return FOLDERS[self.world] if self.out is None else self.out

    def run(self, context: Context) -> dict[str, Any]:
        """Run the demo; returns what report.json holds."""
        from foretell.evaluation import demo, glucose_demo

        run = demo.run_demo if self.world == "two_rooms" else glucose_demo.run_glucose_demo
        return run(self.folder, seed=context.seed, listener=_Listener(context))

    def show(self, result: dict[str, Any], console: Console) -> None:
        """The table, the time, and where the report is."""
        if self.world == "glucose":
            show_notice(result["notice"], console)
            console.print(_answers(result))
        else:
            ahead = result["forecast"]
            forecast = {
                "horizon": ahead["horizon"],
                "unit": "px",
                "rmse": ahead["rmse_px"],
                "no_change": ahead["no_change_px"],
            }
            console.print(figures("two rooms", {**result, "forecast": forecast}))
        seconds, train = result["seconds"], result["train"]
        parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if name != "total")
        console.print(
            f"{train['parameters'] / 1e6:.2f} M parameters, {train['frames_per_second']:,.0f} frames a second;"
            f" {parts}; {seconds['total']:.0f} s and {result['peak_memory_mb']:,.0f} MB in all",
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
