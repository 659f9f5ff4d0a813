"""Surprise: how badly the model predicted what then happened, in units of how well it usually predicts there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import DataError, SpecError, require_whole
from foretell.trust.residuals import Residuals

_SHRINK = 1e-3
_LOG_SCALE = (-6.0, 3.0)


class ResidualLaw(nn.Module):
    """What residuals are like, given where a prediction started and what was done: a Gaussian whose mean and scales
    depend on both, in coordinates in which residuals are uncorrelated on the whole.

    size: S = N * D of a residual; action: values A of an action block; blocks: K, the longest prediction. A residual
    comes in V = K + 1 views, see `residuals.Residuals`.
    A prediction along a wall may be ten times as sure as one of a crash into it: one covariance for both sees
    neither well. (Conditional scales for conformal scores: Lei et al. 2018, "Distribution-free predictive inference
    for regression", section 5.2.)
    """

    def __init__(self, *, size: int, action: int, blocks: int, width: int = 128) -> None:
        super().__init__()
        self.size, self.action, self.blocks, self.width = size, action, blocks, width
        require_whole("surprise", self, 1, "size", "blocks", "width")
        require_whole("surprise", self, 0, "action")
        self.layers = nn.Sequential(
            nn.Linear(2 * size + action + self.views, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, 2 * size),
        )
        self.register_buffer("centre", torch.zeros(self.views, size))
        self.register_buffer("whiten", torch.eye(size).repeat(self.views, 1, 1))
        self.register_buffer("ordinary", torch.ones(self.views))

    @property
    def views(self) -> int:
        """V."""
        return self.blocks + 1

    def whitened(self, values: Tensor) -> Tensor:
        """Residuals (..., V, S) in uncorrelated coordinates of variance 1."""
        centred = values - self.get_buffer("centre")
        return torch.einsum("...ks,krs->...kr", centred, self.get_buffer("whiten"))

    def law(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation (..., V, S) of whitened residuals, given (..., V, 2 S + A)."""
        which = torch.eye(self.views, dtype=given.dtype, device=given.device).expand(*given.shape[:-1], self.views)
        mean, log_scale = self.layers(torch.cat([given, which], dim=-1)).chunk(2, dim=-1)
        return mean, log_scale.clamp(*_LOG_SCALE)

    def distance(self, white: Tensor, given: Tensor) -> Tensor:
        """Squared Mahalanobis distance (..., V) of whitened residuals (..., V, S), given (..., V, 2 S + A)."""
        mean, log_scale = self.law(given)
        return ((white - mean) * (-log_scale).exp()).square().sum(-1)

    def forward(self, values: Tensor, given: Tensor) -> Tensor:
        """The surprise (...) of residuals (..., V, S) given (..., V, 2 S + A): the largest over the views of the
        squared Mahalanobis distance in units of what is rare (its 99% quantile where this was fitted).

        A view that is NaN does not count; NaN where all are.
        """
        unknown = values[..., 0].isnan()
        # Replaced first: a derivative through NaN is NaN, even where it is not used.
        each = self.distance(self.whitened(values.nan_to_num(nan=0.0)), given.nan_to_num(nan=0.0))
        each = (each / self.get_buffer("ordinary")).masked_fill(unknown, -math.inf)
        return each.amax(-1).masked_fill(unknown.all(-1), math.nan)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {"size": self.size, "action": self.action, "blocks": self.blocks, "width": self.width}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ResidualLaw:
        """A law of that configuration, its weights not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return ResidualLaw(size=data["size"], action=data["action"], blocks=data["blocks"], width=data["width"])
        except (KeyError, TypeError) as error:
            raise SpecError(f"not a law of residuals: {error!r}") from error


def fit_residual_law(
    found: Residuals,
    *,
    action: int,
    seed: int,
    steps: int = 1500,
    batch: int = 512,
    learning_rate: float = 2e-3,
) -> ResidualLaw:
    """A law fitted to residuals by maximum likelihood (AdamW, one cycle of the learning rate).

    found: of all steps of all episodes. action: values of an action block. Raises DataError where no episode is longer
    than the longest prediction.
    """
    values, given = found.values, found.given
    known = ~values[..., 0].isnan()
    if not bool(known.any(0).all()):
        raise DataError("surprise: episodes longer than the longest prediction expected, there are none")
    generator = torch.Generator().manual_seed(seed)
    views, size = values.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        law = ResidualLaw(size=size, action=action, blocks=views - 1)
    for k in range(views):
        some = values[known[:, k], k].double()
        centred = some - some.mean(0)
        covariance = centred.T @ centred / max(1, len(some) - 1)
        ridge = _SHRINK * covariance.diagonal().mean().clamp_min(1e-12)
        covariance += ridge * torch.eye(size, dtype=torch.float64)
        law.get_buffer("centre")[k] = some.mean(0)
        law.get_buffer("whiten")[k] = torch.linalg.inv(torch.linalg.cholesky(covariance))
    # Steps that all views reach: what is fitted needs no mask.
    reached = known.all(1)
    white, given = law.whitened(values[reached]), given[reached]
    optimiser = torch.optim.AdamW(law.layers.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=max(steps, 2))
    for _ in range(steps):
        at = torch.randint(len(white), (batch,), generator=generator)
        mean, log_scale = law.law(given[at])
        loss = (0.5 * ((white[at] - mean) * (-log_scale).exp()).square() + log_scale).sum(-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(law.layers.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    law.eval().requires_grad_(False)
    with torch.no_grad():
        distance = law.distance(white, given)
        law.get_buffer("ordinary").copy_(distance.sort(dim=0).values[int(0.99 * (len(distance) - 1))])
    return law
