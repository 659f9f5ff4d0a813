"""Attribution: which channels, fields and places a surprise or a novelty depends on. It says where to look, not why.

It is a property of the model and of what it saw, not a cause in the world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from foretell.errors import SpecError
from foretell.model.encoders import Encoder
from foretell.model.world_model import WorldModel
from foretell.spec import Episode
from foretell.trust.calibration import Calibration, Seen, see, shown
from foretell.trust.novelty import places_of
from foretell.trust.residuals import residuals

_BLUR = 10
"""An image's heat is averaged over squares of a tenth of its shorter side."""
_PAST = 32
"""Steps before a prediction whose mean picture tells what is there now from what was there before, at most."""


@dataclass(frozen=True)
class Attribution:
    """Shares that sum to 1. channels: by name. fields: by channel of a vector or waveform, (F,), summing to its share.

    maps: by image channel, (H, W), summing to its share.
    """

    channels: Mapping[str, float]
    fields: Mapping[str, NDArray[np.float64]]
    maps: Mapping[str, NDArray[np.float64]]

    def top(self, spec_fields: Mapping[str, tuple[str, ...]]) -> str:
        """The channel with the largest share, or its field where it has several: `valves: valve_3`."""
        name = max(self.channels, key=lambda n: self.channels[n])
        names = spec_fields.get(name, ())
        return f"{name}: {names[int(np.argmax(self.fields[name]))]}" if len(names) > 1 else name


def attribute_surprise(
    model: WorldModel, calibration: Calibration, episode: Episode, step: int, seen: Seen | None = None
) -> Attribution:
    """What the surprise at a step depends on: its derivative by what is seen then, times how far that is from what was
    seen where the most surprising prediction started ("gradient x difference", the first-order part of Integrated
    Gradients, Sundararajan et al. 2017, arXiv 1703.01365). Where nothing changed at all, the derivative alone.

    Pictures are compared with their mean over the steps until that prediction: where something has gone, a picture
    differs from the one before as much as where it is now, yet from what was usual there it hardly does.

    seen: of the episode or its last steps, if at hand. Raises SpecError for the first step, which nothing predicted.
    """
    if step == 0:
        raise SpecError("attribution: a step that a prediction reaches expected, got step 0")
    seen = see(model, episode) if seen is None else seen
    found = residuals(model, seen.latents, seen.actions, calibration.law.blocks)
    values, given = found.values[step - len(episode)], found.given[step - len(episode)]
    view = int(calibration.law.ratios(values, given).argmax())
    back = 1 if view == calibration.law.blocks else (view + 1) * model.config.block
    start = max(0, step - back)
    now = _step(model, episode, step)
    before = [
        _average(value, there) if value.dim() == 4 else value[-1:]
        for value, there in shown(model, episode, slice(max(0, start + 1 - _PAST), start + 1))
    ]
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_(True) for x, _ in now]
        latent = model.encode_normalised(zip(inputs, (m for _, m in now), strict=True))[0]
        # The latent in the residual is the one that depends on what is seen.
        moved = values + (latent - latent.detach()).to(values)
        score = calibration.law(moved, given)
        gradients = torch.autograd.grad(score, inputs)
    changes = [x.detach() - y for x, y in zip(inputs, before, strict=True)]
    if not any(bool(c.any()) for c in changes):
        changes = [torch.ones_like(c) for c in changes]
    return _shares(model, [(g * c).abs()[0].cpu() for g, c in zip(gradients, changes, strict=True)])


def attribute_novelty(model: WorldModel, calibration: Calibration, episode: Episode, step: int) -> Attribution:
    """What the novelty at a step depends on: of images the distance at each place, of other channels the derivative by
    each value times the value, in units of their spread. Channels count by how far beyond the ordinary they are.
    """
    parts = []
    inputs = _step(model, episode, step)
    for encoder, (value, mask), novelty in zip(model.encoders, inputs, calibration.channels, strict=True):
        with torch.enable_grad():
            x = value.detach().requires_grad_(True)
            features, grid = places_of(cast(Encoder, encoder).early(x, mask))
            features = features.cpu()
            total = novelty(features)[0]
            (gradient,) = torch.autograd.grad(total, x)
        if x.dim() == 4:
            heat = novelty.placed(features.detach())[0].view(1, 1, *grid)
            part = functional.interpolate(heat, size=x.shape[2:], mode="bilinear")[0].expand(x.shape[1:])
        else:
            part = (gradient * x.detach()).abs()[0].cpu()
        parts.append(part / part.sum().clamp_min(1e-12) * float(total.detach()))
    return _shares(model, parts, blur=False)


def _step(model: WorldModel, episode: Episode, step: int) -> list[tuple[Tensor, Tensor]]:
    return shown(model, episode, slice(step, step + 1))


def _average(values: Tensor, there: Tensor) -> Tensor:
    """(1, C, H, W) mean of those of M pictures (M, C, H, W) that are there, (M,)."""
    weights = there.to(values)[:, None, None, None]
    return (values * weights).sum(0, keepdim=True) / weights.sum().clamp_min(1)


def _shares(model: WorldModel, parts: list[Tensor], *, blur: bool = True) -> Attribution:
    """From how much each value of each channel counts, (C, H, W), (F,) or (F, L)."""
    total = sum(float(p.sum()) for p in parts) or 1.0
    channels, fields, maps = {}, {}, {}
    for channel, part in zip(model.spec.observations, parts, strict=True):
        share = part / total
        channels[channel.name] = float(share.sum())
        if channel.kind == "image":
            heat = share.sum(0)
            if blur:
                size = max(1, min(heat.shape) // _BLUR) | 1
                heat = functional.avg_pool2d(heat[None, None], size, 1, size // 2)[0, 0]
                heat = heat * (share.sum() / heat.sum().clamp_min(1e-12))
            maps[channel.name] = heat.double().numpy()
        else:
            fields[channel.name] = share.reshape(len(share), -1).sum(1).double().numpy()
    return Attribution(channels, fields, maps)
