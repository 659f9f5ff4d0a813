"""Readout: a small head on frozen latents that names physical quantities in their own units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from foretell.errors import SpecError, require_whole
from foretell.model.world_model import WorldModel


class Reads(Protocol):
    """What names physical quantities in latents: a `Readout`, or a `Grounded` channel."""

    channel: str
    fields: tuple[str, ...]
    units: tuple[str, ...]

    def __call__(self, latents: Tensor) -> Tensor:
        """(..., N, D) -> the fields (..., F) in physical units."""
        ...


class Grounded:
    """A channel that stands in a model's latents (`ModelConfig.grounded`), read like a `Readout`, without a head.

    Raises SpecError where it does not stand there.
    """

    def __init__(self, model: WorldModel, channel: str) -> None:
        found = model.spec.channel(channel)
        if channel not in model.config.grounded:
            raise SpecError(f"channel {channel} is not grounded in this model's latents; fit a readout")
        self.model, self.channel, self.fields, self.units = model, channel, found.fields, found.units

    def __call__(self, latents: Tensor) -> Tensor:
        """(..., N, D) -> (..., F) in physical units."""
        return self.model.read(latents, self.channel)


class Readout(nn.Module):
    """Latents (..., N, D) -> the fields (..., F) of one channel, in the channel's units.

    channel: the name of what is read out; fields, units: of its F values. tokens, latent: N and D.
    centre, scale: (F,) mean and spread of the fields where the readout was fitted, 0 and 1 unless given;
    they are buffers, so that they are saved with the weights. Latents are normalised likewise.
    Raises SpecError for sizes below 1 and for fields and units that do not go together.
    """

    def __init__(
        self,
        *,
        channel: str,
        fields: Sequence[str],
        units: Sequence[str],
        latent: int,
        tokens: int = 1,
        width: int = 128,
    ) -> None:
        super().__init__()
        self.channel, self.fields, self.units = channel, tuple(fields), tuple(units)
        self.latent, self.tokens, self.width = latent, tokens, width
        if not self.fields or len(self.fields) != len(self.units):
            raise SpecError(f"readout {channel}: as many units as fields expected, got {fields} and {units}")
        require_whole(f"readout {channel}", self, 1, "latent", "tokens", "width")
        size = latent * tokens
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, len(self.fields))
        )
        for name, count in (("latent", size), ("field", len(self.fields))):
            self.register_buffer(f"{name}_centre", torch.zeros(count))
            self.register_buffer(f"{name}_scale", torch.ones(count))

    def normalise_by(self, latents: Tensor, values: Tensor) -> None:
        """Take mean and spread from latents (n, N, D) and values (n, F) of the training episodes."""
        for name, found in (("latent", latents.flatten(-2)), ("field", values)):
            self.get_buffer(f"{name}_centre").copy_(found.mean(0))
            self.get_buffer(f"{name}_scale").copy_(found.std(0, correction=0).clamp_min(1e-6))

    def normalised(self, latents: Tensor) -> Tensor:
        """The fields in units of their spread, (..., F): what is fitted."""
        if latents.shape[-2:] != (self.tokens, self.latent):
            raise SpecError(
                f"readout {self.channel}: latents (..., {self.tokens}, {self.latent}) expected,"
                f" got {tuple(latents.shape)}"
            )
        flat = (latents.flatten(-2) - self.get_buffer("latent_centre")) / self.get_buffer("latent_scale")
        return torch.as_tensor(self.layers(flat))

    def forward(self, latents: Tensor) -> Tensor:
        """(..., N, D) -> (..., F) in physical units; SpecError for latents of another size."""
        return self.normalised(latents) * self.get_buffer("field_scale") + self.get_buffer("field_centre")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, beside the weights."""
        return {
            "channel": self.channel,
            "fields": list(self.fields),
            "units": list(self.units),
            "latent": self.latent,
            "tokens": self.tokens,
            "width": self.width,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Readout:
        """A readout of that configuration, its weights not loaded yet; SpecError where a part is missing or wrong."""
        try:
            return Readout(
                channel=str(data["channel"]),
                fields=[str(f) for f in data["fields"]],
                units=[str(u) for u in data["units"]],
                latent=data["latent"],
                tokens=data["tokens"],
                width=data["width"],
            )
        except (KeyError, TypeError) as error:
            raise SpecError(f"not a readout: {error!r}") from error
