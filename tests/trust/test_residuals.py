"""Residuals: seen minus predicted, step by step."""

from __future__ import annotations

import pytest
import torch
from tests.trust.samples import BLOCK, model

from foretell.trust.residuals import residuals


@pytest.mark.parametrize("history", [1, 2])
def test_one_block_is_latent_minus_prediction_and_two_go_on_from_what_was_imagined(history: int) -> None:
    world = model(history)
    generator = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(12, 1, 4, generator=generator), torch.randn(11, 2, generator=generator)
    found = residuals(world, latents, actions, 2)
    assert found.values.shape == (12, 2, 4)
    assert found.given.shape == (12, 2, 4 + 2 * BLOCK)
    back = (history - 1) * BLOCK
    for t in range(12):
        for k in (1, 2):
            start = t - k * BLOCK
            if start - back < 0:
                assert bool(found.values[t, k - 1].isnan().all())
                assert bool(found.given[t, k - 1].isnan().all())
                continue
            context = latents[start - back : start + 1 : BLOCK][None]
            acts = actions[start - back : t].reshape(1, -1, 2 * BLOCK)
            with torch.no_grad():
                for _ in range(k):
                    before = context[0, -1].flatten()
                    done = acts[:, : context.shape[1]]
                    context = torch.cat([context, world.predict(context, done)[:, -1:]], dim=1)
            assert torch.allclose(found.values[t, k - 1], (latents[t] - context[0, -1]).flatten(), atol=1e-5)
            last = world.normalise_actions(acts[0, -1])
            assert torch.allclose(found.given[t, k - 1], torch.cat([before, last]), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_an_episode_within_one_block_has_none(steps: int) -> None:
    found = residuals(model(), torch.randn(steps, 1, 4), torch.randn(steps, 2), 2)
    assert bool(found.values.isnan().all())
