"""`foretell what-if`: what another plan would have led to, or why that cannot be told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from foretell.cli.command import Command, Context
from foretell.cli.console import show_notice
from foretell.errors import DataError, SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foretell.spec import ActionSpec


@dataclass(frozen=True, kw_only=True)
class WhatIf(Command):
    """Ask a run what another plan would lead to, from some step of an episode on.

    The plan that it is compared with is what was recorded from there on, then nothing; --base changes it. It abstains,
    and says why, where the logs never varied an action so in such a state: see `foretell overlap`.

      foretell what-if runs/ward data/new --episode 3 --at 300 --set basal=0
      foretell what-if runs/ward data/new --set bolus=0@0 --set bolus=4@6
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A folder that `foretell train` wrote."""
    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """Episodes of the same kind."""
    episode: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Which episode, from 0."""
    at: Annotated[int | None, tyro.conf.arg(metavar="STEP", help_behavior_hint="(default: its last)")] = None
    """The step that is now; what was recorded later is not looked at."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 48
    """Raw steps of the plans."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE[@STEP]")] = ()
    """An action of the other plan, at every step or at one, from 0; repeat it for more."""
    base: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE[@STEP]")] = ()
    """An action of both plans."""
    channel: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: what is read)")] = None
    """What to forecast: a channel that is grounded in the run, or has a readout."""
    training_store: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: where they were)")
    ] = None
    """Where the episodes that the run learned from are now; needed once."""
    ledger: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Add question and answer to this ledger, whose lines hang together by hashes; neither names anybody."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SpecError(f"--steps: 1 or more expected, got {self.steps}")
        if not self.set:
            raise SpecError("--set: what the other plan does otherwise expected, such as --set basal=0")

    def run(self, context: Context) -> dict[str, Any]:
        """Ask; returns the answer, or the doubts."""
        from foretell.episodes.store import EpisodeStore
        from foretell.episodes.units import require_units
        from foretell.evaluation.asking import overlap_of, reads_of
        from foretell.evaluation.ledger import Ledger
        from foretell.evaluation.what_if import what_if
        from foretell.model.checkpoint import WEIGHTS
        from foretell.training import TrainRecord

        store = EpisodeStore(self.store)
        if not 0 <= self.episode < len(store):
            raise DataError(f"--episode: 0 to {len(store) - 1} expected, got {self.episode}")
        found, overlap = overlap_of(self.run_folder, seed=context.seed, training_store=self.training_store)
        found.model.spec.require(store.spec, str(store.path))
        whole = store.read(self.episode)
        last = len(whole) - 1
        now = last if self.at is None else self.at
        if not 0 <= now <= last:
            raise DataError(f"--at: 0 to {last} expected for episode {self.episode}, got {now}")
        plan = _recorded(found.model.spec.action, whole.actions[now : now + self.steps], self.steps)
        plan = changed(found.model.spec.action, plan, self.base, "--base")
        other = changed(found.model.spec.action, plan, self.set, "--set")
        require_units(store.spec, whole.until(now), found.model.learned_from, f"{store.path}: episode {self.episode}")
        reads, intervals = reads_of(found, self.channel, self.run_folder)
        longest = TrainRecord.read(self.run_folder).longest
        said = what_if(found.model, reads, overlap, whole.until(now), plan, other, longest=longest, intervals=intervals)
        result = {"notice": found.model.spec.notice, **said.to_json()}
        if self.ledger is not None:
            weights = hashlib.sha256((self.run_folder / WEIGHTS).read_bytes()).hexdigest()
            asked = {"model": weights, "steps": self.steps, "set": list(self.set), "base": list(self.base)}
            result["ledger"] = Ledger(self.ledger).append(asked, said.to_json())
        return result

    def show(self, result: dict[str, Any], console: Console) -> None:
        """The forecasts and their difference, or why there is none."""
        show_notice(result["notice"], console)
        if not result["answered"]:
            console.print("No answer: the logs cannot tell.", soft_wrap=True)
            for doubt in result["doubts"]:
                console.print(f"  {doubt}", soft_wrap=True, markup=False)
            return
        names = [f"{f} ({u})" if u else f for f, u in zip(result["fields"], result["units"], strict=True)]
        for i, name in enumerate(names):
            table = Table("steps ahead", "as planned", "otherwise", "effect", title=name)
            for k, step in enumerate(result["steps"]):
                each = (result[part][k][i] for part in ("plan", "other", "effect"))
                table.add_row(str(step), *(f"{x:.4g}" for x in each))
            console.print(table)
        for name, share in result["compared"].items():
            console.print(
                f"{name}: differed as much, for no reason that was seen, at {share:.1%} of comparable steps",
                soft_wrap=True,
                markup=False,
            )


def _recorded(action: ActionSpec, actions: NDArray[Any], steps: int) -> NDArray[np.float64]:
    """(steps, A) what was recorded, then nothing."""
    import numpy as np

    plan = np.repeat(action.still[None], steps, axis=0)
    plan[: len(actions)] = actions
    return plan


def changed(action: ActionSpec, plan: NDArray[np.float64], settings: Sequence[str], option: str) -> NDArray[np.float64]:
    """The plan (K, A) with NAME=VALUE or NAME=VALUE@STEP; SpecError for what is none, naming the option."""
    plan = plan.copy()
    for setting in settings:
        name, equals, rest = setting.partition("=")
        text, at, step = rest.partition("@")
        try:
            value, where = float(text), slice(None) if not at else int(step)
        except ValueError:
            equals = ""
        if not equals or name not in action.names:
            raise SpecError(
                f"{option}: NAME=VALUE or NAME=VALUE@STEP expected, NAME one of {', '.join(action.names)},"
                f" got {setting!r}"
            )
        if isinstance(where, int) and not 0 <= where < len(plan):
            raise SpecError(f"{option}: steps are 0 to {len(plan) - 1}, got {setting!r}")
        plan[where, action.names.index(name)] = value
    return plan
