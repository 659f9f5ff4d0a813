"""The predictor: from a few latents and the actions between them to the change that comes next."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """x + W2 gelu(W1 norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return x + torch.as_tensor(self.layers(x))


class Predictor(nn.Module):
    """next = last + f(history of latents, actions, presence), a residual perceptron.

    latent: N * D values, the last `context` of which the prediction leaves as they are. action: values per latent
    step (block * A). history: latents looked at, H.
    """

    def __init__(self, latent: int, context: int, action: int, history: int, width: int, depth: int) -> None:
        super().__init__()
        self.history, self.context = history, context
        self.enter = nn.Linear(history * (latent + action + 1), width)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(depth)))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, latent - context))

    def forward(self, latents: Tensor, actions: Tensor, present: Tensor) -> Tensor:
        """latents (..., H, N*D), actions (..., H, A), present (..., H) 0 or 1 -> next latent (..., N*D).

        The newest stands last and `actions[..., -1, :]` leads from it to the next. Entries that are
        not present must be zero.
        """
        inputs = torch.cat([latents.flatten(-2), actions.flatten(-2), present], dim=-1)
        change = self.leave(self.blocks(self.enter(inputs)))
        return latents[..., -1, :] + functional.pad(change, (0, self.context))
