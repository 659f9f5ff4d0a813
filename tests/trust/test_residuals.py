"""Residuals: seen minus predicted, step by step."""

from __future__ import annotations

import pytest
import torch

from foretell.trust.residuals import last_residuals, residuals
from tests.trust.samples import BLOCK, model


@pytest.mark.parametrize("history", [1, 2])
def test_blocks_are_latent_minus_prediction_and_go_on_from_what_was_imagined(history: int) -> None:
    world = model(history)
    generator = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(12, 1, 4, generator=generator), torch.randn(11, 2, generator=generator)
    found = residuals(world, latents, actions, 2)
    assert found.values.shape == (12, 3, 4)
    assert found.given.shape == (12, 3, 2 * 4 + 2 * BLOCK)
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
            assert torch.allclose(found.given[t, k - 1], torch.cat([before, torch.zeros(4), last]), atol=1e-5)


def test_a_raw_step_is_how_far_the_latent_moved_given_how_it_had_moved_before() -> None:
    world = model()
    latents, actions = torch.randn(5, 1, 4), torch.randn(4, 2)
    found = residuals(world, latents, actions, 2)
    z = latents.flatten(1)
    assert bool(found.values[0].isnan().all())
    for t in range(1, 5):
        assert torch.equal(found.values[t, 2], z[t] - z[t - 1])
        moved = z[t - 1] - z[t - 2] if t > 1 else torch.zeros(4)
        done = world.normalise_actions(actions[t - 1].repeat(BLOCK))[:2]
        assert torch.allclose(found.given[t, 2], torch.cat([z[t - 1], moved, done, torch.zeros(2 * BLOCK - 2)]))


@pytest.mark.parametrize("history", [1, 2])
def test_the_last_step_alone_has_what_it_has_among_all(history: int) -> None:
    world = model(history)
    latents, actions = torch.randn(12, 1, 4), torch.randn(11, 2)
    for steps in range(1, 13):
        whole = residuals(world, latents[:steps], actions[: steps - 1], 3)
        last = last_residuals(world, latents[:steps], actions[: steps - 1], 3)
        for each, every in ((last.values, whole.values), (last.given, whole.given)):
            assert torch.allclose(each[0], every[-1], atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("steps", [1, 2])
def test_an_episode_within_one_block_has_raw_steps_only(steps: int) -> None:
    found = residuals(model(), torch.randn(steps, 1, 4), torch.randn(steps, 2), 2)
    assert bool(found.values[:, :2].isnan().all())
    assert bool(found.values[1:, 2].isfinite().all())
