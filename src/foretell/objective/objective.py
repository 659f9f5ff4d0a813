"""The training objective: prediction, anti-collapse and inverse dynamics, weighed and named."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foretell.episodes.batch import Batch
from foretell.errors import SpecError
from foretell.model.world_model import WorldModel
from foretell.objective.contrast import contrast
from foretell.objective.cutouts import Cutouts, Things, seeing
from foretell.objective.places import Places
from foretell.objective.prediction import open_loop_errors, straightness
from foretell.objective.sigreg import sigreg
from foretell.objective.variance import latent_spread, variance_covariance

_WEIGHTS = (
    "prediction",
    "sigreg",
    "grounded",
    "context",
    "inverse",
    "places",
    "cutouts",
    "persistent",
    "straight",
    "variance",
    "covariance",
)
_KEPT = 16
"""Values of a latent that episodes are told apart by."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the terms of the loss; 0 leaves a term out. Raises SpecError for values out of range."""

    prediction: float = 1.0
    """Open-loop latent error, over every horizon of a window."""
    starts: Literal["first", "all"] = "first"
    """The steps of a window that predictions begin at: the first, which costs least (one for each length of the
    history), or all. What the predictor lacks then, refinement gives it."""
    sigreg: float = 1.0
    """SIGReg, the guard against collapse."""
    slices: int = 128
    """Random projections of SIGReg, drawn anew at each step."""
    spread: Literal["change", "state"] = "change"
    """What SIGReg spreads out: what differs between two windows of one episode, so that what stays constant within an
    episode (a wall, a patient) cannot drown what moves; or the states themselves."""
    grounded: float = 1.0
    """Open-loop error of the latent's grounded values (`ModelConfig.grounded`), where they are known: the geometric
    mean over horizons of root mean squares, so that a hundredth less counts alike near and far."""
    context: float = 0.1
    """What the latent's context part is learned by: SIGReg over episodes, how little it changes within one, and how
    well it tells them apart. Where it weighs much, features of what moves come late or never."""
    inverse: float = 1.0
    """Actions told from successive latents."""
    places: float = 0.0
    """What is seen at each place of a picture (features of random convolutions), told from the latent: where something
    slow, such as a block that is pushed, would else be left out beside what moves by itself."""
    cutouts: float = 0.0
    """Where the things that move before a still background are, and how they are turned, told by the first values of
    the latent, on pictures put together from cut-outs of recorded ones; for specs with one image channel."""
    persistent: float = 0.0
    """Episodes told apart by what their latents have in common at different times."""
    straight: float = 0.0
    """Temporal straightening."""
    variance: float = 0.0
    """The variance term of VICReg."""
    covariance: float = 0.0
    """The covariance term of VICReg."""
    ema: float = 0.0
    """Decay of a slowly following target encoder; 0: targets come from the encoder that is trained, with their
    gradient."""
    settle: int = 150
    """Steps before the encoder feels the prediction error: an encoder that sees nothing would be the most predictable
    one. The predictor learns from the first step."""
    ramp: int = 300
    """Steps in which the encoder comes to feel the prediction error fully."""

    def __post_init__(self) -> None:
        for name in _WEIGHTS:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise SpecError(f"objective: the weight {name} must be 0 or more, got {value!r}")
        if not 0 <= self.ema < 1:
            raise SpecError(f"objective: ema must be in [0, 1), got {self.ema!r}")
        if self.settle < 0 or self.ramp < 0:
            raise SpecError(f"objective: settle and ramp must be 0 or more, got {self.settle!r} and {self.ramp!r}")
        if self.slices < 1:
            raise SpecError(f"objective: slices must be at least 1, got {self.slices!r}")
        if self.starts not in ("first", "all"):
            raise SpecError(f"objective: starts must be 'first' or 'all', got {self.starts!r}")
        if self.spread not in ("change", "state"):
            raise SpecError(f"objective: spread must be 'change' or 'state', got {self.spread!r}")

    @property
    def paired(self) -> bool:
        """Whether the windows of a batch come in pairs from one episode."""
        return self.spread == "change" or self.persistent > 0


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
    """Holds what only training needs: the model under training, inverse dynamics, the target encoder.

    things: what moves in the pictures, which `cutouts` needs. SpecError where there is more to say of them than a
    latent has values for, or they are not known.
    """

    def __init__(self, model: WorldModel, config: ObjectiveConfig, things: Things | None = None) -> None:
        super().__init__()
        self.model, self.config = model, config
        acts = model.action_size > 0 and config.inverse > 0
        width = model.config.width
        self.inverse = InverseDynamics(model.config.latent, model.action_size, width) if acts else None
        size = model.config.latent
        pictures = config.places > 0 and any(c.kind == "image" for c in model.spec.observations)
        self.places = Places(model) if pictures else None
        self.cutouts = _cutouts(model, things) if config.cutouts else None
        self.persistent = (
            nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, _KEPT)) if config.persistent else None
        )
        self.target = copy.deepcopy(model).requires_grad_(False) if config.ema else None

    def forward(self, batch: Batch, generator: torch.Generator, step: int) -> dict[str, Tensor]:
        """Named scalars of a batch: `loss` to minimise, each term unweighted, and the latents' `spread`.

        Where config.paired, windows 2k and 2k + 1 of the batch must come from the same episode. `step`
        counts optimiser steps from 0.
        """
        c, model = self.config, self.model
        channels = list(model.normalised(batch.observations, batch.valid))
        shape = (len(batch.actions), batch.actions.shape[1] + 1, 1, model.config.latent)
        latents = model.encode_normalised(channels).view(shape)
        felt = min(1.0, max(0.0, (step + 1 - c.settle) / max(c.ramp, 1)))
        seen = felt * latents + (1 - felt) * latents.detach()
        targets = seen
        if self.target is not None:
            with torch.no_grad():
                targets = self.target.encode(batch.observations, batch.valid)
        errors, about = open_loop_errors(model, seen, targets, batch.actions, c.starts)
        grounded = model.grounded
        terms = {"prediction": errors[..., grounded:].mean()}
        if grounded and c.grounded:
            known = model.grounds_known(batch.valid)[:, about, None].to(errors)
            squares = (errors[..., :grounded] * known).sum((0, 2)) / known.sum((0, 2)).clamp_min(1.0)
            terms["grounded"] = (squares.clamp_min(1e-8).log() / 2).mean().exp()
        flat = latents.flatten(2)
        if c.sigreg and c.spread == "state":
            terms["sigreg"] = sigreg(flat[..., grounded:], c.slices, generator)
        elif c.sigreg:
            moving = flat[..., grounded : flat.shape[-1] - model.config.context]
            terms["sigreg"] = sigreg((moving[0::2] - moving[1::2]) / math.sqrt(2), c.slices, generator)
        if c.paired and model.config.context and c.context:
            constant = flat[..., -model.config.context :]
            one, other = constant[0::2], constant[1::2]
            terms["context"] = (
                sigreg(constant, c.slices, generator)
                + (one - other).square().mean() / 4
                + contrast(one.mean(1), other.mean(1))
            )
        if self.inverse is not None:
            actions = self.inverse(latents[:, :-1], latents[:, 1:])
            terms["inverse"] = (actions - model.normalise_actions(batch.actions)).pow(2).mean()
        if self.places is not None:
            terms["places"] = self.places(channels, flat.flatten(0, 1))
        if self.cutouts is not None:
            terms["cutouts"] = self.cutouts(model, generator)
        if self.persistent is not None:
            kept = self.persistent(flat)
            terms["persistent"] = contrast(kept[0::2].mean(1), kept[1::2].mean(1))
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


def _cutouts(model: WorldModel, things: Things | None) -> Cutouts:
    channel = seeing(model)
    if things is None:
        raise SpecError("objective: cutouts expects the things that were found in the pictures")
    made, config = Cutouts(things, channel), model.config
    if made.size > config.latent - config.context - model.grounded:
        raise SpecError(
            f"objective: cutouts has {made.size} values to tell of {made.count} things, more than a latent of"
            f" {config.latent} values has room for; raise --model.latent"
        )
    return made
