"""`foretell overlap`: where logs varied what was done, and where they never did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from foretell.cli.command import Command, Context
from foretell.cli.console import show_notice


@dataclass(frozen=True, kw_only=True)
class Overlap(Command):
    """Show where logs varied what was done, and where they never did, so that no what-if can be answered.

    Of each action: how often it differed from what was to be expected in such a state by half of what is usual, or
    more. What always follows from what is seen leaves no trace of what another action would lead to. Of a run, the
    episodes that it learned from are judged, once, and what is found travels with it.

      foretell overlap data/ward
      foretell overlap runs/ward
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A run folder, or an episode store."""

    def run(self, context: Context) -> dict[str, Any]:
        """Judge; returns the source and what its logs tell of each action."""
        from foretell.episodes.store import EpisodeStore
        from foretell.evaluation.asking import overlap_in, overlap_of

        context.console.print("judging how far each action followed from what was seen", soft_wrap=True)
        if (self.source / "train.json").exists():
            _, found = overlap_of(self.source, seed=context.seed)
        else:
            store = EpisodeStore(self.source)
            found = overlap_in(store, range(len(store)), seed=context.seed)
        return {
            "source": str(self.source),
            "notice": found.spec.notice,
            "actions": [{**asdict(v), "varied": v.varied, "told": str(v)} for v in found.report()],
        }

    def show(self, result: dict[str, Any], console: Console) -> None:
        """A line for each action, then where it varied."""
        show_notice(result["notice"], console)
        for action in result["actions"]:
            console.print(action["told"], soft_wrap=True, markup=False)
        table = Table("steps with", *(a["action"] for a in result["actions"]), title="share of steps that differed")
        for where in result["actions"][0]["where"]:
            table.add_row(where, *(f"{a['where'][where]:.1%}" for a in result["actions"]))
        console.print(table)
