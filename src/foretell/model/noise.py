"""Noise that plans are searched with: white, and coloured along the raw steps of a plan."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noise(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal values, drawn where the generator lives, with the type and device of `like`."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def coloured_noise(shape: tuple[int, ...], beta: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """Gaussian noise of unit variance whose power along the last axis falls as 1 / f^beta.

    Timmer and Koenig 1995, "On generating power law noise", with the lowest frequency held at one period
    per length, as iCEM uses it. beta 0 is white noise; an axis of one step gives white noise too.
    """
    *rest, steps = shape
    if beta == 0 or steps == 1:
        return noise(shape, generator, like)
    frequencies = torch.fft.rfftfreq(steps, dtype=like.dtype, device=like.device)
    amplitude = frequencies.clamp(min=1 / steps) ** (-beta / 2)
    # A real signal's constant and, for an even length, its highest frequency have no imaginary part.
    alone = [0, len(frequencies) - 1] if steps % 2 == 0 else [0]
    variance = 4 * amplitude.square()
    variance[alone] /= 2
    parts = noise((*rest, len(frequencies), 2), generator, like)
    parts[..., alone, 0] *= math.sqrt(2)
    parts[..., alone, 1] = 0
    amplitude = amplitude * steps / variance.sum().sqrt()
    coloured: Tensor = torch.fft.irfft(torch.view_as_complex(parts) * amplitude, n=steps)
    return coloured
