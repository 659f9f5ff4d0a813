"""Live observations at the border: checked against the spec before a model sees them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.spec import Channel, Spec


def checked(
    spec: Spec,
    observations: Mapping[str, Tensor],
    valid: Mapping[str, Tensor] | None = None,
    *,
    batch: int | None = None,
    where: str = "observations",
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """One step of every observation channel (B, 1, *shape), floats in float32, and the masks as a model takes them.

    observations: by channel, (B, *shape) or (B, 1, *shape), in raw units; quantities may stand beside them and
    are dropped. valid: by channel, (B,) or, for vectors and waveforms, (B, F) bool, or the same with a step axis;
    None where everything is valid. Values that are not valid come out as zero. batch: B, any if None.
    Raises SpecError naming `where` and the channel for what is missing, unknown, of another shape or type, or
    not finite where it is valid.
    """
    names = {c.name for c in spec.channels}
    for given in (observations, valid or {}):
        for name in given:
            if name not in names:
                raise SpecError(f"{where}: channel {name} is not in the spec, which has {sorted(names)}")
    values: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for channel in spec.observations:
        if channel.name not in observations:
            raise SpecError(f"{where}: channel {channel.name} is missing")
        step = _values(channel, observations[channel.name], batch, where)
        batch = len(step)
        if valid is not None:
            mask = _mask(channel, valid.get(channel.name), step, where)
            step = step.masked_fill(~mask.reshape(mask.shape + (1,) * (step.ndim - mask.ndim)), 0)
            masks[channel.name] = mask
        if step.is_floating_point() and not bool(step.isfinite().all()):
            raise SpecError(f"{where}: channel {channel.name} holds NaN or infinity; mark missing values in its mask")
        values[channel.name] = step
    return values, None if valid is None else masks


def _values(channel: Channel, values: Tensor, batch: int | None, where: str) -> Tensor:
    place = f"{where}: channel {channel.name}"
    if not isinstance(values, Tensor):
        raise SpecError(f"{place}: a torch tensor expected, got {type(values).__name__}")
    step = values.unsqueeze(1) if values.ndim == len(channel.shape) + 1 else values
    count = batch if batch is not None else values.shape[0] if values.ndim else 0
    if count < 1 or step.shape != (count, 1, *channel.shape):
        expected = "(" + ", ".join(map(str, ("episodes" if batch is None else batch, *channel.shape))) + ")"
        raise SpecError(f"{place} of shape {expected} expected, got {tuple(values.shape)}{_hint(channel, values)}")
    if channel.kind == "image":
        if step.dtype != torch.uint8:
            raise SpecError(f"{place} must be uint8 (8 bits a colour), got {step.dtype}")
        return step
    if step.dtype == torch.bool or step.is_complex():
        raise SpecError(f"{place} must be numbers, got {step.dtype}")
    return step.float()


def _hint(channel: Channel, values: Tensor) -> str:
    """What is wrong with a picture of another shape, where it is one of the usual things."""
    height, width, colours = channel.shape if channel.kind == "image" else (0, 0, 0)
    came = tuple(values.shape[-3:])
    if channel.kind != "image" or len(came) < 3 or came == channel.shape:
        return ""
    if came == (colours, height, width):
        return "; colours stand last: move that axis to the end"
    if came[-1] == colours:
        return f"; resize it to {height} x {width}, as the model was trained with"
    return ""


def _mask(channel: Channel, mask: Tensor | None, step: Tensor, where: str) -> Tensor:
    shape = (len(step), 1) if channel.kind == "image" else (len(step), 1, channel.shape[0])
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=step.device)
    whole, single = shape[:1], (shape[0], *shape[2:])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape not in (shape, shape[:2], whole, single):
        came = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        expected = " or ".join(str(s) for s in dict.fromkeys((whole, single)))
        raise SpecError(f"{where}: the mask of channel {channel.name} must be bool of shape {expected}, got {came}")
    mask = mask.to(step.device)
    if mask.shape == shape or mask.shape == single:
        return mask.reshape(shape)
    return mask.reshape(len(step), *(1,) * (len(shape) - 1)).expand(shape)
