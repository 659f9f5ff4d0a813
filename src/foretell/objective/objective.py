"""The training objective: prediction, anti-collapse and inverse dynamics, weighed and named."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foretell.episodes.batch import Batch
from foretell.errors import SpecError
from foretell.model.world_model import WorldModel
from foretell.objective.prediction import open_loop, straightness
from foretell.objective.sigreg import sigreg
from foretell.objective.variance import latent_spread, variance_covariance


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the terms; 0 leaves a term out.

    prediction: open-loop latent error. sigreg: with `slices` random projections. paired: apply SIGReg to
    what differs between two windows of one episode (and, to the latent's context part, over episodes), so
    that what stays constant within an episode (a wall, a patient) cannot drown what moves.
    constant: how much the context part changes within an episode. inverse: actions from successive
    latents. straight: temporal straightening. variance, covariance: VICReg's terms. ema: decay of a
    slowly following target encoder (0: targets come from the encoder that is trained, with their gradient).
    settle, ramp: the encoder feels the prediction error only after `settle` steps, fully `ramp` steps
    later; before, an encoder that sees nothing would be the most predictable one. The predictor
    learns from the first step.
    """

    prediction: float = 1.0
    sigreg: float = 1.0
    slices: int = 128
    paired: bool = True
    constant: float = 1.0
    inverse: float = 1.0
    straight: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    ema: float = 0.0
    settle: int = 150
    ramp: int = 300

    def __post_init__(self) -> None:
        for name in ("prediction", "sigreg", "constant", "inverse", "straight", "variance", "covariance"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise SpecError(f"objective: the weight {name} must be 0 or more, got {value!r}")
        if not 0 <= self.ema < 1:
            raise SpecError(f"objective: ema must be in [0, 1), got {self.ema!r}")
        if self.settle < 0 or self.ramp < 0:
            raise SpecError(f"objective: settle and ramp must be 0 or more, got {self.settle!r} and {self.ramp!r}")
        if self.slices < 1:
            raise SpecError(f"objective: slices must be at least 1, got {self.slices!r}")


class InverseDynamics(nn.Module):
    """Which (normalised) action block leads from one latent to the next."""

    def __init__(self, latent: int, action: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * latent, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, action)
        )

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """(..., N, D) twice -> (..., block * A)."""
        return torch.as_tensor(self.layers(torch.cat([before.flatten(-2), after.flatten(-2)], dim=-1)))


class Objective(nn.Module):
    """Holds what only training needs: the model under training, inverse dynamics, the target encoder."""

    def __init__(self, model: WorldModel, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        acts = model.action_size > 0 and config.inverse > 0
        width = model.config.width
        self.inverse = InverseDynamics(model.config.latent, model.action_size, width) if acts else None
        self.target = copy.deepcopy(model).requires_grad_(False) if config.ema else None

    def forward(self, batch: Batch, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Named scalars of a batch: `loss` to minimise, each term unweighted, and the latents' `spread`.

        With `paired` windows 2k and 2k + 1 of the batch must come from the same episode. `step`
        counts optimiser steps from 0.
        """
        c, model = self.config, self.model
        latents = model.encode(batch.observations, batch.valid)
        felt = min(1.0, max(0.0, (step + 1 - c.settle) / max(c.ramp, 1)))
        seen = felt * latents + (1 - felt) * latents.detach()
        targets = seen
        if self.target is not None:
            with torch.no_grad():
                targets = self.target.encode(batch.observations, batch.valid)
        terms = {"prediction": open_loop(model, seen, targets, batch.actions)}
        flat = latents.flatten(2)
        if c.sigreg and not c.paired:
            terms["sigreg"] = sigreg(flat, c.slices, generator)
        elif c.sigreg:
            moving = flat.shape[-1] - model.config.context
            change = flat[0::2] - flat[1::2]
            terms["sigreg"] = sigreg(change[..., :moving] / math.sqrt(2), c.slices, generator)
            if model.config.context:
                terms["sigreg"] = terms["sigreg"] + sigreg(flat[..., moving:], c.slices, generator)
                terms["constant"] = change[..., moving:].pow(2).mean() / 2
        if self.inverse is not None:
            actions = self.inverse(latents[:, :-1], latents[:, 1:])
            terms["inverse"] = (actions - model.normalise_actions(batch.actions)).pow(2).mean()
        if c.straight and latents.shape[1] > 2:
            terms["straight"] = straightness(latents)
        if c.variance or c.covariance:
            terms["variance"], terms["covariance"] = variance_covariance(flat)
        loss = torch.stack([getattr(c, name) * term.float() for name, term in terms.items()]).sum()
        return {"loss": loss, **terms, "spread": latent_spread(latents)}

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the target encoder follow; to be called after each optimiser step."""
        if self.target is not None:
            for slow, fast in zip(self.target.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.config.ema)
