"""A spec with every kind of channel, small models of it, and observations to show them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretell.episodes.statistics import Statistics
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Spec

CAMERA = Channel(name="camera", kind="image", shape=(12, 9, 3))
STATE = Channel(name="state", kind="vector", shape=(3,))
WAVE = Channel(name="wave", kind="waveform", shape=(2, 20))
ACTION = ActionSpec(names=("push", "turn"), low=(-1, -1), high=(1, 1))

SPEC = Spec(observations=(CAMERA, STATE, WAVE), action=ACTION)
STILL = Spec(observations=(CAMERA, STATE, WAVE))
SMALL: dict[str, Any] = {"latent": 6, "block": 2, "features": 12, "width": 16, "stem": 4, "depth": 1}


def model(spec: Spec = SPEC, *, seed: int = 0, statistics: Statistics | None = None, **settings: Any) -> WorldModel:
    """A small model, whose learned features for missing images differ from zero as after training."""
    torch.manual_seed(seed)
    made = WorldModel(spec, ModelConfig(**{**SMALL, **settings}), statistics)
    for name, parameter in made.named_parameters():
        if name.endswith("missing"):
            torch.nn.init.normal_(parameter)
    return made.eval()


def observed(spec: Spec = SPEC, *, batch: int = 2, steps: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """(B, T, *shape) of each observation channel."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for channel in spec.observations:
        shape = (batch, steps, *channel.shape)
        if channel.kind == "image":
            found[channel.name] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        else:
            found[channel.name] = torch.randn(shape, generator=generator)
    return found


def masks(spec: Spec = SPEC, *, batch: int = 2, steps: int = 3, seed: int = 0, share: float = 0.5) -> dict[str, Tensor]:
    """Masks of each channel, (B, T) of images and (B, T, F) of the rest, of which about `share` is valid."""
    generator = torch.Generator().manual_seed(seed)
    return {
        c.name: torch.rand((batch, steps) if c.kind == "image" else (batch, steps, c.shape[0]), generator=generator)
        < share
        for c in spec.observations
    }


def actions(spec: Spec = SPEC, *shape: int, block: int = 2, seed: int = 0) -> Tensor:
    """(*shape, block * A) raw actions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((*shape, block * spec.action.size), generator=generator) * 2 - 1


def statistics(spec: Spec = SPEC, *, seed: int = 0) -> Statistics:
    """Means and spreads that are nothing like 0 and 1."""
    rng = np.random.default_rng(seed)
    sizes = {c.name: c.shape[-1 if c.kind == "image" else 0] for c in spec.channels} | {"action": spec.action.size}
    return Statistics(
        mean={n: rng.uniform(-50, 50, f) for n, f in sizes.items()},
        std={n: rng.uniform(2, 90, f) for n, f in sizes.items()},
        count={n: np.full(f, 100) for n, f in sizes.items()},
    )
