"""Novelty: how unlike the training data one channel of one observation is, before anything is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from foretell.errors import SpecError, require_whole

PLACES = 256
"""Places along the first features of a channel that are told apart, at most."""
_SHRINK_WHOLE, _SHRINK_PLACE = 1e-3, 1e-2


class Novelty(nn.Module):
    """Two Mahalanobis distances of a channel's first features (`WorldModel.early`), (M, P, C).

    *whole*: of their mean and spread over the P places, which knows colours, sizes, brightness and noise wherever
    they are (Lee et al. 2018, arXiv 1807.03888, on a layer's means). *placed*: of the features at each place, averaged
    over places, which knows what belongs where (PaDiM, Defard et al. 2021, arXiv 2011.08785). Deeper features were
    measured too and told less: an encoder learns to overlook what its training held constant.
    A channel with one place has the second alone.
    """

    fitted: ClassVar[tuple[str, ...]] = ("placed_centre", "placed_whiten")
    """Buffers, large ones, that may be kept in half precision; calibration comes after."""

    def __init__(self, *, channel: str, places: int, features: int) -> None:
        super().__init__()
        self.channel, self.places, self.features = channel, places, features
        require_whole("novelty", self, 1, "places", "features")
        self.register_buffer("whole_centre", torch.zeros(2 * features))
        self.register_buffer("whole_whiten", torch.eye(2 * features))
        self.register_buffer("placed_centre", torch.zeros(places, features))
        self.register_buffer("placed_whiten", torch.eye(features).repeat(places, 1, 1))
        self.register_buffer("ordinary", torch.ones(2))

    def whole(self, features: Tensor) -> Tensor:
        """(M,) squared distance of the means and spreads over places of (M, P, C); 0 where there is one place."""
        if self.places == 1:
            return features.new_zeros(len(features))
        off = _over_places(features) - self.get_buffer("whole_centre")
        return (off @ self.get_buffer("whole_whiten").T).square().sum(-1)

    def placed(self, features: Tensor) -> Tensor:
        """(M, P) squared distance at each place."""
        off = features - self.get_buffer("placed_centre")
        return torch.einsum("mpc,pdc->mpd", off, self.get_buffer("placed_whiten")).square().sum(-1)

    def forward(self, features: Tensor) -> Tensor:
        """Novelty (M,) of features (M, P, C): the larger of both distances, in units of what is rare in training."""
        rare = self.get_buffer("ordinary")
        return torch.maximum(self.whole(features) / rare[0], self.placed(features).mean(-1) / rare[1])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {"channel": self.channel, "places": self.places, "features": self.features}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Novelty:
        """Of that configuration, its weights not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return Novelty(channel=str(data["channel"]), places=data["places"], features=data["features"])
        except (KeyError, TypeError) as error:
            raise SpecError(f"not a novelty: {error!r}") from error


def fit_novelty(channel: str, features: Tensor) -> Novelty:
    """What first features (M, P, C) are like in training: means and covariances, shrunk towards independence."""
    found = Novelty(channel=channel, places=features.shape[1], features=features.shape[2])
    size = features.flatten(0, 1).std(0, correction=0).clamp_min(1e-6)
    centre = features.mean(0)
    off = (features - centre) / size
    covariance = torch.einsum("mpc,mpd->pcd", off, off).double() / len(off)
    found.get_buffer("placed_centre").copy_(centre)
    found.get_buffer("placed_whiten").copy_(_whitening(covariance, _SHRINK_PLACE) / size)
    if found.places > 1:
        over = _over_places(features)
        spread = over.std(0, correction=0).clamp_min(1e-4)
        off = ((over - over.mean(0)) / spread).double()
        found.get_buffer("whole_centre").copy_(over.mean(0))
        found.get_buffer("whole_whiten").copy_(_whitening(off.T @ off / len(off), _SHRINK_WHOLE) / spread)
    rank = int(0.99 * (len(features) - 1))
    for i, distance in enumerate((found.whole(features), found.placed(features).mean(-1))):
        found.get_buffer("ordinary")[i] = distance.sort().values[rank].clamp_min(1e-6)
    return found


def places_of(features: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """First features (M, C, *grid) as (M, P, C), and their grid: neighbours averaged until P is at most `PLACES`."""
    if features.dim() == 2:
        features = features[..., None]
    pool = functional.avg_pool2d if features.dim() == 4 else functional.avg_pool1d
    while features[0, 0].numel() > PLACES:
        features = pool(features, 2, ceil_mode=True)
    return features.flatten(2).transpose(1, 2), tuple(features.shape[2:])


def _over_places(features: Tensor) -> Tensor:
    """(M, P, C) -> (M, 2 C): mean and spread over places."""
    return torch.cat([features.mean(1), features.std(1, correction=0)], dim=-1)


def _whitening(covariance: Tensor, shrink: float) -> Tensor:
    """(..., C, C) -> the inverse of its Cholesky factor, float32, after adding `shrink` to the diagonal."""
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    return torch.as_tensor(torch.linalg.inv(torch.linalg.cholesky(covariance + shrink * eye))).float()
