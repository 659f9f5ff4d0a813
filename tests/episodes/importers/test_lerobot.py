"""LeRobot folders of others are re-packed with every value and type as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foretell.episodes.importers.lerobot import import_lerobot, is_lerobot_folder
from foretell.episodes.writer import EpisodeWriter
from foretell.errors import DataError
from foretell.spec import ActionSpec, Channel, Episode, Spec

SPEC = Spec(
    observations=(
        Channel(name="front", kind="image", shape=(16, 16, 3)),
        Channel(name="state", kind="vector", shape=(2,), fields=("joint", "grip"), units=("rad", "m")),
    ),
    action=ActionSpec(names=("joint", "grip")),
    hz=10.0,
)


def episodes() -> list[Episode]:
    rng = np.random.default_rng(0)
    return [
        Episode(
            observations={
                "front": rng.integers(0, 255, (steps, 16, 16, 3), dtype=np.uint8),
                "state": rng.normal(size=(steps, 2)).astype(np.float32),
            },
            actions=rng.normal(size=(steps - 1, 2)),
        )
        for steps in (4, 7)
    ]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """What any LeRobot v3 tool would have written: no file of ours in it."""
    path = tmp_path / "robot"
    with EpisodeWriter(path, SPEC) as writer:
        for episode in episodes():
            writer.append(episode)
    (path / "meta" / "foretell.json").unlink()
    return path


def test_values_and_types_are_kept(foreign: Path) -> None:
    assert is_lerobot_folder(foreign)
    source = import_lerobot(foreign)
    assert (source.count, source.spec.hz, source.spec.action.size) == (2, 10.0, 2)
    assert source.metadata["source"] == "robot"
    found = list(source.episodes)
    for came, expected in zip(found, episodes(), strict=True):
        came.check(source.spec, "here")
        for name, values in expected.observations.items():
            channel = next(c.name for c in source.spec.observations if c.name.endswith(name))
            assert came.observations[channel].dtype == values.dtype
            assert (came.observations[channel] == values).all()
        assert came.actions.dtype == expected.actions.dtype
        assert (came.actions == expected.actions).all()


def test_other_versions_and_other_folders_are_refused(foreign: Path, tmp_path: Path) -> None:
    assert not is_lerobot_folder(tmp_path)
    info = foreign / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"codebase_version": "v2.1"}))
    with pytest.raises(DataError, match=r"info\.json: LeRobotDataset v3 expected, got v2\.1"):
        import_lerobot(foreign)
