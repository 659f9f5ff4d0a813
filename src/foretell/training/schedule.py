"""The learning rate over a run, and the episodes that it does not train on."""

from __future__ import annotations

import hashlib
import math

from foretell.errors import DataError


def learning_rate(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """The rate of step `step` (from 0): rises linearly over `warmup` steps, then falls to 0 along a cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def split(episodes: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to train on and to hold out, about `share` of them, by a hash of episode and seed.

    Episodes added later do not move the others. Where there are two episodes or more, both parts hold at
    least one (unless share is 0); a single one is trained on. Raises DataError for a store without episodes.
    """
    if not episodes:
        raise DataError("no episodes to train on")
    draws = [_draw(i, seed) for i in range(episodes)]
    order = sorted(range(episodes), key=draws.__getitem__)
    count = min(max(sum(draw < share for draw in draws), 1), episodes - 1) if share else 0
    return sorted(order[count:]), sorted(order[:count])


def _draw(episode: int, seed: int) -> float:
    """A number in [0, 1) that looks random and is the same everywhere."""
    digest = hashlib.blake2b(f"{seed}:{episode}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
