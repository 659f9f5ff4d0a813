"""Opens a run folder for evaluation: its model and heads, the store it learned from, the episodes held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from foretell import worlds
from foretell.episodes.store import EpisodeStore
from foretell.errors import DataError
from foretell.evaluation.suite import Recorded
from foretell.model.checkpoint import load
from foretell.model.latents import encode_episodes
from foretell.model.world_model import WorldModel
from foretell.training import TrainRecord
from foretell.worlds import World


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with what it learned from. parts: the heads saved with it. note: how it was trained."""

    path: Path
    model: WorldModel
    parts: Mapping[str, nn.Module]
    store: EpisodeStore
    note: TrainRecord

    @property
    def training(self) -> tuple[int, ...]:
        """Numbers of the episodes that the model learned from."""
        return tuple(self.note.training)

    @property
    def held_out(self) -> tuple[int, ...]:
        """Numbers of the episodes that it has never seen."""
        return tuple(self.note.held_out)

    def recorded(self) -> Recorded:
        """The episodes with the model's latents of them, encoded now."""
        numbers = [*self.training, *self.held_out]
        latents = dict(zip(numbers, encode_episodes(self.model, self.store, numbers), strict=True))
        return Recorded(store=self.store, training=self.training, held_out=self.held_out, latents=latents)

    def world(self, name: str | None = None) -> World:
        """The built-in world that the store was recorded in, with the same options; or another of that `name`.

        Raises DataError where the recording names no built-in world and none is given.
        """
        metadata = self.store.metadata
        recorded = metadata.get("world")
        if name is None and recorded not in worlds.names():
            raise DataError(
                f"{self.store.path}: recorded in {recorded or 'no known world'}, which is none to plan in;"
                f" name one with --world: {', '.join(worlds.names())}"
            )
        options = metadata.get("options", {}) if name in (None, recorded) else {}
        world = worlds.make(str(recorded if name is None else name), **options)
        world.spec.require(self.model.spec, f"{self.path}: the world {world.name}")
        return world


def open_run(path: Path, *, store: Path | None = None, device: torch.device | str = "cpu") -> Run:
    """The run in a folder. store: where its episodes are now, if not where they were.

    Raises CheckpointError where the folder is no run or is damaged, DataError where the episodes are gone or are
    others than those that the model learned from.
    """
    found = load(path, device)
    note = TrainRecord.read(path)
    place = Path(note.store) if store is None else store
    if not place.exists():
        raise DataError(f"{place}: the episodes that {path} learned from are gone; say where they are with --store")
    episodes = EpisodeStore(place)
    found.model.spec.require(episodes.spec, str(place))
    if episodes.fingerprint() != note.fingerprint:
        raise DataError(
            f"{place}: the episodes that {path} learned from expected (fingerprint {note.fingerprint}),"
            f" got {episodes.fingerprint()}"
        )
    return Run(path=path, model=found.model, parts=found.parts, store=episodes, note=note)
