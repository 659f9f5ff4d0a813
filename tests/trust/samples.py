"""Episodes of a point that is pushed about, seen by a camera and told by its place; a small model of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Episode, Spec
from foretell.trust.calibration import Seen, see

SPEC = Spec(
    observations=(
        Channel(name="camera", kind="image", shape=(16, 16, 3)),
        Channel(name="place", kind="vector", shape=(2,), fields=("x", "y"), units=("m", "m")),
    ),
    action=ActionSpec(names=("dx", "dy"), units=("m", "m"), low=(-1, -1), high=(1, 1)),
)
BLOCK = 2


def model(history: int = 1, look: int = 1) -> WorldModel:
    """Untrained: what it predicts is off, but off in the same way on episodes of the same kind."""
    torch.manual_seed(0)
    sizes = ModelConfig(latent=4, block=BLOCK, history=history, look=look, stem=4, features=8, width=8, depth=1)
    return WorldModel(SPEC, sizes).eval()


def episodes(count: int, *, seed: int, steps: int = 20) -> Iterator[Episode]:
    """Ordinary ones: `steps` steps, `steps` + 1 observations."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        place = np.cumsum(np.vstack([3 * rng.normal(size=(1, 2)), actions * 0.3]), 0)
        rows, columns = np.mgrid[0:16, 0:16]
        light = np.exp(-((rows - 8 - place[:, :1, None]) ** 2 + (columns - 8 - place[:, 1:, None]) ** 2) / 6)
        camera = np.repeat(200 * light[..., None], 3, -1) + rng.uniform(0, 20, (steps + 1, 16, 16, 3))
        yield Episode(
            observations={"camera": camera.astype(np.uint8), "place": place.astype(np.float32)}, actions=actions
        )


def seen(world: WorldModel, some: Iterable[Episode]) -> Iterator[Seen]:
    """Episodes as a model sees them, to fit and calibrate on."""
    return (see(world, episode) for episode in some)


def jumped(episode: Episode, at: int, by: float) -> Episode:
    """The same, but from step `at` on the place told is elsewhere."""
    place = episode.observations["place"].copy()
    place[at:] += by
    return replace(episode, observations={**episode.observations, "place": place})


def without(episode: Episode, channel: str, at: int) -> Episode:
    """The same, but a channel is missing at step `at`."""
    values = episode.observations[channel]
    mask = np.ones(len(values), np.bool_)
    mask[at] = False
    return replace(episode, valid={channel: mask})
