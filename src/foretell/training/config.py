"""What a training run is told: sizes, weights of the objective, schedule, precision, where and how often to save."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import tyro

from foretell.errors import SpecError, require_whole
from foretell.model.world_model import ModelConfig
from foretell.objective.objective import ObjectiveConfig
from foretell.training.gains import parse
from foretell.training.practice import Practice
from foretell.training.refine import Refine
from foretell.training.temporal import DistanceFit

Precision = Literal["auto", "float32", "bfloat16"]
Tracker = Literal["none", "tensorboard", "wandb"]

_NESTED: dict[str, Any] = {
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "refine": Refine,
    "distance": DistanceFit,
    "practice": Practice,
}

FREE = ("checkpoint_seconds", "checkpoint_steps", "log_steps", "tracker")
"""Settings that may change when a run is resumed: the weights do not depend on them."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. Raises SpecError for values out of range."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Sizes of the world model."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Weights of the loss."""
    refine: Refine = field(default_factory=Refine)
    """A second training of the predictor alone, on the trained encoder's latents."""
    distance: DistanceFit = field(default_factory=DistanceFit)
    """The temporal distance that plans are made with, learned when the model is."""
    practice: Practice = field(default_factory=Practice)
    """An actor and a critic that plans are made with, learned last, in the model's imagination."""
    frozen_states: int = 500_000
    """Recorded steps, at most, whose latents refinement, distance and practice are learned on; whole episodes are left
    out beyond. More show more of where what follows changes abruptly."""
    steps: int = 800
    """Optimiser steps."""
    batch: int = 64
    """Windows in a step, over all ranks together."""
    length: int = 5
    """Latent steps in a window."""
    learning_rate: float = 1e-3
    """Peak learning rate; it falls to zero along a cosine."""
    weight_decay: float = 1e-3
    """Decay of the weights (AdamW)."""
    warmup: int = 100
    """Steps in which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    gains: tuple[str, ...] = ()
    """Vector channels and actions that are scaled at random, each window anew, as if of another patient or machine:
    insulin+basal+bolus:0.3 scales these together, by e to the power of a normal number of that spread;
    glucose:0.2@110 leaves 110 where it is."""
    precision: Precision = "auto"
    """Precision of the matrix products; auto: bfloat16 where the device computes it faster, else float32."""
    compile: bool = False
    """Compile the model with torch.compile; costs minutes at the start."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, ...; auto: the fastest there is."""
    seed: Annotated[int, tyro.conf.Suppress] = 0
    """Seed of the weights, the order of the windows, the held-out episodes and the random projections."""
    holdout: float = 0.1
    """Share of the episodes kept for evaluation, not trained on."""
    checkpoint_seconds: float = 60.0
    """Save whenever so many seconds have passed."""
    checkpoint_steps: int = 0
    """Save after every so many steps too; 0: by time alone."""
    log_steps: int = 20
    """Steps between two records in the log."""
    tracker: Tracker = "none"
    """Where the log goes too; both need an extra: pip install 'foretell[track]'."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "gains", tuple(self.gains))
        for gain in self.gains:
            parse(gain)
        require_whole("training", self, 1, "steps", "batch", "log_steps", "frozen_states")
        require_whole("training", self, 2, "length")
        require_whole("training", self, 0, "warmup", "seed", "checkpoint_steps")
        for name, open_ended in {
            "learning_rate": True,
            "clip": True,
            "weight_decay": False,
            "checkpoint_seconds": False,
        }.items():
            value = getattr(self, name)
            if not (value > 0 or (value == 0 and not open_ended)) or value == float("inf"):
                raise SpecError(f"training: {name} must be {'above 0' if open_ended else '0 or more'}, got {value!r}")
        if not 0 <= self.holdout < 1:
            raise SpecError(f"training: holdout must be in [0, 1), got {self.holdout!r}")
        for name, choices in {
            "precision": ("auto", "float32", "bfloat16"),
            "tracker": ("none", "tensorboard", "wandb"),
        }.items():
            if getattr(self, name) not in choices:
                raise SpecError(f"training: {name} must be one of {choices}, got {getattr(self, name)!r}")
        self.practice.require_fits(self.model.latent)
        if self.batch % self.group:
            raise SpecError(f"training: the objective compares pairs; an even batch expected, got {self.batch}")

    @property
    def group(self) -> int:
        """Neighbours in a batch that come from one episode."""
        return 2 if self.objective.paired else 1

    def to_json(self) -> dict[str, Any]:
        """All settings, JSON-serialisable."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_json`; SpecError for unknown settings and wrong values."""
        try:
            rest = {key: value for key, value in data.items() if key not in _NESTED}
            # Runs of before there was practice do not name it.
            nested = {name: kind(**{"practice": {}, **data}[name]) for name, kind in _NESTED.items()}
            return TrainConfig(**nested, **rest)
        except (TypeError, KeyError) as error:
            raise SpecError(f"training: not a configuration: {error}") from error

    def differences(self, other: TrainConfig) -> list[str]:
        """What `other` would train differently, one phrase per setting; empty if nothing."""
        mine, theirs = dict(flat(self.to_json())), dict(flat(other.to_json()))
        return [
            f"{name}: {mine[name]!r} expected, got {theirs[name]!r}"
            for name in mine
            if name not in FREE and mine[name] != theirs[name]
        ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted name."""
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name, `auto` being CUDA, then MPS, then the CPU; SpecError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
    except RuntimeError as error:
        raise SpecError(f"device {name!r}: auto, cpu, cuda, cuda:1, mps or another of torch's expected") from error
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise SpecError(f"device {name!r} cannot be used: {reason}; --device auto takes what is there") from error
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """`auto` becomes bfloat16 where the device has instructions for it."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    return "float32"
