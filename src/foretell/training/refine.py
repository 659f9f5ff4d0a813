"""Refines the predictor of a trained model on its frozen latents, which are cheap once they are computed."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss, mse_loss

from foretell.errors import SpecError, require_whole
from foretell.model.world_model import WorldModel


@dataclass(frozen=True, kw_only=True)
class Refine:
    """How the predictor is refined after the joint training; no steps of either kind leave it out."""

    single: int = 0
    """Optimiser steps on single predictions, before those on rollouts: each costs less, and where contacts make what
    follows hard to learn many are needed."""
    steps: int = 400
    """Optimiser steps on rollouts."""
    batch: int = 256
    """Rollouts in a step."""
    blocks: int = 5
    """Latent steps of a rollout."""
    huber: float = 0.0
    """Errors of a latent's values up to this count squared, larger ones in proportion (Huber 1964, "Robust estimation
    of a location parameter"): what can hardly be foretold, such as what has left the picture, else takes all attention.
    0: all squared."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; it rises over a tenth of the steps and falls to zero along a cosine."""

    def __post_init__(self) -> None:
        require_whole("refine", self, 0, "single", "steps")
        require_whole("refine", self, 1, "batch", "blocks")
        if not 0 <= self.huber < float("inf"):
            raise SpecError(f"refine: huber must be 0 or more, got {self.huber!r}")
        if not 0 < self.learning_rate < float("inf"):
            raise SpecError(f"refine: learning_rate must be above 0, got {self.learning_rate!r}")


def refine_predictor(
    model: WorldModel, latents: Sequence[Tensor], actions: Sequence[Tensor], config: Refine, *, seed: int
) -> None:
    """Train the model's predictor, in place, on open-loop rollouts between recorded latents; nothing else changes.

    latents: (T, N, D) of every step of each episode. actions: (T - 1 or more, A) of each, raw units. Episodes too
    short for a rollout are left out; where all are, the predictor stays as it is.
    While the encoder learned, its latents kept moving and the predictor could only follow.
    """
    block, history, width = model.config.block, model.config.history, model.action_size
    before, after = (history - 1) * block, config.blocks * block
    starts = _starts([len(x) for x in latents], before, after)
    total = config.single + config.steps
    if not total or not len(starts):
        return
    # An episode's last step leads nowhere: a row of zeros keeps actions and latents in step.
    flat = torch.cat(list(latents)).to(model.device)
    acts = torch.cat(
        [torch.cat([a[: len(z) - 1], a.new_zeros(1, a.shape[1])]) for z, a in zip(latents, actions, strict=True)]
    ).to(model.device)
    along = functools.partial(torch.arange, device=model.device)
    generator = torch.Generator().manual_seed(seed)
    predictor = model.predictor.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(predictor.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: _share(k, total))
    for done in range(total):
        blocks = 1 if done < config.single else config.blocks
        at = starts[torch.randint(len(starts), (config.batch,), generator=generator)].to(model.device)[:, None]
        context = flat[at + along(-before, 1, block)]
        past = acts[at + along(-before, 0)].reshape(len(at), history - 1, width)
        plan = acts[at + along(blocks * block)].reshape(len(at), blocks, width)
        wanted = flat[at + along(block, blocks * block + 1, block)]
        told = model.rollout(context, past, plan[:, None])[:, 0]
        # Twice Huber's: as the squared error where errors are small.
        loss = 2 * huber_loss(told, wanted, delta=config.huber) if config.huber else mse_loss(told, wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    predictor.eval()


def _starts(lengths: Sequence[int], before: int, after: int) -> Tensor:
    """Rows, in all episodes one after the other, with `before` steps before and `after` steps after them."""
    found, first = [torch.zeros(0, dtype=torch.long)], 0
    for length in lengths:
        found.append(first + torch.arange(before, max(before, length - after)))
        first += length
    return torch.cat(found)


def _share(step: int, steps: int) -> float:
    return min(1.0, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
