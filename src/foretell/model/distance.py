"""Temporal distance: how many latent steps one state is from another, a head on frozen latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import SpecError, require_whole
from foretell.model.predictor import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class DistanceConfig:
    """Sizes of a temporal distance.

    latent: N * D values looked at. width, depth: of the embedding. groups, size: maxima averaged, and over how
    many differences each. scale: latent steps that an embedded difference of 1 stands for.
    """

    latent: int
    width: int = 128
    depth: int = 2
    groups: int = 8
    size: int = 8
    scale: float = 4.0

    def __post_init__(self) -> None:
        require_whole("temporal distance", self, 1, "latent", "width", "depth", "groups", "size")
        if not self.scale > 0:
            raise SpecError(f"temporal distance: scale must be above 0, got {self.scale!r}")


class TemporalDistance(nn.Module):
    """A quasimetric on latents: d(x, x) = 0, d >= 0, d(x, z) <= d(x, y) + d(y, z), not symmetric.

    d(x, y) = scale * mean over groups of max over the group of relu(e(x) - e(y)) with a learned
    embedding e: the asymmetric part of a metric residual network (Liu et al. 2023, arXiv 2208.08133).
    """

    def __init__(self, config: DistanceConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Sequential(
            nn.Linear(config.latent, width),
            *(ResidualBlock(width) for _ in range(config.depth)),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Linear(width, config.groups * config.size),
        )

    def embedding(self, latents: Tensor) -> Tensor:
        """(..., N, D) -> (..., groups, size)."""
        c = self.config
        flat = torch.as_tensor(self.embed(latents.flatten(-2)))
        return flat.view(*flat.shape[:-1], c.groups, c.size)

    def between(self, start: Tensor, end: Tensor) -> Tensor:
        """Latent steps from embedding to embedding, (..., groups, size) twice -> (...)."""
        return self.config.scale * torch.relu(start - end).amax(-1).mean(-1)

    def forward(self, latents: Tensor, goal: Tensor) -> Tensor:
        """Latent steps from latents (B, S, K, N, D) to goals (B, N, D): (B, S, K)."""
        return self.between(self.embedding(latents), self.embedding(goal)[:, None, None])

    def to_json(self) -> dict[str, Any]:
        """The configuration, JSON-serialisable."""
        return asdict(self.config)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TemporalDistance:
        """The inverse of `to_json`, with fresh weights; SpecError for unknown or missing settings."""
        try:
            return TemporalDistance(DistanceConfig(**data))
        except TypeError as error:
            raise SpecError(f"temporal distance: {error}") from error
