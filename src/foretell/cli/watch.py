"""`foretell watch`: streams through episodes and says where a run's model is not to be trusted, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.cli.console import show_notice
from foretell.errors import DataError, SpecError

if TYPE_CHECKING:
    from foretell.spec import Episode, Spec

_POLL = 0.5


@dataclass(frozen=True, kw_only=True)
class Watch(Command):
    """Watch a stream and say where a run is not to be trusted, and why.

    Prints events as they occur: what was not predicted, what is unlike training, what is missing. An event is a step
    at which trust is lost, or returns. Of channels that are grounded in the run it also tells how they, errors of
    their forecasts and actions depart from calibration, at the same level once more. The run must be calibrated:
    `foretell train` does it where it holds enough episodes out, `foretell calibrate` does it better.

      foretell watch runs/rooms data/today
      foretell watch runs/rooms data/today --report today.html
      foretell watch runs/rooms data/today --follow --idle 60
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run", metavar="RUN")]
    """A calibrated run."""
    store: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STORE")]
    """The episodes to stream through."""
    level: Annotated[
        float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: 0.01, or the lowest there is)")
    ] = None
    """Share of ordinary episodes that may alarm."""
    follow: bool = False
    """Go on with episodes that are still being recorded, until interrupted."""
    idle: Annotated[float, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="(default: for ever)")] = float("inf")
    """With --follow: stop when nothing new has come for so long."""

    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Write a page with p-values over time, events and what they depend on; must not exist."""

    def __post_init__(self) -> None:
        if self.level is not None and not 0 < self.level < 1:
            raise SpecError(f"--level: a share between 0 and 1 expected, got {self.level:g}")
        if not self.idle > 0:
            raise SpecError(f"--idle: more than 0 seconds expected, got {self.idle:g}")

    def run(self, context: Context) -> dict[str, Any]:
        """Watch; returns counts and the events."""
        from foretell.evaluation.report import write_report
        from foretell.evaluation.trust import calibration_of, departing, is_event, verdicts_of, why
        from foretell.evaluation.watch_page import PAGES, Watched, watch_report
        from foretell.model.checkpoint import load
        from foretell.trust.departures import Departures
        from foretell.trust.monitor import Monitor, Verdict

        if self.report is not None and self.report.exists():
            raise DataError(f"--report: {self.report} exists; name another file")
        found = load(self.run_folder)
        calibration = calibration_of(found, self.run_folder)
        level = max(0.01, calibration.lowest) if self.level is None else self.level
        monitor = Monitor(found.model, calibration, level=level)
        events: list[dict[str, Any]] = []
        departed: list[dict[str, Any]] = []
        departures = [p for p in found.parts.values() if isinstance(p, Departures)]
        shown: list[Watched] = []
        episodes = steps = alarmed = 0
        try:
            for number, episode in self._episodes(found.model.spec):
                verdicts: list[Verdict] = []
                for verdict in verdicts_of(monitor, episode):
                    if is_event(verdict, verdicts[-1] if verdicts else None):
                        told = f"episode {number}, step {verdict.step}: {why(verdict.reasons)}"
                        context.console.print(told, soft_wrap=True, markup=False)
                        events.append({"episode": number, **verdict.to_json()})
                    verdicts.append(verdict)
                episodes, steps = episodes + 1, steps + len(verdicts)
                watched = Watched(number, episode, verdicts)
                said = [each for made in departures for each in departing(found.model, made, episode, level)]
                for step, reason in said:
                    context.console.print(f"episode {number}, step {step}: {reason}", soft_wrap=True, markup=False)
                    departed.append({"episode": number, "step": step, "reason": reason})
                alarmed += watched.alarm is not None or bool(said)
                if self.report is not None and watched.alarm is not None and len(shown) < PAGES:
                    shown.append(watched)
        except KeyboardInterrupt:
            if not self.follow:
                raise
        result = {
            "run": str(self.run_folder),
            "store": str(self.store),
            "notice": found.model.spec.notice,
            "level": level,
            "episodes": episodes,
            "steps": steps,
            "alarmed": alarmed,
            "events": events,
            "departures": departed,
        }
        if self.report is not None:
            command = f"foretell watch {self.run_folder} {self.store} --level {level:g} --report {self.report}"
            page = watch_report(found.model, calibration, result, shown, command=command)
            write_report(page, self.report)
            result["report"] = str(self.report)
        return result

    def show(self, result: dict[str, Any], console: Console) -> None:
        """How many episodes alarmed."""
        show_notice(result["notice"], console)
        console.print(
            f"{result['alarmed']:,} of {result['episodes']:,} episodes alarmed, at a level of {result['level']:.2g}:"
            f" so large a share of ordinary episodes may",
            soft_wrap=True,
        )

    def _episodes(self, spec: Spec) -> Iterator[tuple[int, Episode]]:
        """Number and episode, one after the other; with `follow`, those still to come, too."""
        from foretell.episodes.store import EpisodeStore

        done, last = 0, time.monotonic()
        while True:
            try:
                store = EpisodeStore(self.store)
            except DataError:
                # A store that is being written may not be there yet.
                if not self.follow or time.monotonic() - last >= self.idle:
                    raise
                store = None
            if store is not None:
                spec.require(store.spec, str(self.store))
                for number in range(done, len(store)):
                    yield number, store.read(number)
                    last = time.monotonic()
                done = max(done, len(store))
            if not self.follow or time.monotonic() - last >= self.idle:
                return
            time.sleep(_POLL)
