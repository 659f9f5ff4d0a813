"""A world model whose latents are known: a point that moves by its actions, seen as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foretell.spec import ActionSpec, Channel, Spec

SPEC = Spec(
    observations=(Channel(name="position", kind="vector", shape=(2,)),),
    action=ActionSpec(names=("x", "y"), low=(-0.5, -0.25), high=(0.5, 0.25)),
)
MIXED = Spec(
    observations=(
        Channel(name="position", kind="vector", shape=(2,)),
        Channel(name="eye", kind="image", shape=(4, 4, 3)),
    ),
    action=SPEC.action,
    quantities=(Channel(name="truth", kind="vector", shape=(1,)),),
)


@dataclass(frozen=True)
class Sizes:
    """Raw steps per latent step, latents in a context, and raw steps that a latent takes."""

    block: int = 1
    history: int = 1
    look: int = 1


@dataclass
class PointMass:
    """Latents (position, velocity): each raw action (2,) moves the point, so that a rollout is a running sum.

    `contexts` and `pasts` hold what rollouts were asked, `encoded` counts encoded steps.
    """

    spec: Spec = SPEC
    config: Sizes = field(default_factory=Sizes)
    contexts: list[Tensor] = field(default_factory=list)
    pasts: list[Tensor] = field(default_factory=list)
    masks: list[Mapping[str, Tensor] | None] = field(default_factory=list)
    encoded: int = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> Tensor:
        self.encoded += 1
        self.masks.append(valid)
        return observations["position"].unsqueeze(2)

    def looking_back(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        raise AssertionError("a model that takes one step is not asked")

    def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
        self.contexts.append(context)
        self.pasts.append(past)
        assert past.shape[:2] == (context.shape[0], context.shape[1] - 1)
        steps = plan.unflatten(-1, (self.config.block, -1)).sum(-2).cumsum(dim=2)
        return (context[:, -1, 0, None, None] + steps).unsqueeze(3)
