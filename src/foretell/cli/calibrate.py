"""`foretell calibrate`: teaches a run how far to trust it, on episodes that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Calibrate(Command):
    """Calibrate a run: p-values of surprise and novelty, and alarms that are rarely false.

    `foretell train` does it on the episodes that it holds out. More episodes allow rarer false alarms: at most 1 in
    100 takes 499. The guarantee is for episodes like these; calibrate anew where the world has changed.

      foretell calibrate runs/rooms data/more-rooms
      foretell calibrate runs/rooms data/more-rooms --level 0.01
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A folder that `foretell train` wrote."""
    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """Episodes of the same kind that it was not trained on; of its own store, those that it held out."""
    level: Annotated[float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: any)")] = None
    """Share of false alarms that must be possible: too few episodes for it are refused."""
    training_store: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: where they were)")
    ] = None
    """Where the episodes that the run learned from are now; needed once."""

    def __post_init__(self) -> None:
        if self.level is not None and not 0 < self.level < 1:
            raise SpecError(f"--level: a share between 0 and 1 expected, got {self.level:g}")

    def run(self, context: Context) -> dict[str, Any]:
        """Calibrate; returns the run, the store, how many episodes and what level they allow."""
        from foretell.episodes.store import EpisodeStore
        from foretell.evaluation.trust import calibrate_run

        return calibrate_run(
            self.run_folder,
            EpisodeStore(self.store),
            seed=context.seed,
            level=self.level,
            training_store=self.training_store,
            say=lambda what: context.console.print(what, soft_wrap=True),
        )

    def show(self, result: dict[str, Any], console: Console) -> None:
        """On what, and what can be asked for now."""
        console.print(
            f"Calibrated {result['run']} on {result['episodes']:,} episodes: alarms may be set to a share of false ones"
            f" of {result['lowest_level']:.2g} or more",
            soft_wrap=True,
        )
        console.print(f"next: foretell watch {result['run']} STORE", soft_wrap=True)
