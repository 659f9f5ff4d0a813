"""What is seen at each place of a picture, told from the compact latent."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from foretell.model.encoders import ImageEncoder
from foretell.model.world_model import WorldModel
from foretell.objective.ranks import mean_over_ranks

STAGES = 2
"""Convolutions that features are taken after: with these, one stands for 8 x 8 pixels."""
_LEAST = 1e-8


class Places(nn.Module):
    """Local features of every image channel, told from the latent of the same step.

    The features come from the first convolutions of the encoder as they are when training begins, and stay: targets
    that nothing can make trivial. Random targets of this kind serve speech (Chiu et al. 2022, "Self-supervised learning
    with random-projection quantizer for speech recognition", arXiv 2202.01855); that global features tell local ones is
    how Anand et al. 2019 ("Unsupervised state representation learning in Atari", arXiv 1906.08226) keep an encoder from
    overlooking what is small or slow. For specs with an image channel.
    """

    def __init__(self, model: WorldModel, width: int = 512) -> None:
        super().__init__()
        self.channels: list[int] = []
        early: list[nn.Module] = []
        heads: list[nn.Module] = []
        for i, (channel, encoder) in enumerate(zip(model.spec.observations, model.encoders, strict=True)):
            if not isinstance(encoder, ImageEncoder):
                continue
            self.channels.append(i)
            first = copy.deepcopy(encoder.stages(STAGES)).requires_grad_(False)
            early.append(first)
            with torch.no_grad():
                blank = torch.zeros(1, channel.shape[2], *channel.shape[:2], device=model.device)
                size = torch.as_tensor(first(blank)).numel()
            heads.append(nn.Sequential(nn.Linear(model.config.latent, width), nn.GELU(), nn.Linear(width, size)))
        self.early, self.heads = nn.ModuleList(early), nn.ModuleList(heads)

    def forward(self, channels: Iterable[tuple[Tensor, Tensor]], latents: Tensor) -> Tensor:
        """Mean squared error of features told from latents (M, D), in units of each feature's variance over the batch
        and all places, a scalar: 1 for a head that tells nothing.

        channels: what `WorldModel.normalised` gives. Images that are missing count for nothing.
        """
        given, errors = list(channels), []
        for i, early, head in zip(self.channels, self.early, self.heads, strict=True):
            images, seen = given[i]
            share = seen.to(torch.float32)[:, None, None, None]
            with torch.no_grad():
                features = early(images).float()
                count = mean_over_ranks(share.mean()).clamp_min(_LEAST)
                centred = (features - mean_over_ranks((features * share).mean(0)) / count) * share
                power = mean_over_ranks(centred.square().mean((0, 2, 3), keepdim=True)) / count
                wanted = torch.where(power > _LEAST, centred / power.clamp_min(_LEAST).sqrt(), 0.0)
            told = head(latents).float().view_as(wanted) * share
            errors.append((told - wanted).square().mean() / count)
        return torch.stack(errors).mean()
