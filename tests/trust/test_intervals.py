"""Intervals: forecasts at every horizon, coverage on fresh episodes, groups, and what is too little."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foretell.errors import DataError, SpecError
from foretell.model.readout import Readout
from foretell.trust.intervals import Intervals, LiveIntervals, ahead, fit_intervals, grouped
from tests.trust.samples import BLOCK, model

HORIZONS = (1, 2, 5)


def readout() -> Readout:
    torch.manual_seed(1)
    return Readout(channel="place", fields=("x", "y"), units=("m", "m"), latent=4, width=8).eval()


@pytest.mark.parametrize("history", [1, 2])
def test_each_horizon_is_imagined_from_the_last_step_a_whole_number_of_blocks_before(history: int) -> None:
    world, head = model(history), readout()
    generator = torch.Generator().manual_seed(0)
    latents, actions = torch.randn(12, 1, 4, generator=generator), torch.randn(11, 2, generator=generator)
    found = ahead(world, head, latents, actions, HORIZONS)
    assert found.shape == (12, 3, 2)
    back = (history - 1) * BLOCK
    for now in range(12):
        for k, horizon in enumerate(HORIZONS):
            blocks = math.ceil(horizon / BLOCK)
            start = now + horizon - blocks * BLOCK
            if start < back or now + horizon > 11:
                assert bool(found[now, k].isnan().all()), (now, horizon)
                continue
            context = latents[start - back : start + 1 : BLOCK][None]
            past = actions[start - back : start].reshape(1, history - 1, 2 * BLOCK)
            plan = actions[start : start + blocks * BLOCK].reshape(1, 1, blocks, 2 * BLOCK)
            with torch.no_grad():
                wanted = head(world.rollout(context, past, plan)[0, 0, -1])
            assert torch.allclose(found[now, k], wanted, atol=1e-5)


def errors(count: int, seed: int, scale: float = 1.0, steps: int = 9) -> list[Tensor]:
    """Errors of two fields that grow with the horizon, unknown at each episode's end."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, steps, 3, 2, generator=generator) * torch.tensor([[1.0, 2.0], [2, 4], [3, 6]]) * scale
    for k, horizon in enumerate(HORIZONS):
        found[:, steps - horizon :, k] = math.nan
    return list(found)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_covers_fresh_episodes_at_the_level_and_follows_the_horizon(level: float) -> None:
    widths = fit_intervals(readout(), HORIZONS, errors(400, 0)).half_width(level)
    fresh = torch.cat(errors(400, 1)).abs()
    known = ~fresh.isnan()
    share = ((fresh <= widths) & known).sum(0) / known.sum(0)
    assert bool(((share - level).abs() < 0.03).all())
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + level) / 2))
    assert torch.allclose(widths, normal * torch.tensor([[1.0, 2.0], [2, 4], [3, 6]]), rtol=0.08)


def test_groups_keep_their_own_widths() -> None:
    calm, rough = errors(100, 0), errors(100, 1, scale=5.0)
    found = grouped(readout(), HORIZONS, [*calm, *rough], ["calm"] * 100 + ["rough"] * 100, level=0.9)
    ratio = found["rough"].half_width(0.9) / found["calm"].half_width(0.9)
    assert bool(((ratio - 5).abs() < 1).all())
    with pytest.raises(DataError, match=r"group rare: intervals: a level of 0\.9 needs at least 9"):
        grouped(readout(), HORIZONS, errors(12, 0), ["often"] * 10 + ["rare"] * 2, level=0.9)


def test_too_little_is_refused_or_infinite() -> None:
    with pytest.raises(DataError, match="of more than 5 steps expected"):
        fit_intervals(readout(), HORIZONS, errors(3, 0, steps=5))
    with pytest.raises(DataError, match="of more than 5 steps expected"):
        fit_intervals(readout(), HORIZONS, [])
    assert bool(fit_intervals(readout(), HORIZONS, errors(2, 0)).half_width(0.99).isinf().all())
    for wrong in ((), (0,)):
        with pytest.raises(SpecError, match="horizons of at least 1 step"):
            ahead(model(), readout(), torch.zeros(9, 1, 4), torch.zeros(8, 2), wrong)


def test_they_come_back_from_their_description() -> None:
    made = fit_intervals(readout(), HORIZONS, errors(10, 0))
    again = Intervals.from_json(made.to_json())
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.half_width(0.9), made.half_width(0.9))
    with pytest.raises(SpecError, match="not intervals"):
        Intervals.from_json({"channel": "place"})


def drifting(steps: int) -> tuple[Tensor, Tensor]:
    """Forecasts (T, 3, 2) of zero and truths (T, 2) whose spread trebles a third of the way."""
    generator = torch.Generator().manual_seed(4)
    spread = torch.where(torch.arange(steps) < steps // 3, 1.0, 3.0)[:, None]
    return torch.zeros(steps, 3, 2), torch.randn(steps, 2, generator=generator) * spread * torch.tensor([1.0, 2.0])


def test_a_drift_breaks_fixed_intervals_and_live_ones_come_back() -> None:
    steps, rate = 3000, 0.02
    calm = [e[:, :1].expand(-1, 3, -1).clone() for e in errors(200, 0)]
    made = fit_intervals(readout(), HORIZONS, calm)
    live, fixed = LiveIntervals(made, level=0.9, rate=rate), made.half_width(0.9)
    forecasts, truths = drifting(steps)
    said: list[tuple[Tensor, Tensor]] = []
    for forecast, truth in zip(forecasts, truths, strict=True):
        said.append(live.step(forecast, truth))
    for k, horizon in enumerate(HORIZONS):
        for i in range(2):
            inside = torch.tensor(
                [bool(said[t][0][k, i] <= truths[t + horizon, i] <= said[t][1][k, i]) for t in range(steps - horizon)]
            ).double()
            # The bound of adaptive conformal inference, whatever happens.
            assert abs(float(inside.mean()) - 0.9) <= (0.9 + rate) / (len(inside) * rate)
            late = truths[steps // 2 :, i].abs()
            assert float((late <= fixed[k, i]).double().mean()) < 0.5
            assert abs(float(inside[steps // 2 :].mean()) - 0.9) < 0.03


def test_live_intervals_are_the_calibrated_ones_until_something_is_known() -> None:
    made = fit_intervals(readout(), HORIZONS, errors(400, 0))
    live = LiveIntervals(made)
    forecast = torch.full((3, 2), 5.0)
    for truth in (None, torch.tensor([math.nan, math.nan])):
        low, high = live.step(forecast, truth)
        assert torch.allclose(high - forecast, made.half_width(0.9))
        assert torch.allclose(forecast - low, made.half_width(0.9))
    with pytest.raises(SpecError, match=r"shape \(3, 2\) and a truth of \(2,\) expected, got \(2, 2\) and None"):
        live.step(torch.zeros(2, 2))


def test_of_each_episode_at_most_so_many_steps_are_kept() -> None:
    made = fit_intervals(readout(), HORIZONS, errors(50, 0), steps=2)
    assert made.get_buffer("errors").shape == (3, 100, 2)
