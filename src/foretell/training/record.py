"""RUN/train.json: what a run was trained with and on, so that evaluation and readers can know it."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from foretell import __version__
from foretell.episodes.store import EpisodeStore
from foretell.episodes.table import read_json, write_json
from foretell.errors import CheckpointError, DataError, SpecError
from foretell.training.config import TrainConfig

NAME = "train.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class TrainRecord:
    """What a run folder says about its training.

    store, fingerprint: path and content of the episodes. training, held_out: numbers of the episodes
    trained on and kept for evaluation. contents: hashes of those trained on, by which they are known
    elsewhere; groups: whom or what these are about. longest: steps of the longest. ranges: the lowest and highest
    value of each field of their vectors and waveforms, and of each action under `action`. device, precision: what
    `auto` came to. steps: done so far. seconds: spent on them. finished: whether nothing is left to do.
    machine: versions and hardware, in words.
    Raises SpecError for values of another type, and where no episode is trained on or one is held out too.
    """

    config: TrainConfig
    store: str
    fingerprint: str
    training: list[int]
    held_out: list[int]
    contents: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    device: str
    precision: str
    ranks: int = 1
    parameters: int = 0
    longest: int = 0
    ranges: dict[str, list[list[float]]] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    finished: bool = False
    machine: dict[str, str]

    def __post_init__(self) -> None:
        for names, kind in (
            (("store", "fingerprint", "device", "precision"), str),
            (("training", "held_out", "contents", "groups"), list),
            (("ranks", "parameters", "longest", "steps"), int),
            (("finished",), bool),
            (("ranges",), dict),
        ):
            for name in names:
                if not isinstance(getattr(self, name), kind):
                    raise SpecError(f"{name}: {kind.__name__} expected, got {getattr(self, name)!r}")
        if not isinstance(self.seconds, int | float):
            raise SpecError(f"seconds: a number expected, got {self.seconds!r}")
        episodes = [*self.training, *self.held_out]
        if not self.training or not all(type(i) is int and i >= 0 for i in episodes):
            raise SpecError("training and held_out: numbers of episodes expected, at least one to train on")
        if len(set(episodes)) < len(episodes):
            raise SpecError("training and held_out: each episode once expected")

    @property
    def frames_per_second(self) -> float:
        """Observations (latent steps of windows) trained on per second, saving and logging included."""
        return self.steps * self.config.batch * self.config.length / self.seconds if self.seconds else 0.0

    def write(self, run: Path) -> None:
        """Write RUN/train.json, whole."""
        derived = {
            "format": FORMAT,
            "frames_per_second": self.frames_per_second,
            "seed": self.config.seed,
        }
        write_json(run / NAME, {**vars(self), "config": self.config.to_json(), **derived})

    @staticmethod
    def read(run: Path) -> TrainRecord:
        """The record of a run folder; CheckpointError where there is none, or it is damaged or of a newer version."""
        path = run / NAME
        if not path.exists():
            raise CheckpointError(
                f"{path}: the record of a training expected, there is none; `foretell train` writes it"
            )
        try:
            data = dict(read_json(path))
            written = data.pop("format", FORMAT)
            if written != FORMAT:
                raise CheckpointError(
                    f"{path}: format {FORMAT} expected, got {written!r}, of a newer foretell; upgrade"
                )
            for derived in ("frames_per_second", "seed"):
                data.pop(derived, None)
            return TrainRecord(**{**data, "config": TrainConfig.from_json(data["config"])})
        except (DataError, SpecError, KeyError, TypeError) as error:
            text = str(error) if str(path) in str(error) else f"{path}: damaged or not of foretell: {error}"
            raise CheckpointError(text) from error

    def require_same(self, config: TrainConfig, store: EpisodeStore, run: Path) -> None:
        """Raise SpecError, naming every difference, unless this run can go on with `config` and `store`."""
        found = self.config.differences(config)
        if self.fingerprint != store.fingerprint():
            found.append(f"the episodes of {self.store} as they were expected, got {store.path} with other episodes")
        if found:
            raise SpecError(f"{run}: a run is resumed as it was begun: {'; '.join(found)}; or choose another --out")


def describe() -> dict[str, str]:
    """Versions and hardware that results depend on."""
    return {
        "foretell": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "safetensors")},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
