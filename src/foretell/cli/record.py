"""`foretell record`: episodes of a built-in world or of a Gymnasium environment, into an episode store."""

from __future__ import annotations

import difflib
import functools
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console

from foretell.cli.command import Command, Context
from foretell.cli.console import size
from foretell.cli.summary import size_on_disk
from foretell.errors import DataError, SpecError


@dataclass(frozen=True, kw_only=True)
class Record(Command):
    """Record episodes of a world.

    A built-in world acts by its own behaviour policy, any other Gymnasium environment by random actions.
    Episodes that are complete stay readable when the recording is stopped, by Ctrl-C or worse.

      foretell record two_rooms --episodes 500 --out data/rooms --set layout=random
      foretell record pusht --episodes 500 --out data/pusht --workers 2
      foretell record Pendulum-v1 --episodes 50 --out data/pendulum --seed 7
    """

    world: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="WORLD")]
    """A built-in world (two_rooms, glucose, pusht, reacher, pointmaze) or the id of a Gymnasium environment."""
    episodes: Annotated[int, tyro.conf.arg(metavar="N")]
    """How many episodes to record."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder to write; it must not exist yet."""
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Processes that record at once; the episodes are the same for any number."""
    images: Literal["png", "mp4"] = "png"
    """How frames are kept: png loses nothing, mp4 is smaller."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """An option of the world; repeat it for more."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise SpecError(f"--episodes: 1 or more expected, got {self.episodes}")
        if self.workers < 1:
            raise SpecError(f"--workers: 1 or more expected, got {self.workers}")

    def run(self, context: Context) -> dict[str, Any]:
        """Record; returns the folder, counts, seconds, the store's fingerprint and the world's options."""
        options = world_options(self.set)
        require_new(self.out)
        from foretell import worlds
        from foretell.episodes.parallel import in_parallel
        from foretell.episodes.store import EpisodeStore
        from foretell.episodes.writer import EpisodeWriter

        started = time.perf_counter()
        episodes: Iterable[Any]
        if self.world in worlds.names():
            try:
                world = worlds.make(self.world, **options)
            except (TypeError, AttributeError) as error:
                raise SpecError(f"{self.world}: these options do not fit, {dict(options)}: {error}") from error
            spec, options = world.spec, dict(world.options)
            episodes = world.episodes(self.episodes, seed=context.seed)
        else:
            from foretell.episodes.record import gymnasium_episodes

            try:
                spec, episodes = gymnasium_episodes(self.world, self.episodes, context.seed, **options)
            except SpecError as error:
                close = difflib.get_close_matches(self.world, worlds.names(), n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise SpecError(f"{error} Built in are {', '.join(worlds.names())}{hint}") from error
        if self.workers > 1:
            make = functools.partial(_episodes, self.world, world_options(self.set), context.seed)
            episodes = in_parallel(make, self.episodes, self.workers)
        metadata = {"world": self.world, "options": options, "seed": context.seed}
        writer: EpisodeWriter | None = None
        try:
            with EpisodeWriter(self.out, spec, images=self.images, metadata=metadata) as writer:
                for episode in context.track(episodes, f"recording {self.world}", self.episodes):
                    writer.append(episode)
        except BaseException:
            # An empty store would stand in the way of the next attempt.
            if writer is None or not len(writer):
                shutil.rmtree(self.out, ignore_errors=True)
            raise
        store = EpisodeStore(self.out)
        return {
            "out": self.out,
            "world": self.world,
            "options": options,
            "seed": context.seed,
            "fingerprint": store.fingerprint(),
            **counts(store.lengths, self.out),
            "seconds": time.perf_counter() - started,
        }

    def show(self, result: dict[str, Any], console: Console) -> None:
        """One line about what was recorded."""
        console.print(written(result, "Recorded"), soft_wrap=True)


def _episodes(world: str, options: Mapping[str, Any], seed: int, first: int, count: int) -> Iterable[Any]:
    """Some of the episodes that are recorded; in a process of its own."""
    from foretell import worlds
    from foretell.episodes.record import gymnasium_episodes

    if world in worlds.names():
        return worlds.make(world, **options).episodes(count, seed=seed, first=first)
    return gymnasium_episodes(world, count, seed, first=first, **options)[1]


def world_options(settings: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs as keyword arguments; values are JSON, lists with commas, or text."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.isidentifier():
            raise SpecError(f"--set: KEY=VALUE expected, got {setting!r}")
        if key in found:
            raise SpecError(f"--set: {key} is given twice")
        found[key] = _value(text)
    return found


def require_new(out: Path) -> None:
    """Raise DataError if the folder to write exists, before any work is done for it."""
    if out.exists() or out.is_symlink():
        raise DataError(f"{out}: a folder that does not exist yet expected; choose another --out or remove it")


def counts(lengths: NDArray[np.int64], out: Path) -> dict[str, Any]:
    """Episodes, their steps, and bytes on disk of a store."""
    return {"episodes": len(lengths), "steps": int(lengths.sum()), "bytes": size_on_disk(out)}


def written(result: Mapping[str, Any], verb: str) -> str:
    """One line for people about a store that has been written."""
    return (
        f"{verb} {result['episodes']:,} episodes ({result['steps']:,} steps, {size(result['bytes'])})"
        f" to {result['out']} in {result['seconds']:.1f} s"
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if text in ("True", "False"):
            return text == "True"
        return tuple(_value(part) for part in text.split(",")) if "," in text else text
