"""Encoders: one per channel kind, each turning a channel's steps into features of one width."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from foretell.spec import Channel


class ImageEncoder(nn.Module):
    """Convolutions from (M, C, H, W) to (M, width): a stride of 4, then of 2 until at most 4 x 4 remain.

    An image that is missing (valid False) becomes a learned feature.
    """

    def __init__(self, shape: tuple[int, ...], stem: int, width: int) -> None:
        super().__init__()
        height, breadth, colours = shape
        rims = [2 if n % 4 else 0 for n in (height, breadth)]
        layers: list[nn.Module] = [
            nn.Conv2d(colours, stem, 4, 4, (rims[0], rims[1])),
            nn.GroupNorm(1, stem),
            nn.ReLU(inplace=True),
        ]
        channels = stem
        height, breadth = (_after(n, 4, 4, rim) for n, rim in zip((height, breadth), rims, strict=True))
        while max(height, breadth) > 4:
            wider = min(2 * channels, 8 * stem)
            layers += [nn.Conv2d(channels, wider, 3, 2, 1), nn.GroupNorm(1, wider), nn.ReLU(inplace=True)]
            channels = wider
            height, breadth = (_after(n, 3, 2, 1) for n in (height, breadth))
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(channels * height * breadth, width)
        self.missing = nn.Parameter(torch.zeros(width))

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        """images (M, C, H, W) normalised, valid (M,) bool -> (M, width)."""
        return self.after(self.early(images, valid), valid)

    def after(self, first: Tensor, valid: Tensor) -> Tensor:
        """`forward` from what `early` gives."""
        for layer in itertools.islice(self.convolutions, 1, None):
            first = layer(first)
        features = self.project(first.flatten(1))
        return torch.where(valid[:, None], features, self.missing.to(features.dtype))

    def stages(self, count: int) -> nn.Module:
        """The first `count` convolutions, or as many as there are, each with its normalisation and what bends it."""
        return self.convolutions[: 3 * count]

    def early(self, images: Tensor, valid: Tensor) -> Tensor:
        """The first convolution, (M, C, H / 4, W / 4), of images (M, C, H, W) normalised."""
        return torch.as_tensor(self.convolutions[0](images))


APART = 12
"""Steps looked back on that are taken one by one; before them, means over stretches, each a quarter as long as it lies
back."""


def stretches(look: int) -> list[tuple[int, int]]:
    """How far back each stretch begins and ends, the nearest first: (0, 1) is the last step alone."""
    edges = list(range(min(look, APART) + 1))
    while edges[-1] < look:
        edges.append(min(look, edges[-1] + -(-edges[-1] // 4)))
    return list(itertools.pairwise(edges))


class VectorEncoder(nn.Module):
    """A perceptron on normalised fields and their masks, (M, F) or, looking back, (M, F, L) to (M, width).

    What it looks back on is averaged over `stretches`, each mean in units of its own spread (`fit`): that of what comes
    seldom is small over a long stretch, but not unimportant.
    """

    def __init__(self, fields: int, width: int, look: int = 1) -> None:
        super().__init__()
        parts = stretches(look)
        self.pooled = look > APART
        if self.pooled:
            back = torch.arange(look - 1, -1, -1)
            pool = torch.stack([(back >= near) & (back < far) for near, far in parts], dim=1).float()
            self.register_buffer("pool", pool, persistent=False)
            self.register_buffer("spread", torch.ones(fields, len(parts)))
        deep = [nn.Linear(width, width), nn.GELU()] if self.pooled else []
        self.layers = nn.Sequential(
            nn.Linear(2 * fields * len(parts), width), nn.GELU(), *deep, nn.Linear(width, width)
        )

    @torch.no_grad()
    def fit(self, values: Tensor, valid: Tensor) -> None:
        """Take the spread of each stretch's mean from values (M, F, L) normalised and their masks."""
        if self.pooled:
            means, share = self._means(values, valid)
            squares = (means.square() * (share > 0)).sum(0) / (share > 0).sum(0).clamp_min(1)
            self.get_buffer("spread").copy_(torch.where(squares > 0, squares, 1.0).sqrt())

    def _means(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(M, F, S) means over what is valid of each stretch, 0 where nothing is, and the share of it that is."""
        pool, mask = self.get_buffer("pool"), valid.to(values.dtype)
        count = mask @ pool
        return (values.masked_fill(~valid, 0) @ pool) / count.clamp_min(1), count / pool.sum(0)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values (M, F) or (M, F, L) normalised, valid the same bool -> (M, width)."""
        if self.pooled:
            means, share = self._means(values, valid)
            x = torch.cat([means / self.get_buffer("spread"), share], dim=1)
        else:
            x = torch.cat([values.masked_fill(~valid, 0), valid.to(values.dtype)], dim=1)
        return torch.as_tensor(self.layers(x.flatten(1)))

    def early(self, values: Tensor, valid: Tensor) -> Tensor:
        """The values of now, (M, F, 1), their mean where they are not valid."""
        known = values.masked_fill(~valid, 0)
        return known[..., -1:] if known.dim() > 2 else known[..., None]


class WaveformEncoder(nn.Module):
    """One-dimensional convolutions, (M, F, L) to (M, width): strides of 4 until at most 8 samples remain."""

    def __init__(self, shape: tuple[int, ...], stem: int, width: int) -> None:
        super().__init__()
        fields, length = shape
        layers: list[nn.Module] = []
        channels = 2 * fields
        while length > 8:
            layers += [nn.Conv1d(channels, 2 * stem, 8, 4, 2 + 2), nn.GELU()]
            channels, length = 2 * stem, _after(length, 8, 4, 4)
        self.convolutions = nn.Sequential(*layers)
        self.project = nn.Linear(channels * length, width)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values (M, F, L) normalised, valid (M, F) bool -> (M, width)."""
        return torch.as_tensor(self.project(self.convolutions(_masked(values, valid)).flatten(1)))

    def early(self, values: Tensor, valid: Tensor) -> Tensor:
        """The first convolution, (M, C, about L / 4), of values (M, F, L) normalised; the values if none."""
        return torch.as_tensor(self.convolutions[:1](_masked(values, valid)))


def _masked(values: Tensor, valid: Tensor) -> Tensor:
    """(M, 2 F, L): values (M, F, L), zero where they are not valid (M, F), and the masks."""
    mask = valid.to(values.dtype)[..., None].expand_as(values)
    return torch.cat([values.masked_fill(~valid[..., None], 0), mask], dim=1)


Encoder = ImageEncoder | VectorEncoder | WaveformEncoder


def encoder_for(channel: Channel, stem: int, width: int, look: int = 1) -> Encoder:
    """The encoder of a channel's kind, with features of `width`; of a vector's last `look` raw steps."""
    if channel.kind == "image":
        return ImageEncoder(channel.shape, stem, width)
    if channel.kind == "waveform":
        return WaveformEncoder(channel.shape, stem, width)
    return VectorEncoder(channel.shape[0], width, look)


def _after(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1
