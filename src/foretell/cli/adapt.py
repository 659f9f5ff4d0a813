"""`foretell adapt`: a model learned in one place, adapted to another with a few episodes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from foretell.adapt import Adapt as Settings
from foretell.cli.command import Command, Context
from foretell.cli.train import watching


@dataclass(frozen=True, kw_only=True)
class Adapt(Command):
    """Adapt a trained model to a world that has changed.

    A camera that was moved, an actuator that does less, another floor: a few dozen episodes of the world as it is now
    are enough to go on from what the model knows. Writes a new run; the old one stays as it is. Of the whole model
    adapted and of its predictor alone, that is written which foretells the episodes held out better; the model as it
    was, where neither does.

      foretell record reacher --set shift=6 --episodes 20 --out data/moved
      foretell adapt reacher data/moved --out runs/moved
      foretell adapt runs/rooms data/other --out runs/other
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A folder that `foretell train` wrote, or the name of a model that ships."""
    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """Episodes of the world as it is now."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Folder to write; it must not exist yet."""
    config: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)

    def run(self, context: Context) -> dict[str, Any]:
        """Adapt; returns the folder, what was learned from, and the time it took."""
        from foretell.adapt import adapt
        from foretell.evaluation.pretrained import folder_of, objective_of
        from foretell.training import TrainRecord

        place, started = folder_of(self.model), time.perf_counter()
        with watching(context.console, self.config.steps) as watch:
            outcome = adapt(
                place,
                self.store,
                self.out,
                self.config,
                objective=objective_of(self.model),
                seed=context.seed,
                on_step=watch,
            )
        made = TrainRecord.read(self.out)
        return {
            "out": self.out,
            "model": self.model,
            "store": made.store,
            "episodes": len(made.training),
            "held_out": len(made.held_out),
            "seconds": time.perf_counter() - started,
            "adapted": outcome.kind,
            "errors": dict(outcome.errors),
        }

    def show(self, result: dict[str, Any], console: Console) -> None:
        """What was adapted to what, and what to do next."""
        console.print(
            f"Adapted {result['model']} to {result['episodes']} episodes, {result['held_out']} held out, in"
            f" {result['seconds']:.0f} s: {result['out']}",
            soft_wrap=True,
        )
        if result["held_out"]:
            errors = ", ".join(f"{error:.3g} {kind}" for kind, error in result["errors"].items())
            console.print(f"Error on those held out, as a share of no change: {errors}", soft_wrap=True)
        if result["adapted"] == "as it was":
            console.print("Adapting made it no better: what was written is the model as it was", soft_wrap=True)
        console.print(f"next: foretell evaluate {result['out']}", soft_wrap=True)
