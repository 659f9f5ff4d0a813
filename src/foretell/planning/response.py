"""How strongly one system answers to what is done, compared with what a model expects of systems like it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foretell.errors import SpecError


@dataclass(frozen=True)
class Response:
    """Of B systems a normal belief about the factor that the expected effect of actions is to be multiplied by.

    mean, variance: (B,). Bayesian linear regression through the origin (Bishop 2006, "Pattern Recognition and Machine
    Learning", eq. 3.50 and 3.51), which forgets as in a Kalman filter. Nothing in it is changed in place.
    """

    mean: Tensor
    variance: Tensor

    @staticmethod
    def start(batch: int, *, spread: float = 0.3) -> Response:
        """As expected, with so much doubt (a standard deviation). Raises SpecError unless it is positive."""
        if not 0 < spread < float("inf"):
            raise SpecError(f"response: a positive spread expected, got {spread!r}")
        return Response(torch.ones(batch), torch.full((batch,), spread**2))

    def after(self, expected: Tensor, seen: Tensor, noise: Tensor) -> Response:
        """With effects expected and seen, (B, M) each, NaN where unknown, that err by so much (M,)."""
        weight = torch.where(expected.isnan() | seen.isnan(), 0.0, 1 / noise.square())
        x, y = expected.nan_to_num(), seen.nan_to_num()
        precision = 1 / self.variance + (weight * x.square()).sum(1)
        mean = (self.mean / self.variance + (weight * x * y).sum(1)) / precision
        return Response(mean, 1 / precision)

    def drifted(self, spread: float) -> Response:
        """After some time in which the factor may have changed by so much (a standard deviation)."""
        return replace(self, variance=self.variance + spread**2)

    def highest(self, deviations: float) -> Tensor:
        """(B,) so many standard deviations above the mean."""
        return self.mean + deviations * self.variance.sqrt()
