"""The learning rate over a run, and the episodes that it does not train on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from foretell.errors import DataError


def learning_rate(step: int, *, steps: int, warmup: int, peak: float) -> float:
    """The rate of step `step` (from 0): rises linearly over `warmup` steps, then falls to 0 along a cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def split(groups: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to train on and to hold out, about `share` of them, by a hash of each one's group and the seed.

    groups: of each episode; one that has none ("") is a group of its own. Episodes of one group stay together, and
    episodes added later do not move the others. Where there are two groups or more, both parts hold at least one
    (unless share is 0); a single one is trained on. Raises DataError for a store without episodes.
    """
    if not groups:
        raise DataError("no episodes to train on")
    names: list[int | str] = [group or i for i, group in enumerate(groups)]
    draws = {name: _draw(name, seed) for name in names}
    order = sorted(draws, key=draws.__getitem__)
    count = min(max(sum(draw < share for draw in draws.values()), 1), len(order) - 1) if share else 0
    held_out = set(order[:count])
    return [i for i, n in enumerate(names) if n not in held_out], [i for i, n in enumerate(names) if n in held_out]


def _draw(name: int | str, seed: int) -> float:
    """A number in [0, 1) that looks random and is the same everywhere."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
