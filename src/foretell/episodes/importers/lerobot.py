"""Imports LeRobotDataset v3 folders: re-packed episode by episode, types kept."""

from __future__ import annotations

from pathlib import Path

from foretell.episodes.importers.source import Source
from foretell.episodes.store import EpisodeStore


def is_lerobot_folder(path: Path) -> bool:
    """Whether a folder has the metadata file of a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


def import_lerobot(path: Path) -> Source:
    """A LeRobotDataset v3 folder; DataError for another version or a damaged file."""
    store = EpisodeStore(path)
    return Source(
        spec=store.spec,
        episodes=(store[i] for i in range(len(store))),
        count=len(store),
        metadata={**store.metadata, "source": path.name, "format": "lerobot"},
    )
