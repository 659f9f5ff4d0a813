"""Imitation: from what is seen and what is wanted to the actions that recorded episodes took between such."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import SpecError, require_whole
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import Spec


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """Sizes of a policy by imitation.

    latent: N * D values of what is seen, and as many of what is wanted. action: values of one raw action.
    ahead: raw actions told at once, this step's the first. width: of its two hidden layers.
    """

    latent: int
    action: int
    ahead: int = 1
    width: int = 256

    def __post_init__(self) -> None:
        require_whole("imitation", self, 1, "latent", "action", "ahead", "width")


class Imitation(nn.Module):
    """A policy without a plan, conditioned on a goal, in units of the recorded actions.

    On frozen latents of a world model it is goal-conditioned inverse dynamics; with `eyes`, an encoder that was trained
    with it and with nothing else, it is behaviour cloning towards a goal.
    """

    def __init__(self, config: ImitationConfig, eyes: WorldModel | None = None) -> None:
        super().__init__()
        if eyes is not None and eyes.config.latent != config.latent:
            raise SpecError(f"imitation: eyes with latents of {config.latent} expected, got {eyes.config.latent}")
        self.config, self.eyes = config, eyes
        self.network = nn.Sequential(
            nn.Linear(2 * config.latent, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.ahead * config.action),
        )

    def forward(self, now: Tensor, goal: Tensor) -> Tensor:
        """Normalised actions (..., ahead * A) from latents (..., N, D) of now and of the goal."""
        return torch.as_tensor(self.network(torch.cat([now.flatten(-2), goal.flatten(-2)], dim=-1)))

    def to_json(self) -> dict[str, Any]:
        """The configuration, JSON-serialisable."""
        eyes = self.eyes
        seen = None if eyes is None else {"spec": eyes.spec.to_json(), "model": dataclasses.asdict(eyes.config)}
        return {**dataclasses.asdict(self.config), "eyes": seen}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Imitation:
        """The inverse of `to_json`, with fresh weights; SpecError for unknown or missing settings."""
        try:
            rest = {key: value for key, value in data.items() if key != "eyes"}
            seen = data["eyes"]
            eyes = None if seen is None else WorldModel(Spec.from_json(seen["spec"]), ModelConfig(**seen["model"]))
            return Imitation(ImitationConfig(**rest), eyes)
        except (TypeError, KeyError) as error:
            raise SpecError(f"imitation: {error}") from error
