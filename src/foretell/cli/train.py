"""`foretell train`: from an episode store to a run folder with a world model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from foretell.cli.command import Command, Context
from foretell.cli.console import rank
from foretell.errors import DataError
from foretell.training.config import TrainConfig

_APART = ("step", "learning_rate", "frames_per_second", "seconds", "gradient")
"""What a record of the log holds beside the losses and the spread."""
_EVERY = 30.0
"""Seconds between two lines about the progress where nobody watches a bar."""


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a world model on recorded episodes.

    Writes a run folder: the model, how it was trained, a log, and what is needed to go on when interrupted, by
    Ctrl-C or worse. Some episodes are held out for `foretell evaluate`. torchrun spreads a batch over processes.

      foretell train data/rooms --out runs/rooms
      foretell train data/rooms --out runs/rooms --resume
      torchrun --nproc-per-node 2 -m foretell train data/rooms --out runs/rooms
    """

    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """The episodes: a folder that `foretell record` or `foretell import` wrote, or a LeRobot v3 folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder to write; it must not exist yet, unless to --resume."""
    resume: bool = False
    """Go on with the run at --out, given the same options; a finished one stays as it is."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: from scratch)")] = None
    """A run to begin with the weights of: its model has the same channels, actions and sizes."""
    cache: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: .cache inside STORE)")] = (
        None
    )
    """Folder for the decoded episodes, about as large as these are in memory."""
    calibrate: bool = True
    """Calibrate on the held-out episodes how far to trust the run, once it is trained."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    def run(self, context: Context) -> dict[str, Any]:
        """Train; returns the folder, what was trained on, counts, times and the last record of the log."""
        from foretell.training import TrainRecord, train
        from foretell.training.log import NAME as LOG
        from foretell.training.log import read_log
        from foretell.training.record import NAME as RECORD

        try:
            with watching(context.console, self.config.steps) as watch:
                train(
                    self.store,
                    self.out,
                    replace(self.config, seed=context.seed),
                    resume=self.resume,
                    init=self.init,
                    on_step=watch,
                    cache=self.cache,
                )
        except KeyboardInterrupt:
            if (self.out / RECORD).exists():
                raise KeyboardInterrupt(f"the same command with --resume goes on with {self.out}") from None
            raise
        calibrated = self._calibrated(context) if self.calibrate and not rank() else {}
        made = TrainRecord.read(self.out)
        log = read_log(self.out / LOG)
        return {
            "out": self.out,
            "store": made.store,
            "fingerprint": made.fingerprint,
            "seed": made.config.seed,
            "episodes": len(made.training),
            "held_out": len(made.held_out),
            "parameters": made.parameters,
            "steps": made.steps,
            "seconds": made.seconds,
            "frames_per_second": made.frames_per_second,
            "device": made.device,
            "precision": made.precision,
            "ranks": made.ranks,
            **calibrated,
            "last": log[-1] if log else {},
        }

    def _calibrated(self, context: Context) -> dict[str, Any]:
        """The lowest level of false alarms that can be asked for, or why there is none."""
        from foretell.episodes.store import EpisodeStore
        from foretell.evaluation.trust import PART, calibrate_run
        from foretell.model.checkpoint import load
        from foretell.trust.calibration import Calibration

        part = load(self.out).parts.get(PART)
        if isinstance(part, Calibration):
            return {"lowest_level": part.lowest}
        try:
            store = EpisodeStore(self.store)
            made = calibrate_run(self.out, store, seed=context.seed, say=context.console.print)
            return {"lowest_level": made["lowest_level"]}
        except DataError as error:
            return {"lowest_level": None, "not_calibrated": str(error)}

    def show(self, result: dict[str, Any], console: Console) -> None:
        """What was trained on what, how fast, what it came to, and what to do next."""
        many = f", {result['ranks']} processes" if result["ranks"] > 1 else ""
        console.print(
            f"Trained {result['parameters'] / 1e6:.2f} M parameters on {result['episodes']:,} episodes,"
            f" {result['held_out']:,} held out, to {result['out']}: {result['steps']:,} steps in"
            f" {result['seconds']:.0f} s, {result['frames_per_second']:,.0f} frames a second"
            f" ({result['device']}, {result['precision']}{many})",
            soft_wrap=True,
        )
        console.print(f"in the end {_losses(result['last'])}", soft_wrap=True)
        if result.get("lowest_level") is not None:
            console.print(
                f"calibrated: alarms may be set to a share of false ones of {result['lowest_level']:.2g} or more"
            )
        elif "not_calibrated" in result:
            console.print(f"not calibrated: {result['not_calibrated']}", soft_wrap=True)
        console.print(f"next: foretell evaluate {result['out']}", soft_wrap=True)


@contextmanager
def watching(console: Console, steps: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """What `train` is to call after each step: it moves a bar with the time left and the latest figures.

    Where nobody watches, a line now and then takes the bar's place.
    """
    if not console.is_terminal:
        yield _lines(console, steps)
        return
    with _Bar(console) as bar:
        task = bar.add_task("reading the episodes", total=None)
        begun = False

        def step(done: int, record: Mapping[str, float]) -> None:
            nonlocal begun
            if not begun:
                # From here on, so that neither reading nor the steps of an earlier process count in the time left.
                bar.reset(task, description="training", total=steps, completed=done)
                begun = True
            bar.figures = figures(record)
            bar.update(task, completed=done)

        yield step


def figures(record: Mapping[str, float | None]) -> str:
    """A record of the log on a line: frames a second, losses, spread; nothing for none."""
    speed = record.get("frames_per_second")
    return f"{speed:,.0f} frames/s, {_losses(record)}" if speed is not None else ""


def _losses(record: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" for name, value in record.items() if name not in _APART and value is not None
    )


class _Bar(Progress):
    """A bar, and under it a line of figures."""

    def __init__(self, console: Console) -> None:
        self.figures = ""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, transient=True)

    def get_renderables(self) -> Iterable[Any]:
        """The bar's line, then the figures'."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures, style="dim")


def _lines(console: Console, steps: int) -> Callable[[int, Mapping[str, float]], None]:
    said = time.monotonic()

    def step(done: int, record: Mapping[str, float]) -> None:
        nonlocal said
        if record and time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            console.print(f"step {done:,} of {steps:,}: {figures(record)}", soft_wrap=True)

    return step
