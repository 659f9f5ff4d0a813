"""Pictures of what the model imagined: planned episodes beside the recorded images nearest to imagined latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.episodes.cache import Cache
from foretell.evaluation.protocols import Outcome, Trace
from foretell.evaluation.report_parts import Rollout
from foretell.evaluation.suite import Recorded
from foretell.model.readout import Readout
from foretell.model.world_model import WorldModel
from foretell.planning.guard import Planned

READING = (
    "Left: what the camera saw, the way taken, and dotted the way that the plan in force imagines from here, as the"
    " readout places it. Middle: what the model imagines, open loop, from the first {block} images and the actions"
    " executed since, never looking again; the model draws no pixels, so this is the recorded image whose latent is"
    " nearest to the imagined one. Right: the goal. In a good model left and middle agree."
)


def draws_path(readout: Readout | None) -> bool:
    """Whether a readout can be drawn over the camera image: x and y in px of it."""
    return readout is not None and readout.units == ("px", "px")


def imagined_rollouts(
    model: WorldModel, recorded: Recorded, planning: Outcome, readout: Readout | None
) -> list[Rollout]:
    """A rollout for the report from each trace of what was planned; none where the spec has no colour image."""
    images = [c for c in model.spec.observations if c.kind == "image" and c.shape[-1] == 3]
    if not images:
        return []
    channel, cache = images[0].name, Cache(recorded.store)
    library = torch.cat(recorded.of(recorded.training)).flatten(1)
    rows = np.concatenate(
        [cache.starts[i] + np.arange(recorded.store.lengths[i], dtype=np.int64) for i in recorded.training]
    )
    found = []
    for number, trace in enumerate(planning.traces):
        nearest = torch.cdist(open_loop(model, trace).flatten(1).cpu(), library).argmin(dim=1).numpy()
        path = plans = None
        if readout is not None and draws_path(readout):
            path = trace.truth.get(readout.channel)
            plans = _ahead(planning.plans[number], len(trace.actions) + 1, readout, model.config.block)
        found.append(
            Rollout(
                frames=trace.observations[channel],
                imagined=np.ascontiguousarray(cache.values[channel][rows[nearest]]),
                goal=trace.goal[channel],
                path=path,
                plans=plans,
                caption=f"Episode {number + 1}",
                reached=bool(planning.solved[number]),
            )
        )
    return found


def open_loop(model: WorldModel, trace: Trace) -> Tensor:
    """Latents (T+1, N, D) imagined from the first `block` observations and the actions executed after them.

    One rollout starts at each of the first `block` steps, so that every step has a latent; those first steps
    show what was encoded.
    """
    block = model.config.block
    total = len(trace.actions) + 1
    seen = {c.name: trace.observations[c.name][:block] for c in model.spec.observations}
    with torch.no_grad():
        tensors = {n: torch.from_numpy(np.ascontiguousarray(x)) for n, x in seen.items()}
        floats = {n: x if x.dtype == torch.uint8 else x.float() for n, x in tensors.items()}
        start = model.encode(*model.looking_back({n: x[None].to(model.device) for n, x in floats.items()}))[0, :, None]
        latents = torch.empty(total, *start.shape[2:])
        for offset in range(min(block, total)):
            latents[offset] = start[offset, 0].cpu()
            count = (total - 1 - offset) // block
            if count:
                actions = torch.from_numpy(trace.actions[offset : offset + count * block]).float()
                plan = actions.reshape(1, 1, count, -1).to(model.device)
                past = plan.new_zeros(1, 0, plan.shape[-1])
                imagined = model.rollout(start[offset : offset + 1], past, plan)[0, 0].cpu()
                latents[offset + block : offset + count * block + 1 : block] = imagined
    return latents


def _ahead(
    plans: Sequence[tuple[int, Planned]], steps: int, readout: Readout, block: int
) -> NDArray[np.float64] | None:
    """(steps, K, 2) where the plan in force at each step leads from there; NaN for what it has already passed, and at
    the last step, when nothing is planned any more.
    """
    if not plans:
        return None
    device = readout.get_buffer("field_scale").device
    count = len(plans[0][1].actions)
    found = np.full((steps, count, 2), np.nan)
    for i, (made, plan) in enumerate(plans):
        with torch.no_grad():
            places = readout(plan.latents[1:].to(device)).cpu().numpy()
        for step in range(made, plans[i + 1][0] if i + 1 < len(plans) else steps - 1):
            ahead = made + block * np.arange(1, count + 1) > step
            found[step, ahead] = places[ahead]
    return found
