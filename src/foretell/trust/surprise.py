"""Surprise: how badly the model predicted what then happened, in units of how well it usually predicts there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foretell.errors import DataError, SpecError, require_whole
from foretell.trust.residuals import Residuals

_SHRINK = 1e-3
_FLOOR, _HIGHEST = -1.25, 3.0
"""Log of the scales, at least and at most, in units of what is usual on the whole. Where nothing ever moves, in a
corner, scales without a floor go to nothing, and the first small move of thousands is the greatest surprise of all."""
_RARE = 0.999
"""Alarms are about the highest of thousands of scores: views that are alike there, not in the middle, count alike."""
_MANY = 100_000
"""Steps from which on a law is wide."""
_AT_ONCE = 4096


class ResidualLaw(nn.Module):
    """What residuals are like, given where a prediction started and what was done: a Gaussian whose mean and covariance
    depend on both, in coordinates in which residuals are uncorrelated on the whole.

    size: S = N * D of a residual; action: values A of an action block; blocks: K, the longest prediction. A residual
    comes in V = K + 1 views, see `residuals.Residuals`. rank: R of the covariance diag(scales^2) + U U^T, U (S, R):
    latents lie on a thin sheet that turns with where they are, so that what is usual has a direction of its own there.
    A prediction along a wall may be ten times as sure as one of a crash into it: one covariance for both sees
    neither well. (Conditional scales for conformal scores: Lei et al. 2018, "Distribution-free predictive inference
    for regression", section 5.2.)
    """

    def __init__(self, *, size: int, action: int, blocks: int, width: int = 512, rank: int = 16) -> None:
        super().__init__()
        self.size, self.action, self.blocks, self.width, self.rank = size, action, blocks, width, rank
        require_whole("surprise", self, 1, "size", "blocks", "width")
        require_whole("surprise", self, 0, "action", "rank")
        leave = nn.Linear(width, (2 + rank) * size)
        with torch.no_grad():
            # Fitting begins with coordinates that are nearly independent.
            leave.weight[2 * size :] *= 0.1
            leave.bias[2 * size :] *= 0.1
        self.layers = nn.Sequential(
            nn.Linear(2 * size + action + self.views, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            leave,
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

    def law(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (..., V, S) and log of the scales (..., V, S) of whitened residuals, and U (..., V, S, R) in units of
        the scales, given (..., V, 2 S + A).
        """
        which = torch.eye(self.views, dtype=given.dtype, device=given.device).expand(*given.shape[:-1], self.views)
        found = self.layers(torch.cat([given, which], dim=-1))
        mean, log_scale, common = found.split([self.size, self.size, self.rank * self.size], dim=-1)
        log_scale = 0.5 * functional.softplus(2 * (log_scale.clamp_max(_HIGHEST) - _FLOOR)) + _FLOOR
        return mean, log_scale, common.unflatten(-1, (self.size, self.rank)) * (-log_scale).exp().unsqueeze(-1)

    def distance_and_volume(self, white: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        """Squared Mahalanobis distance (..., V) of whitened residuals (..., V, S), given (..., V, 2 S + A), and the log
        determinant of their covariance (by the matrix determinant lemma).
        """
        distance, log_scale, root = self._distance(white, given)
        volume = 2 * log_scale.sum(-1)
        return distance, volume if root is None else volume + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def distance(self, white: Tensor, given: Tensor) -> Tensor:
        """Squared Mahalanobis distance (..., V) of whitened residuals (..., V, S), given (..., V, 2 S + A)."""
        return self._distance(white, given)[0]

    def _distance(self, white: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The distance, by the matrix inversion lemma, the log scales, and the root of 1 + U^T U in their units."""
        mean, log_scale, common = self.law(given)
        off = (white - mean) * (-log_scale).exp()
        distance = off.square().sum(-1)
        if not self.rank:
            return distance, log_scale, None
        inner = common.transpose(-1, -2) @ common + torch.eye(self.rank, dtype=white.dtype, device=white.device)
        root = torch.linalg.cholesky_ex(inner).L
        along = common.transpose(-1, -2) @ off.unsqueeze(-1)
        along = torch.linalg.solve_triangular(root, along, upper=False)
        # Rounding must not make it negative.
        return (distance - along.square().sum((-1, -2))).clamp_min(0.0), log_scale, root

    def ratios(self, values: Tensor, given: Tensor) -> Tensor:
        """How surprising each view (..., V) of residuals (..., V, S) given (..., V, 2 S + A) is: its squared
        Mahalanobis distance in units of what is rare (its 99.9% quantile where this was fitted); -inf where it is NaN.
        """
        # Replaced first: a derivative through NaN is NaN, even where it is not used.
        each = self.distance(self.whitened(values.nan_to_num(nan=0.0)), given.nan_to_num(nan=0.0))
        return (each / self.get_buffer("ordinary")).masked_fill(values[..., 0].isnan(), -math.inf)

    def forward(self, values: Tensor, given: Tensor) -> Tensor:
        """The surprise (...) of residuals (..., V, S) given (..., V, 2 S + A): the mean of `ratios`.

        A view that is NaN does not count; NaN where all are.
        """
        known = ~values[..., 0].isnan()
        return self.ratios(values, given).masked_fill(~known, 0.0).sum(-1) / known.sum(-1)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {name: getattr(self, name) for name in ("size", "action", "blocks", "width", "rank")}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ResidualLaw:
        """A law of that configuration, its weights not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return ResidualLaw(**{name: data[name] for name in ("size", "action", "blocks", "width", "rank")})
        except (KeyError, TypeError) as error:
            raise SpecError(f"not a law of residuals: {error!r}") from error


def fit_residual_law(
    found: Residuals,
    *,
    action: int,
    seed: int,
    steps: int | None = None,
    batch: int = 256,
    learning_rate: float = 1e-3,
) -> ResidualLaw:
    """A law fitted to residuals by maximum likelihood (AdamW, one cycle of the learning rate).

    found: of all steps of all episodes; from 100,000 on the law is twice as wide. action: values of an action block.
    steps: of the optimiser; None: 12 times through what was found, from 1,000 to 5,000.
    Raises DataError where no episode is longer than the longest prediction.
    """
    values, given = found.values, found.given
    known = ~values[..., 0].isnan()
    if not bool(known.any(0).all()):
        raise DataError("surprise: episodes longer than the longest prediction expected, there are none")
    generator = torch.Generator().manual_seed(seed)
    views, size = values.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = 512 if len(values) >= _MANY else 256
        law = ResidualLaw(size=size, action=action, blocks=views - 1, width=width, rank=min(16, size))
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
    steps = min(5000, max(1000, 12 * len(white) // batch)) if steps is None else steps
    optimiser = torch.optim.AdamW(law.layers.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=max(steps, 2))
    for _ in range(steps):
        at = torch.randint(len(white), (batch,), generator=generator)
        distance, volume = law.distance_and_volume(white[at], given[at])
        loss = 0.5 * (distance + volume).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(law.layers.parameters(), 5.0)
        optimiser.step()
        schedule.step()
    law.eval().requires_grad_(False)
    with torch.no_grad():
        parts = (slice(first, first + _AT_ONCE) for first in range(0, len(white), _AT_ONCE))
        distance = torch.cat([law.distance(white[part], given[part]) for part in parts])
        rare = distance.sort(dim=0).values[int(_RARE * (len(distance) - 1))]
        law.get_buffer("ordinary").copy_(rare.clamp_min(1e-6))
    return law
