"""Frames of a report: sprite sheets small enough to embed, and the still picture of an episode."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from foretell.evaluation.report_parts import Rollout

LARGEST_SIDE = 192
LARGEST_SHEET = 4096
Frames = NDArray[np.uint8]


def encode_rollouts(rollouts: Sequence[Rollout], budget: int) -> list[dict[str, Any]]:
    """Each rollout as JSON for the player, with its frames in one base64 image; about `budget` bytes in all.

    Lossless where that fits, then WebP, then WebP at half and a quarter of the size.
    """
    encoded: list[dict[str, Any]] = []
    for side, lossless in ((LARGEST_SIDE, True), (LARGEST_SIDE, False), (LARGEST_SIDE // 2, False), (48, False)):
        encoded = [_encode(r, side, lossless) for r in rollouts]
        if sum(len(e["sheet"]) for e in encoded) <= budget:
            break
    return encoded


def episode_picture(
    real: Frames,
    imagined: Frames,
    goal: Frames,
    path: Path,
    *,
    columns: int = 8,
    labels: tuple[str, str, str] = ("what happened", "what the model imagined", "goal"),
) -> None:
    """Write a PNG: frames of an episode in a row, what the model imagined under each, the goal beside them.

    real, imagined: (T, H, W, 3) uint8, from the same steps. goal: (H, W, 3) uint8.
    columns: how many steps are shown, evenly spread with the first and the last among them.
    Raises ValueError where the shapes differ.
    """
    if real.ndim != 4 or real.shape != imagined.shape or goal.shape != real.shape[1:]:
        raise ValueError(
            "episode_picture: real and imagined of one shape (T, H, W, 3) and a goal of (H, W, 3) expected,"
            f" got {real.shape}, {imagined.shape} and {goal.shape}"
        )
    steps = np.unique(np.linspace(0, len(real) - 1, min(columns, len(real))).round().astype(int))
    tile = 128
    gap, top, row_label = 8, 30, 28
    left = tile + 5 * gap
    width = left + len(steps) * (tile + gap) + gap
    bottom = top + 2 * tile + row_label
    sheet = Image.new("RGB", (width, bottom + row_label), "white")
    draw = ImageDraw.Draw(sheet)
    ink, soft = (28, 33, 40), (107, 116, 126)

    def place(frame: Frames, x: int, y: int) -> None:
        high, wide = frame.shape[:2]
        scale = tile / max(high, wide)
        size = (max(1, round(wide * scale)), max(1, round(high * scale)))
        smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
        sheet.paste(Image.fromarray(frame).resize(size, smooth), (x + (tile - size[0]) // 2, y + (tile - size[1]) // 2))
        draw.rectangle((x - 1, y - 1, x + tile, y + tile), outline=(214, 219, 225))

    draw.text((gap, top - 22), labels[2], fill=ink, font_size=14)
    place(goal, gap, top)
    for row, (label, frames) in enumerate(((labels[0], real), (labels[1], imagined))):
        y = top + row * (tile + row_label)
        draw.text((left, y - 22), label, fill=ink, font_size=14)
        for column, step in enumerate(steps):
            place(frames[step], left + column * (tile + gap), y)
    for column, step in enumerate(steps):
        x = left + column * (tile + gap) + tile // 2
        draw.text((x, bottom + 5), f"step {step}", fill=soft, font_size=12, anchor="ma")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _encode(rollout: Rollout, side: int, lossless: bool) -> dict[str, Any]:
    steps, high, wide = rollout.frames.shape[:3]
    scale = min(1.0, side / max(high, wide))
    size = (max(1, round(wide * scale)), max(1, round(high * scale)))
    frames = [*rollout.frames, *(() if rollout.imagined is None else rollout.imagined)]
    if rollout.goal is not None:
        frames.append(rollout.goal)
    columns = max(1, min(len(frames), LARGEST_SHEET // size[0]))
    sheet = Image.new("RGB", (columns * size[0], math.ceil(len(frames) / columns) * size[1]))
    for i, frame in enumerate(frames):
        image = Image.fromarray(np.ascontiguousarray(frame))
        if scale < 1:
            image = image.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(image, (i % columns * size[0], i // columns * size[1]))
    return {
        "caption": rollout.caption,
        "reached": rollout.reached,
        "steps": steps,
        "width": size[0],
        "height": size[1],
        "columns": columns,
        "imagined": rollout.imagined is not None,
        "goal": rollout.goal is not None,
        "path": _positions(rollout.path, scale),
        "plans": _positions(rollout.plans, scale),
        "sheet": _data_url(sheet, lossless),
    }


def _data_url(sheet: Image.Image, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        colours = sheet.getcolors(maxcolors=256)
        exact = sheet if colours is None else sheet.quantize(len(colours), dither=Image.Dither.NONE)
        if colours is not None and (np.asarray(exact.convert("RGB")) != np.asarray(sheet)).any():
            exact = sheet
        exact.save(buffer, format="PNG", optimize=True)
    else:
        sheet.save(buffer, format="WEBP", quality=75)
    kind = "png" if lossless else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _positions(values: Any, scale: float) -> Any:
    """Nested lists of positions with NaN as null, or None."""
    if values is None:
        return None
    scaled = np.round(np.asarray(values, dtype=np.float64) * scale, 1)
    kept = scaled.astype(object)
    kept[~np.isfinite(scaled)] = None
    return kept.tolist()
