"""`foretell import`: LeRobot folders, tables, and folders of videos, into an episode store."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.cli.record import counts, require_new, written
from foretell.errors import DataError, SpecError

if TYPE_CHECKING:
    from foretell.episodes.importers.source import Source
    from foretell.episodes.importers.table import TableOptions


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Turn recordings of other formats into an episode store.

    SOURCE is a LeRobot v3 folder; a CSV, TSV or Parquet file, or a folder of them; or a folder of mp4 videos,
    each with a table of the same name that has one row per frame. Missing values become masks; nothing is
    filled in. The action on a row moves it to the next row.

      foretell import cgm.csv --out data/cgm --episode patient --time minutes \\
        --time-unit min --observations glucose --actions insulin,carbs
      foretell import plant.parquet --out data/plant --time ts --hz 0.1 \\
        --observations flow=f1,f2 --observations level=l1
      foretell import clips/ --out data/clips --actions dx,dy --size 64,64
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """What to import."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder to write; it must not exist yet."""
    images: Literal["png", "mp4"] = "png"
    """How frames are kept: png loses nothing more, mp4 is smaller."""
    episode: Annotated[str | None, tyro.conf.arg(metavar="COL", help_behavior_hint="(default: one per file)")] = None
    """Tables: the column that tells episodes apart."""
    group: Annotated[str | None, tyro.conf.arg(metavar="COL")] = None
    """Tables: the column that says whom or what an episode is about (a patient, a machine): all or none of a group's
    episodes are trained on."""
    time: Annotated[str | None, tyro.conf.arg(metavar="COL", help_behavior_hint="(default: rows are steps)")] = None
    """Tables: the column of times, as numbers or ISO 8601 dates; they must increase."""
    time_unit: Literal["h", "min", "s", "ms", "us", "ns"] = "s"
    """Tables: the unit of times that are numbers."""
    observations: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="[NAME=]COL,...", help_behavior_hint="(repeatable; default: all other columns)"),
    ] = ()
    """Tables: columns that make up one channel, called NAME (else state)."""
    quantities: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="[NAME=]COL,...")] = ()
    """Tables: columns to keep for readouts and scoring, which the model never sees; NAME or quantities."""
    actions: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="COL,...")] = ()
    """Tables: columns that are actions."""
    exogenous: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="COL,...")] = ()
    """Tables: actions that nobody chooses but that are told of as they come (a meal, a feed)."""
    units: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="COL=UNIT,...")] = ()
    """Tables: units of columns."""
    bounds: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="COL=LOW:HIGH,...")] = ()
    """Tables: lowest and highest value of actions; planners keep to them."""
    hz: Annotated[float | None, tyro.conf.arg(metavar="HZ", help_behavior_hint="(default: as recorded)")] = None
    """Steps per second. Rows with times are placed on the nearest step; steps without a row are masked."""
    size: Annotated[str | None, tyro.conf.arg(metavar="H,W", help_behavior_hint="(default: as recorded)")] = None
    """Videos: height and width to resize to."""
    camera: Annotated[str, tyro.conf.arg(metavar="NAME")] = "camera"
    """Videos: name of the image channel."""
    notice: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: none)")] = None
    """What is to stand on every page and answer about these recordings, such as what they are not to be used for."""

    def run(self, context: Context) -> dict[str, Any]:
        """Import; returns the folder, counts, the spec, seconds and the store's fingerprint."""
        require_new(self.out)
        if not self.source.exists():
            raise DataError(f"{self.source}: a file or folder to import expected, there is none")
        from foretell.episodes.store import EpisodeStore
        from foretell.episodes.writer import EpisodeWriter

        started = time.perf_counter()
        source = self.open()
        if self.notice is not None:
            source = replace(source, spec=replace(source.spec, notice=self.notice))
        try:
            with EpisodeWriter(self.out, source.spec, images=self.images, metadata=source.metadata) as writer:
                episodes = context.track(source.episodes, f"importing {self.source.name}", source.count)
                for number, episode in enumerate(episodes):
                    episode.check(source.spec, f"{self.source}: episode {number}")
                    writer.append(episode)
        except BaseException:
            # Half an import would pass for a whole one; the folder was not there before.
            shutil.rmtree(self.out, ignore_errors=True)
            raise
        store = EpisodeStore(self.out)
        return {
            "out": self.out,
            "source": self.source,
            "spec": store.spec.to_json(),
            "fingerprint": store.fingerprint(),
            **counts(store.lengths, self.out),
            "seconds": time.perf_counter() - started,
        }

    def show(self, result: dict[str, Any], console: Console) -> None:
        """One line about what was imported."""
        console.print(written(result, "Imported"), soft_wrap=True)

    def open(self) -> Source:
        """The source behind the importer that fits it; DataError where none does."""
        from foretell.episodes.importers.columns import SUFFIXES
        from foretell.episodes.importers.lerobot import import_lerobot, is_lerobot_folder
        from foretell.episodes.importers.table import import_table
        from foretell.episodes.importers.videos import VideoOptions, import_videos, is_video_folder

        if is_lerobot_folder(self.source):
            self._refuse(
                "a LeRobot folder has its own",
                ("episode", "group", "time", "time_unit", "observations", "quantities", "actions", "exogenous"),
                ("units", "bounds"),
                ("hz", "size", "camera"),
            )
            return import_lerobot(self.source)
        if is_video_folder(self.source):
            size = None if self.size is None else _size(self.size)
            return import_videos(self.source, VideoOptions(table=self.table_options(), size=size, camera=self.camera))
        folder = self.source.is_dir()
        if folder and not any(p.suffix.lower() in SUFFIXES for p in self.source.iterdir()):
            raise DataError(
                f"{self.source}: a LeRobot folder (meta/info.json), .mp4 videos or {', '.join(SUFFIXES)} tables"
                " expected in it, got none of these"
            )
        self._refuse("only videos have", ("size", "camera"))
        return import_table(self.source, self.table_options())

    def table_options(self) -> TableOptions:
        """What the options say about a table's columns."""
        from foretell.episodes.importers.table import TableOptions

        return TableOptions(
            episode=self.episode,
            group=self.group,
            time=self.time,
            time_unit=self.time_unit,
            observations=_groups("--observations", self.observations, "state") if self.observations else None,
            quantities=_groups("--quantities", self.quantities, "quantities"),
            actions=[name for text in self.actions for name in _names("--actions", text)],
            exogenous=[name for text in self.exogenous for name in _names("--exogenous", text)],
            units=_pairs("--units", self.units),
            bounds={name: _bounds(name, text) for name, text in _pairs("--bounds", self.bounds).items()},
            hz=self.hz,
        )

    def _refuse(self, why: str, *groups: Sequence[str]) -> None:
        defaults = {name: field.default for name, field in self.__dataclass_fields__.items()}
        given = [n for names in groups for n in names if getattr(self, n) != defaults[n]]
        if given:
            raise SpecError(f"--{given[0].replace('_', '-')} does not fit {self.source}: {why}")


def _names(option: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise SpecError(f"{option}: column names between commas expected, got {text!r}")
    return names


def _groups(option: str, texts: Sequence[str], default: str) -> dict[str, list[str]]:
    """Channels and their columns: `NAME=COL,COL`, or columns alone for the channel called `default`."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, columns = text.partition("=")
        channel = name.strip() if equals else default
        if channel in found:
            raise SpecError(f"{option}: channel {channel!r} is given twice; write NAME=COL,... to tell channels apart")
        found[channel] = _names(option, columns if equals else text)
    return found


def _pairs(option: str, texts: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for pair in (pair for text in texts for pair in text.split(",")):
        name, equals, value = pair.rpartition("=")
        if not equals or not name.strip():
            raise SpecError(f"{option}: COL=VALUE expected, got {pair!r}")
        found[name.strip()] = value.strip()
    return found


def _bounds(name: str, text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    try:
        made = (float(low), float(high)) if colon else (math.nan, math.nan)
    except ValueError:
        made = (math.nan, math.nan)
    if not made[0] < made[1]:
        raise SpecError(f"--bounds: {name}=LOW:HIGH with LOW below HIGH expected, got {name}={text}")
    return made


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition(",")
    if not (height.strip().isdigit() and width.strip().isdigit()):
        raise SpecError(f"--size: H,W in pixels expected, got {text!r}")
    return int(height), int(width)
