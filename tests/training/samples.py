"""A tiny store with every kind of channel, and settings that train on it in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.model.world_model import ModelConfig
from foretell.objective.objective import ObjectiveConfig
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.training import TrainConfig
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit

SPEC = Spec(
    observations=(
        Channel(name="camera", kind="image", shape=(12, 8, 3)),
        Channel(name="state", kind="vector", shape=(2,)),
        Channel(name="wave", kind="waveform", shape=(1, 20)),
    ),
    action=ActionSpec(names=("push", "turn"), low=(-1, -1), high=(1, 1)),
    hz=5,
)
STILL = Spec(observations=SPEC.observations[1:2], hz=5)


class Exact(nn.Module):
    """A predictor that knows what follows: from the last latents and the block of actions, normalised."""

    def __init__(self, follows: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.follows = follows
        # A model asks its predictor where its weights are.
        self.enter = nn.Linear(1, 1)

    def forward(self, latents: Tensor, actions: Tensor, present: Tensor) -> Tensor:
        return self.follows(latents[..., -1, :], actions[..., -1, :])


SMALL = TrainConfig(
    model=ModelConfig(latent=8, block=2, stem=4, features=16, width=16, depth=1),
    objective=ObjectiveConfig(slices=16, settle=2, ramp=3),
    refine=Refine(steps=0),
    distance=DistanceFit(steps=3, batch=16, width=8, depth=1),
    steps=8,
    batch=16,
    length=3,
    warmup=2,
    precision="float32",
    device="cpu",
    checkpoint_seconds=1e6,
    log_steps=1,
)


def write_store(path: Path, spec: Spec = SPEC, episodes: int = 6, *, gaps: bool = False) -> EpisodeStore:
    """A point pushed about: seen by a camera, by its position and by a wave of that height."""
    with EpisodeWriter(path, spec) as writer:
        for index in range(episodes):
            rng = np.random.default_rng([11, index])
            actions = rng.uniform(-1, 1, (11, 2))
            place = np.cumsum(np.vstack([rng.normal(size=(1, 2)), actions]), 0)
            rows, columns = np.mgrid[0:12, 0:8]
            light = np.exp(-((rows - 6 - place[:, :1, None]) ** 2 + (columns - 4 - place[:, 1:, None]) ** 2) / 4)
            wave = place[:, :1, None] * np.sin(np.arange(20) / 3)
            full = {
                "camera": np.repeat(255 * light[..., None], 3, -1).astype(np.uint8),
                "state": place.astype(np.float32),
                "wave": wave.astype(np.float32),
            }
            writer.append(
                Episode(
                    observations={c.name: full[c.name] for c in spec.observations},
                    actions=actions[:, : spec.action.size],
                    valid={
                        c.name: rng.random((12,) if c.kind == "image" else (12, c.shape[0])) < 0.7
                        for c in spec.observations
                        if gaps
                    },
                )
            )
    return EpisodeStore(path)
