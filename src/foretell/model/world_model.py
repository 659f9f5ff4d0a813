"""The world model: encode what was observed into latents, predict the latents that actions lead to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from foretell.episodes.statistics import Statistics
from foretell.errors import SpecError, require_whole
from foretell.model.encoders import Encoder, ImageEncoder, VectorEncoder, encoder_for
from foretell.model.predictor import Predictor
from foretell.spec import Spec


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a world model. Raises SpecError for values out of range."""

    latent: int = 64
    """Width D of the compact state."""
    context: int = 0
    """How many of these, the last ones, hold what stays constant within an episode; predictions leave them as they
    are."""
    block: int = 4
    """Raw steps between two latent steps."""
    history: int = 1
    """Latents that the predictor looks at."""
    look: int = 1
    """Raw steps, this one the last, that a latent takes of vector channels: what follows may depend on what was
    done and measured long before. The last dozen are taken one by one, those before as means over ever longer
    stretches."""
    grounded: tuple[str, ...] = ()
    """Vector channels whose values, the last ones known, stand at the head of each latent in units of their spread:
    predictions of them are learned as such and read without a head. For signals of few numbers, of which a latent
    may else keep what is easy to predict instead of what matters."""
    stem: int = 16
    """Channels of the first convolution."""
    features: int = 256
    """Width of each channel's features."""
    width: int = 256
    """Width of the predictor."""
    depth: int = 2
    """Residual blocks of the predictor."""

    def __post_init__(self) -> None:
        require_whole("model", self, 1, "latent", "block", "history", "look", "stem", "features", "width", "depth")
        object.__setattr__(self, "grounded", tuple(self.grounded))
        if not isinstance(self.context, int) or not 0 <= self.context < self.latent:
            raise SpecError(f"model: context must be a whole number from 0 to latent - 1, got {self.context!r}")


class WorldModel(nn.Module):
    """A joint-embedding predictive world model of one spec.

    Latents have shape (B, T, N, D) with N = 1: one compact state per latent step. Normalisation is
    part of the model; observations and actions go in as they are recorded, in their own units.
    """

    def __init__(self, spec: Spec, config: ModelConfig, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        for name in config.grounded:
            if name not in {c.name for c in spec.observations if c.kind == "vector"}:
                raise SpecError(f"model: grounded names a vector among the observations, got {name!r}")
        moving = config.latent - config.context - self.grounded
        if moving < 1:
            raise SpecError(
                f"model: a latent of more than {config.context + self.grounded} expected,"
                f" {self.grounded} of it grounded and {config.context} context, got {config.latent}"
            )
        parts = [moving] + [config.context] * (config.context > 0)
        width = config.features
        self.encoders = nn.ModuleList(
            encoder_for(c, config.stem, width * len(parts), config.look) for c in spec.observations
        )
        # What moves and what stays are fused apart: in shared features the stronger signal silences the weaker.
        self.fuse = nn.ModuleList(
            nn.Sequential(
                nn.GELU(),
                nn.Linear(width * len(spec.observations), width),
                nn.GELU(),
                nn.Linear(width, size),
            )
            for size in parts
        )
        self.action_size = spec.action.size * config.block
        self.predictor = Predictor(
            config.latent, config.context, self.action_size, config.history, config.width, config.depth
        )
        self._add_normalisation(statistics)

    def _add_normalisation(self, statistics: Statistics | None) -> None:
        sizes = {c.name: c.shape[-1 if c.kind == "image" else 0] for c in self.spec.observations}
        images = {c.name for c in self.spec.observations if c.kind == "image"}
        for name, size in {**sizes, "action": self.spec.action.size}.items():
            mean, scale = torch.zeros(size), torch.ones(size)
            if statistics is not None and size:
                mean = torch.as_tensor(statistics.mean[name], dtype=torch.float32)
                scale = _scale(torch.as_tensor(statistics.std[name]), mean, name in images)
            self.register_buffer(_buffer("mean", name), mean)
            self.register_buffer(_buffer("scale", name), scale)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.predictor.enter.weight.device

    @property
    def learned_from(self) -> dict[str, tuple[list[float], list[float]]]:
        """Mean and spread of the fields of each vector of the training episodes."""
        return {
            c.name: (
                self.get_buffer(_buffer("mean", c.name)).tolist(),
                self.get_buffer(_buffer("scale", c.name)).tolist(),
            )
            for c in self.spec.observations
            if c.kind == "vector"
        }

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """(..., block * A) raw units -> zero mean, unit variance per action as in the training episodes."""
        if self.action_size == 0:
            return actions
        mean = self.get_buffer("mean_action").repeat(self.config.block)
        scale = self.get_buffer("scale_action").repeat(self.config.block)
        return (actions - mean) / scale

    def raw_actions(self, actions: Tensor) -> Tensor:
        """(..., n * A) normalised -> raw units: the inverse of `normalise_actions`, of any number n of raw steps."""
        times = actions.shape[-1] // max(1, self.spec.action.size)
        return actions * self.get_buffer("scale_action").repeat(times) + self.get_buffer("mean_action").repeat(times)

    def encode(self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> Tensor:
        """Latents (B, T, N, D) of observations (B, T, *shape) in raw units.

        valid: (B, T), or (B, T, F) for vectors and waveforms; channels not named are valid throughout.
        Where `config.look` is more than 1, vectors come as (B, T, F, look), with masks of that shape, as `looking_back`
        makes them. Raises SpecError where a channel is missing or has another shape than the spec's.
        """
        latent = self.encode_normalised(self.normalised(observations, valid))
        batch, steps = observations[self.spec.observations[0].name].shape[:2]
        return latent.view(batch, steps, 1, self.config.latent)

    @cached_property
    def looking(self) -> frozenset[str]:
        """Channels that a latent takes several raw steps of."""
        return frozenset(c.name for c in self.spec.observations if c.kind == "vector" and self.config.look > 1)

    def looking_back(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What `encode` takes of successive raw steps: observations (B, T, *shape) and masks, none earlier than these.

        Steps before the first are missing.
        """
        values, masks = dict(observations), dict(valid or {})
        for name in self.looking & values.keys():
            x = values[name]
            there = masks.get(name)
            there = torch.ones_like(x, dtype=torch.bool) if there is None else there
            there = there[..., None].expand_as(x) if there.dim() == 2 else there
            values[name], masks[name] = (_lately(v, self.config.look) for v in (x, there))
        return values, masks

    def fit_stretches(self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> None:
        """Take from a batch of the training what encoders that look far back normalise means by, before training;
        arguments and errors as in `encode`.
        """
        for encoder, given in zip(self.encoders, self.normalised(observations, valid), strict=True):
            if isinstance(encoder, VectorEncoder):
                encoder.fit(*given)

    def encode_normalised(self, channels: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Latents (M, D) of what `normalised` gives, in float32: where the derivative of a latent by what is seen is
        wanted.
        """
        given = list(channels)
        return self._fused(given, [encoder(*each) for encoder, each in zip(self.encoders, given, strict=True)])

    def encode_with_early(self, channels: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """`encode_normalised` and `early` at once."""
        given = list(channels)
        first = self.early(given)
        features = [
            encoder.after(early, mask) if isinstance(encoder, ImageEncoder) else encoder(values, mask)
            for encoder, early, (values, mask) in zip(self.encoders, first, given, strict=True)
        ]
        return self._fused(given, features), first

    def _fused(self, given: Sequence[tuple[Tensor, Tensor]], features: Sequence[Tensor]) -> Tensor:
        parts = (each.chunk(len(self.fuse), dim=-1) for each in features)
        fused = [fuse(torch.cat(part, dim=-1)) for fuse, part in zip(self.fuse, zip(*parts, strict=True), strict=True)]
        names = [c.name for c in self.spec.observations]
        grounds = [_last_known(*given[names.index(name)]) for name in self.config.grounded]
        return torch.cat([*grounds, *fused], dim=-1).float()

    @property
    def grounded(self) -> int:
        """How many values at the head of a latent are grounded."""
        return sum(self.spec.channel(name).shape[0] for name in self.config.grounded)

    def grounds_known(self, valid: Mapping[str, Tensor]) -> Tensor:
        """(B, T, G) whether each grounded value is known at its step itself, of masks as `encode` takes them."""
        masks = (valid[name] for name in self.config.grounded)
        return torch.cat([m[..., -1] if m.dim() == 4 else m for m in masks], dim=-1)

    def read(self, latents: Tensor, name: str) -> Tensor:
        """A grounded channel (..., F), in its units, of latents (..., N, D); SpecError where it is not grounded."""
        if name not in self.config.grounded:
            raise SpecError(f"channel {name} is not grounded in this model's latents; fit a readout")
        sizes = [self.spec.channel(n).shape[0] for n in self.config.grounded]
        found = torch.split(latents[..., 0, : sum(sizes)], sizes, dim=-1)[self.config.grounded.index(name)]
        return torch.addcmul(self.get_buffer(_buffer("mean", name)), found, self.get_buffer(_buffer("scale", name)))

    def early(self, channels: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The first features of what `normalised` gives, before anything is mixed over places: (M, C, *places) each."""
        encoders = (cast(Encoder, encoder) for encoder in self.encoders)
        return [encoder.early(*each) for encoder, each in zip(encoders, channels, strict=True)]

    def normalised(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What each channel's encoder takes, in the spec's order: values (M, ...) in units of their spread, images
        colours first, and their masks. M = B * T; arguments and errors as in `encode`.
        """
        for channel in self.spec.observations:
            if channel.name not in observations:
                raise SpecError(f"channel {channel.name} is missing; the model was trained with it")
            values = observations[channel.name]
            looks = channel.name in self.looking
            shape = (*channel.shape, self.config.look) if looks else channel.shape
            if tuple(values.shape[2:]) != shape:
                expected = f"(batch, steps, {', '.join(map(str, shape))})"
                raise SpecError(f"channel {channel.name}: {expected} expected, got {tuple(values.shape)}")
            if channel.kind == "image" and values.dtype != torch.uint8:
                raise SpecError(f"channel {channel.name}: uint8 expected, got {values.dtype}")
            batch, steps = values.shape[:2]
            mask = None if valid is None else valid.get(channel.name)
            flat = values.flatten(0, 1)
            if channel.kind == "image":
                seen = (
                    torch.ones(flat.shape[0], dtype=torch.bool, device=flat.device) if mask is None else mask.flatten()
                )
            else:
                shape = (batch, steps, *(shape if looks else shape[:1]))
                mask = torch.ones(shape, dtype=torch.bool, device=flat.device) if mask is None else mask
                seen = (mask[..., None].expand(shape) if mask.dim() == 2 else mask).flatten(0, 1)
            yield self._normalise(channel.name, flat.permute(0, 3, 1, 2) if channel.kind == "image" else flat), seen

    def _normalise(self, name: str, values: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (values.dim() - 2)
        mean, scale = self.get_buffer(_buffer("mean", name)), self.get_buffer(_buffer("scale", name))
        # In the order of channels first: convolutions and norms are twice as slow on colours side by side. One pass to
        # turn bytes into floats, then in place: mixed with the subtraction it takes several times as long.
        copied = values.contiguous().float() if values.dtype == torch.uint8 else values.clone()
        return copied.sub_(mean.view(shape)).div_(scale.view(shape))

    def predict(self, context: Tensor, actions: Tensor) -> Tensor:
        """The latent after each step of a context: (B, T, N, D), (B, T, block * A) -> (B, T, N, D).

        Step t is predicted from latents max(0, t - history + 1) .. t and their actions, raw units.
        """
        history = self.config.history
        latents = _windows(context.flatten(2), history)
        acts = _windows(self.normalise_actions(actions), history)
        present = _windows(torch.ones_like(context[:, :, 0, :1]), history)[..., 0]
        return torch.as_tensor(self.predictor(latents, acts, present)).view(context.shape)

    def predict_each(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Each latent's successor from itself alone: (..., N, D), (..., block * A) raw -> (..., N, D)."""
        history = self.config.history
        alone = functional.pad(latents.flatten(-2)[..., None, :], (0, 0, history - 1, 0))
        acts = functional.pad(self.normalise_actions(actions)[..., None, :], (0, 0, history - 1, 0))
        present = functional.pad(torch.ones_like(alone[..., -1:, 0]), (history - 1, 0))
        return torch.as_tensor(self.predictor(alone, acts, present)).view(latents.shape)

    def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
        """Latents that plans lead to, open loop: (B, H, N, D), (B, H-1, A), (B, S, K, A) -> (B, S, K, N, D).

        context holds the latest latents and past the actions between them (A = block * actions per
        step, raw units); latents and actions older than the model's history are not looked at.
        """
        batch, samples, steps = plan.shape[:3]
        history, tokens = self.config.history, context.shape[2:]
        past = self.normalise_actions(past)[:, -(history - 1) :] if history > 1 else past[:, :0]
        context = context[:, -history:].flatten(2)
        missing = history - context.shape[1]
        present = functional.pad(torch.ones_like(context[:, :, 0]), (missing, 0))
        latents = functional.pad(context, (0, 0, missing, 0))
        past = functional.pad(past, (0, 0, history - 1 - past.shape[1], 0))

        def spread(x: Tensor) -> Tensor:
            return x[:, None].expand(batch, samples, *x.shape[1:])

        latents = spread(latents)
        acts = torch.cat([spread(past), self.normalise_actions(plan)], dim=2)
        present = spread(functional.pad(present, (0, steps - 1), value=1.0))
        states = []
        for k in range(steps):
            state = self.predictor(latents, acts[:, :, k : k + history], present[:, :, k : k + history])
            states.append(state)
            latents = torch.cat([latents[:, :, 1:], state[:, :, None]], dim=2)
        return torch.stack(states, dim=2).view(batch, samples, steps, *tokens)

    def after(self, context: Tensor, past: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, H, N, D) and past (B, H-1, A), as `rollout` takes them, after another block of actions (B, A), as
        far as the model looks back.
        """
        then = self.rollout(context, past, block[:, None, None])[:, 0]
        context = torch.cat([context, then], dim=1)[:, -self.config.history :]
        past = torch.cat([past, block[:, None]], dim=1)
        return context, past[:, past.shape[1] - context.shape[1] + 1 :]


def _scale(std: Tensor, mean: Tensor, image: bool) -> Tensor:
    """What to divide by: the spread, but nothing so small that a constant's next deviation would explode."""
    if image:
        return std.float().clamp_min(1.0)
    return torch.where(std > 1e-6 * mean.abs(), std, 1.0).float()


def _buffer(what: str, name: str) -> str:
    # Buffers' names hold no dot, channels' no slash: so no two channels share a buffer.
    return f"{what}_{name.replace('.', '/')}"


def _last_known(values: Tensor, valid: Tensor) -> Tensor:
    """(M, F) of values (M, F), or the last of (M, F, L), that are valid; 0 where none is."""
    if values.dim() == 2:
        return values.masked_fill(~valid, 0)
    ranks = torch.arange(1, values.shape[-1] + 1, device=values.device)
    last = (valid * ranks).argmax(-1, keepdim=True)
    return values.masked_fill(~valid, 0).gather(-1, last)[..., 0]


def _lately(x: Tensor, look: int) -> Tensor:
    """(B, T, F) -> (B, T, F, look): each step after those before it, zeros (False) before the first."""
    return functional.pad(x, (0, 0, look - 1, 0)).unfold(1, look, 1)


def _windows(x: Tensor, history: int) -> Tensor:
    """(B, T, F) -> (B, T, history, F): each step with those before it, zeros before the first."""
    padded = functional.pad(x, (0, 0, history - 1, 0))
    return padded.unfold(1, history, 1).transpose(-1, -2)
