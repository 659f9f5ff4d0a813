"""Where the things in a picture are and how they are turned, told from its latent.

What moves in front of a still background is cut out of recorded pictures and put elsewhere, turned: where it went is
known without anybody having said where things are in the recorded ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from foretell.errors import DataError, SpecError
from foretell.model.world_model import WorldModel

_DIFFERS = 12.0
"""Levels of 255 by which a pixel differs from the background where a thing is."""
_LEAST = 5
"""Pixels of a thing."""
_SHOWN = 0.1
"""Share of the pictures that must show as many things apart from each other: where they touch they look like one."""
_ENOUGH = 1000
"""Pictures that things are cut out of."""
_SIMILAR = 0.35
"""By how much of the usual size a thing may look larger or smaller: others are hidden in part, or several together."""
_NEIGHBOURS = np.ones((3, 3), np.bool_)
_NEAR, _JITTER = 2.5, 0.1
"""How near to the largest thing others are put a quarter of the time, in its radii; half of the time they are put where
they touch others, which is where it matters where things are. And how far from where it was seen, in half the picture's
side."""
_ANYWHERE = 5
"""One of so many cut-outs is put anywhere, so that it may be seen in part: none was recorded so, but things are."""
_TOUCHES = (0.01, 0.15)
"""How much of a thing lies over others where it touches them."""
_SLIGHTLY = 0.1
"""Share of any turn that a third of the cut-outs are turned by: from large turns alone nothing is learned for long."""
_ROUND = 0.8
"""A thing that covers, turned, as much as this of what it covered looks the same however it is turned."""
_UNKNOWN = 0.5
"""The mean squared error of a cosine or sine that nothing is known of."""
_PLACE, _TURN, _UNIT = 16.0, 3.0, 0.2
"""Weights of places, of turns, and of recorded things' turns being turns at all."""


@dataclass(frozen=True)
class Things:
    """Cut-outs of K things from P pictures of a still camera.

    background: (H, W, C), levels of 255. pictures: (P, H, W, C) uint8, each showing all things whole and apart. cover:
    (K, P, H, W) how far they cover a pixel, from 0 to 1. shades: (K, P, H, W, C) their colours times that. places:
    (K, P, 2). radii: (K,) of gyration, in half the picture's side. patterns: (K,) pictures that turns are counted from.
    """

    background: Tensor
    pictures: Tensor
    shades: Tensor
    cover: Tensor
    places: Tensor
    radii: Tensor
    patterns: Tensor


def seeing(model: WorldModel) -> str:
    """The image channel that `cutouts` looks at; SpecError unless there is one."""
    names = [c.name for c in model.spec.observations if c.kind == "image"]
    if len(names) != 1:
        raise SpecError(f"objective: cutouts expects a spec with one image channel, got {names or 'none'}")
    return names[0]


def find_things(pictures: NDArray[np.uint8], *, where: str) -> Things:
    """What moves in pictures (P, H, W, C) of a still camera.

    The background is the median of all; things are what differs from it and hangs together, as many as a tenth of the
    pictures show, told apart by their size. DataError, beginning with `where`, where there are none.
    """
    background = np.median(pictures[:: max(1, len(pictures) // 1000)], axis=0)
    found = [_components(picture, background) for picture in pictures]
    counts = np.bincount([len(f) for f in found])
    counts[0] = 0
    if counts.sum() == 0:
        raise DataError(f"{where}: things that move before a still background expected, nothing moves in them")
    number = int(np.flatnonzero(counts >= _SHOWN * counts.sum()).max())
    some = [i for i, parts in enumerate(found) if len(parts) == number]
    sizes = np.array([[part.sum() for part in found[i]] for i in some])
    usual = np.median(sizes, axis=0)
    whole = (np.abs(sizes / usual - 1) < _SIMILAR).all(1)
    inside = [not any(_at_border(part) for part in found[i]) for i in some]
    some = [i for i, good in zip(some, whole & np.array(inside), strict=True) if good][:_ENOUGH]
    if not some:
        raise DataError(f"{where}: pictures expected that show each thing whole, apart from the others, found none")
    cut = [[_cut(pictures[i], background, part) for part in found[i]] for i in some]
    shades, cover = (np.stack([[one[k][which] for one in cut] for k in range(number)]) for which in (0, 1))
    places, radii = _measured(cover)
    return Things(
        background=torch.from_numpy(background).float(),
        pictures=torch.from_numpy(pictures[some]),
        shades=torch.from_numpy(shades).float(),
        cover=torch.from_numpy(cover).float(),
        places=torch.from_numpy(places).float(),
        radii=torch.from_numpy(radii).float(),
        patterns=torch.from_numpy(_plain(background, cover)),
    )


def _components(picture: NDArray[np.uint8], background: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Masks (H, W) of what differs from the background and hangs together, the largest first."""
    differs = np.abs(picture - background).max(-1) > _DIFFERS
    labels, number = ndimage.label(differs, _NEIGHBOURS)
    masks = [labels == k for k in range(1, number + 1)]
    return sorted((m for m in masks if m.sum() >= _LEAST), key=lambda m: -int(m.sum()))


def _at_border(mask: NDArray[np.bool_]) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _cut(
    picture: NDArray[np.uint8], background: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A thing's shade (H, W, C) and cover (H, W). Along its rim a pixel shows the background, too: it covers as much of
    it as it lies on the way from the background to the colours inside that are next to it.
    """
    inside = ndimage.binary_erosion(mask, _NEIGHBOURS)
    if not inside.any():
        # Too thin: what differs most.
        differs = np.abs(picture - background).sum(-1) * mask
        inside = differs >= 0.9 * differs.max()
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    colour = picture.astype(np.float64)[nearest[0], nearest[1]]
    across = colour - background
    cover = ((picture - background) * across).sum(-1) / np.maximum(np.square(across).sum(-1), 1.0)
    cover = np.where(inside, 1.0, np.clip(cover, 0, 1) * ndimage.binary_dilation(mask, _NEIGHBOURS))
    return colour * cover[..., None], cover


def _measured(cover: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the middle of what is covered (K, P, H, W) is, (K, P, 2), and how far what is covered is from it, (K,)."""
    height, width = cover.shape[2:]
    down, right = (np.arange(height) + 0.5) / height * 2 - 1, (np.arange(width) + 0.5) / width * 2 - 1
    share = cover / cover.sum((2, 3), keepdims=True)
    x, y = share.sum(2) @ right, share.sum(3) @ down
    squares = share.sum(2) @ np.square(right) + share.sum(3) @ np.square(down) - x**2 - y**2
    return np.stack([x, y], -1), np.sqrt(squares.mean(1))


def _plain(background: NDArray[np.float64], cover: NDArray[np.float64]) -> NDArray[np.int64]:
    """(K,) pictures: what is behind the thing is plain, and it looks as large as ever."""
    contrast = np.abs(background - np.median(background, axis=(0, 1))).max(-1)
    behind = (cover * contrast).sum((2, 3)) / cover.sum((2, 3))
    size = cover.sum((2, 3))
    usual = np.abs(size / np.median(size, axis=1, keepdims=True) - 1)
    return np.asarray(np.where(behind <= np.quantile(behind, 0.3, axis=1)[:, None], usual, np.inf).argmin(1), np.int64)


class Cutouts(nn.Module):
    """Where things are and how they are turned is what the first values of a latent are, after grounded ones: the place
    of each of K things (x to the right and y down, from -1 to 1 across the picture), then cosine and sine of how the T
    of them that are not round are turned. Places count twice, turns twice the thing's radius of gyration: so the
    squared distance of two latents is about how far the points of things are from each other.

    Told on collages, in which one cut-out of each thing was put somewhere. Other cut-outs of it are turned by an angle
    that is not known; but when one of them is turned by more, what is told must turn along (latents that turn with what
    they show: Cohen and Welling 2015, "Transformation properties of learned visual representations", arXiv 1412.7659),
    from what is told of the recorded picture, which is no collage.
    """

    def __init__(self, things: Things, channel: str, *, batch: int = 128) -> None:
        super().__init__()
        self.channel, self.batch = channel, batch
        for name in ("background", "pictures", "shades", "cover", "places", "radii", "patterns"):
            self.register_buffer(name, getattr(things, name), persistent=False)
        self.count = len(things.places)
        self.turning = [k for k in range(self.count) if not self._round(k)]
        scale = torch.cat([torch.full((2 * self.count,), 2.0), 2 * things.radii[self.turning].repeat_interleave(2)])
        self.register_buffer("scale", scale, persistent=False)

    @property
    def size(self) -> int:
        """Values of a latent, 2 (K + T)."""
        return 2 * (self.count + len(self.turning))

    def forward(self, model: WorldModel, generator: torch.Generator) -> Tensor:
        """What is told wrong, a scalar: squares of places, and of turns where each is 1 for one that is not known."""
        put = self.collage(self.get_buffer("patterns")[:, None].expand(-1, self.batch), generator)
        some = torch.randint(len(self.get_buffer("pictures")), (max(1, self.batch // 2),), generator=generator)
        moved = self.collage(some.expand(self.count, -1), generator)
        some = some.to(put.pictures.device)
        recorded = self.get_buffer("pictures")[some]
        told = self.told(model, torch.cat([put.pictures, moved.pictures, recorded]))
        parts = [self.batch, len(some), len(some)]
        (place, again, before), (turn, also, was) = (torch.split(x, parts) for x in told)
        places = self.get_buffer("places")[:, some].transpose(0, 1)
        wrong = (
            (place - put.places).square().mean()
            + (again - moved.places).square().mean() / 2
            + (before - places).square().mean() / 2
        )
        if not self.turning:
            return torch.as_tensor(_PLACE * wrong)
        error = (turn - put.turns).square().mean((0, 2))
        # What is not known of the one cut-out cannot be asked of others: that would only teach to say nothing.
        known = (1 - 2 * error.detach() / _UNKNOWN).clamp(0, 1)
        others = (also - _turned(was, moved.turns)).square().mean((0, 2))
        unit = (was.norm(dim=-1) - 1).square().mean(0)
        return torch.as_tensor(_PLACE * wrong + (_TURN * error + known * (others + _UNIT * unit)).mean())

    def told(self, model: WorldModel, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Places (M, K, 2) and turns (M, T, 2) of pictures (M, H, W, C) uint8; other channels are missing."""
        observations, count = model.spec.observations, len(pictures)
        shown = {
            c.name: pictures[:, None]
            if c.name == self.channel
            else pictures.new_zeros((count, 1, *c.shape), dtype=torch.uint8 if c.kind == "image" else torch.float32)
            for c in observations
        }
        there = {c.name: torch.full((count, 1), c.name == self.channel, device=pictures.device) for c in observations}
        first = model.grounded
        latents = model.encode(shown, there).flatten(1)[:, first : first + self.size] / self.get_buffer("scale")
        pairs = latents.view(count, -1, 2)
        return pairs[:, : self.count], pairs[:, self.count :]

    def collage(self, at: Tensor, generator: torch.Generator) -> Collage:
        """Pictures in which thing k is the cut-out of picture at[k], (K, M), somewhere, turned; smaller ones lie over
        larger ones.
        """
        of, device = at.shape[1], self.get_buffer("cover").device
        seen = torch.randint(len(self.get_buffer("pictures")), (self.count, of), generator=generator).to(device)
        around = torch.randn(self.count, of, 2, generator=generator).to(device)
        near = 2 * torch.rand(self.count, of, 2, generator=generator).to(device) - 1
        angles = ((2 * torch.rand(self.count, of, generator=generator) - 1) * math.pi).to(device)
        angles[:, ::3] *= _SLIGHTLY
        lots = torch.rand(self.count, of, *self.get_buffer("cover").shape[2:], generator=generator).to(device)
        places = self.get_buffer("places")[torch.arange(self.count)[:, None], seen] + _JITTER * around
        places[:, ::_ANYWHERE] = near[:, ::_ANYWHERE]
        places[1:, ::4] = places[:1, ::4] + _NEAR * self.get_buffer("radii")[0] * near[1:, ::4]
        places = places.clamp(-1, 1)
        picture, covered = self.get_buffer("background").permute(2, 0, 1), None
        for k in range(self.count):
            which = at[k].to(device)
            if covered is not None:
                half = slice(1, None, 2)
                found = self._touching(k, which[half], angles[k, half], covered[half], lots[k, half], near[k, half])
                places[k, half] = torch.where(found.isnan(), places[k, half], found)
            moved = self._moved(k, which, places[k], angles[k])
            covered = moved[:, -1] if covered is None else torch.maximum(covered, moved[:, -1])
            picture = picture * (1 - moved[:, -1:]) + moved[:, :-1]
        turns = torch.stack([angles.cos(), angles.sin()], -1)[self.turning]
        pictures = picture.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return Collage(pictures, places.transpose(0, 1), turns.transpose(0, 1))

    def _touching(self, k: int, at: Tensor, angles: Tensor, covered: Tensor, lots: Tensor, within: Tensor) -> Tensor:
        """Places (M, 2) at which cut-outs of thing k, turned, touch what is covered (M, H, W); NaN where there is none.

        lots: (M, H, W) from 0 to 1, of which the highest that touches is drawn; within: (M, 2) where in its pixel, from
        -1 to 1.
        """
        height, width = covered.shape[1:]
        thing = self._moved(k, at, torch.zeros_like(within), angles)[:, -1]
        # How much of both would lie over each other were the thing moved from the middle, by how many pixels.
        both = torch.fft.rfft2(covered) * torch.fft.rfft2(thing).conj()
        overlap = torch.fft.irfft2(both, s=(height, width)).roll((height // 2, width // 2), (1, 2))
        share = overlap / thing.sum((1, 2))[:, None, None]
        right, down = (2 * torch.arange(n, device=covered.device) / n - 1 for n in (width, height))
        # Beyond, what leaves the picture would come in on the other side.
        inside = torch.maximum(down.abs()[:, None], right.abs()) <= 1 - self.get_buffer("radii")[k]
        lots = torch.where((share > _TOUCHES[0]) & (share < _TOUCHES[1]) & inside, lots, math.nan).flatten(1)
        drawn = lots.nan_to_num(-1.0).argmax(1)
        found = torch.stack([right[drawn % width], down[drawn // width]], -1)
        found = found + within / torch.tensor([width, height], device=found.device)
        return torch.where(lots.isnan().all(1)[:, None], math.nan, found)

    def _moved(self, k: int, at: Tensor, places: Tensor, angles: Tensor) -> Tensor:
        """Shades and cover (M, C + 1, H, W) of cut-outs of thing k, put to places (M, 2) and turned by angles (M,)."""
        layers = torch.cat([self.get_buffer("shades")[k, at], self.get_buffer("cover")[k, at, ..., None]], -1)
        layers = layers.permute(0, 3, 1, 2)
        wide = layers.shape[-1] / layers.shape[-2]
        moves = _moves(self.get_buffer("places")[k, at], places, angles, wide)
        grid = functional.affine_grid(moves, list(layers.shape), align_corners=False)
        return functional.grid_sample(layers, grid, align_corners=False)

    def _round(self, k: int) -> bool:
        """Whether the thing looks the same however it is turned."""
        angles = torch.arange(1, 12) * (2 * math.pi / 12)
        middle = torch.zeros(len(angles) + 1, 2)
        pattern = self.get_buffer("patterns")[k].expand(len(angles) + 1)
        cover = self._moved(k, pattern, middle, torch.cat([torch.zeros(1), angles]))[:, -1]
        same = torch.minimum(cover[1:], cover[:1]).sum((1, 2)) / torch.maximum(cover[1:], cover[:1]).sum((1, 2))
        return bool(same.mean() > _ROUND)


@dataclass(frozen=True)
class Collage:
    """pictures: (M, H, W, C) uint8. places: (M, K, 2). turns: (M, T, 2) cosines and sines, from the cut-outs' own."""

    pictures: Tensor
    places: Tensor
    turns: Tensor


def _moves(before: Tensor, after: Tensor, angles: Tensor, wide: float) -> Tensor:
    """(M, 2, 3): from places in the new picture to those in the old one, for what was about `before` (M, 2), is about
    `after` and turned by angles (M,). wide: width over height of a picture.
    """
    cos, sin = angles.cos(), angles.sin()
    back = torch.stack([torch.stack([cos, sin / wide], -1), torch.stack([-sin * wide, cos], -1)], 1)
    return torch.cat([back, before[..., None] - back @ after[..., None]], 2)


def _turned(code: Tensor, by: Tensor) -> Tensor:
    """Cosines and sines (..., 2) turned by angles given as theirs."""
    (cos, sin), (x, y) = by.unbind(-1), code.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)
