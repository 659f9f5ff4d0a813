"""Batches: windows of episodes as tensors, the shape in which a model sees data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B windows of T latent steps, in raw units.

    observations: by channel name, (B, T, *shape); images uint8, the rest float32.
        Quantities stand here too; models pick the channels that their spec's `observations` name. Where windows look
        back, vectors among the observations are (B, T, F, look), and so are their masks.
    valid: by channel name, (B, T) for images, (B, T, F) for vectors and waveforms, bool.
        Invalid entries of `observations` are zero.
    actions: (B, T-1, block * A) float32: the `block` raw actions between two latent steps, in order.
    """

    observations: dict[str, Tensor]
    valid: dict[str, Tensor]
    actions: Tensor

    def __len__(self) -> int:
        """Number of windows, B."""
        return self.actions.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            {name: x.to(device, non_blocking=True) for name, x in self.observations.items()},
            {name: x.to(device, non_blocking=True) for name, x in self.valid.items()},
            self.actions.to(device, non_blocking=True),
        )
