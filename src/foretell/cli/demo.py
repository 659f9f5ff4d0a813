"""`foretell demo`: record, train, plan, forecast and report, in one command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.cli.evaluate import figures
from foretell.cli.train import watching
from foretell.training.loop import OnStep

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Record, train, plan, forecast and report, in minutes.

    Records random walks in two rooms, trains a world model from their pixels, asks it to reach goals in the other
    room, and writes report.html and report.json. An earlier demo in the same folder is replaced.

      foretell demo
      foretell demo --out runs/other --seed 1
    """

    out: Annotated[Path, tyro.conf.arg(metavar="TO")] = Path("runs/demo")
    """Folder to write."""

    def run(self, context: Context) -> dict[str, Any]:
        """Run the demo; returns what report.json holds."""
        from foretell.evaluation.demo import run_demo

        return run_demo(self.out, seed=context.seed, listener=_Listener(context))

    def show(self, result: dict[str, Any], console: Console) -> None:
        """The table, the time, and where the report is."""
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
        console.print(f"wrote {self.out / 'report.html'} and {self.out / 'report.json'}", soft_wrap=True)


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
