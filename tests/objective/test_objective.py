"""The whole objective: every term where it is asked for, gradients where they belong, a target that follows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.episodes.batch import Batch
from foretell.errors import SpecError
from foretell.objective.objective import Objective, ObjectiveConfig
from foretell.objective.prediction import open_loop, straightness
from foretell.objective.variance import latent_spread, variance_covariance
from foretell.spec import Channel, Spec
from tests.model.samples import ACTION, SPEC, STILL, actions, masks, model, observed

EVERYTHING = {
    "sigreg": 0.5,
    "inverse": 2.0,
    "places": 0.4,
    "persistent": 0.2,
    "straight": 0.3,
    "variance": 0.2,
    "covariance": 0.1,
}
LATE = 10_000


def batch_of(spec: Spec = SPEC, *, batch: int = 4, steps: int = 4, share: float = 0.8, seed: int = 0) -> Batch:
    return Batch(
        observed(spec, batch=batch, steps=steps, seed=seed),
        masks(spec, batch=batch, steps=steps, share=share, seed=seed),
        actions(spec, batch, steps - 1, seed=seed),
    )


def objective(spec: Spec = SPEC, *, seed: int = 0, history: int = 1, **settings: Any) -> Objective:
    torch.manual_seed(seed)
    return Objective(model(spec, history=history), ObjectiveConfig(slices=8, **settings))


def scores(made: Objective, batch: Batch, step: int = LATE) -> dict[str, Tensor]:
    return made(batch, torch.Generator().manual_seed(1), step)


def learned(made: Objective) -> dict[str, Tensor]:
    return {n: p for n, p in made.named_parameters() if p.requires_grad}


@given(
    kinds=st.sets(st.sampled_from(["camera", "state", "wave"]), min_size=1),
    acting=st.booleans(),
    history=st.integers(1, 2),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=20, deadline=None)
def test_finite_with_a_gradient_for_every_weight_of_every_kind_of_channel(
    kinds: set[str], acting: bool, history: int, share: float
) -> None:
    channels = tuple(c for c in SPEC.observations if c.name in kinds)
    spec = Spec(observations=channels, action=ACTION if acting else STILL.action)
    made = objective(spec, history=history, **EVERYTHING)
    found = scores(made, batch_of(spec, share=share))
    assert all(term.isfinite() and term.dim() == 0 for term in found.values())
    assert ("inverse" in found) == acting
    found["loss"].backward()
    for name, parameter in learned(made).items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # What nothing shows cannot learn; what is never missing has no use for what stands for it.
        if share == 0.5:
            assert parameter.grad.abs().sum() > 0, name


class TestTerms:
    def test_each_is_there_if_and_only_if_it_weighs(self) -> None:
        batch = batch_of()
        nothing = {"sigreg": 0.0, "inverse": 0.0}
        assert scores(objective(**nothing), batch).keys() == {"loss", "prediction", "spread"}
        for name in ("sigreg", "inverse", "places", "persistent", "straight"):
            found = scores(objective(**{**nothing, name: 1.0}), batch)
            assert found.keys() == {"loss", "prediction", "spread", name}
        for name in ("variance", "covariance"):
            assert name in scores(objective(**{**nothing, name: 1.0}), batch)

    def test_the_loss_is_their_weighted_sum(self) -> None:
        weights = {**EVERYTHING, "prediction": 0.7}
        found = scores(objective(**weights), batch_of())
        expected = sum(
            weights.get(name, 1.0) * term.item() for name, term in found.items() if name not in ("loss", "spread")
        )
        assert found["loss"].item() == pytest.approx(expected, rel=1e-5)

    def test_weights_do_not_change_terms(self) -> None:
        one = scores(objective(**EVERYTHING), batch_of())
        two = scores(objective(**{name: 3 * weight for name, weight in EVERYTHING.items()}), batch_of())
        assert one.keys() == two.keys()
        for name in one.keys() - {"loss"}:
            torch.testing.assert_close(one[name], two[name])

    def test_terms_are_what_their_functions_say(self) -> None:
        made, batch = objective(**EVERYTHING), batch_of()
        found = scores(made, batch)
        latents = made.model.encode(batch.observations, batch.valid)
        torch.testing.assert_close(found["prediction"], open_loop(made.model, latents, latents, batch.actions, "first"))
        torch.testing.assert_close(found["straight"], straightness(latents))
        variance, covariance = variance_covariance(latents.flatten(2))
        torch.testing.assert_close(found["variance"], variance)
        torch.testing.assert_close(found["covariance"], covariance)
        torch.testing.assert_close(found["spread"], latent_spread(latents))
        assert not found["spread"].requires_grad

    def test_grounded_values_count_where_they_are_known_and_apart_from_the_rest(self) -> None:
        torch.manual_seed(0)
        made = Objective(model(grounded=("state",)), ObjectiveConfig(slices=8))
        batch = batch_of(share=0.5)
        found = scores(made, batch)
        latents = made.model.encode(batch.observations, batch.valid)
        imagined = made.model.rollout(latents[:, :1], batch.actions[:, :0], batch.actions[:, None])[:, 0]
        off = (imagined - latents[:, 1:])[:, :, 0].square()
        there = batch.valid["state"][:, 1:]
        known = there.double()
        by_horizon = ((off[..., :3] * known).sum(0) / known.sum(0)).sqrt()
        torch.testing.assert_close(found["grounded"].double(), by_horizon.prod() ** (1 / by_horizon.numel()))
        torch.testing.assert_close(found["prediction"], off[..., 3:].mean())
        assert "grounded" not in scores(objective(), batch)

    def test_the_same_generator_gives_the_same_loss(self) -> None:
        made, batch = objective(), batch_of()
        assert torch.equal(scores(made, batch)["loss"], scores(made, batch)["loss"])

    def test_windows_too_short_to_bend_have_no_straightness(self) -> None:
        assert "straight" not in scores(objective(straight=1.0), batch_of(steps=2))

    def test_invalid_values_do_not_change_it(self) -> None:
        made, batch = objective(**EVERYTHING), batch_of(share=0.5)
        other = copy.deepcopy(batch)
        for name in ("state", "wave"):
            gone = ~other.valid[name]
            other.observations[name][gone] = float("nan")
        torch.testing.assert_close(scores(made, other)["loss"], scores(made, batch)["loss"])


class TestInverseDynamics:
    def test_is_not_there_where_nobody_acts(self) -> None:
        assert objective(STILL).inverse is None
        assert "inverse" not in scores(objective(STILL), batch_of(STILL))

    def test_is_the_error_of_normalised_actions_in_their_units(self) -> None:
        """Of a silent head it is the mean square of the actions themselves."""
        made, batch = objective(), batch_of()
        assert made.inverse is not None
        with torch.no_grad():
            for parameter in made.inverse.parameters():
                parameter.zero_()
        assert scores(made, batch)["inverse"].item() == pytest.approx(batch.actions.square().mean().item())

    def test_learns_actions_from_what_they_change(self) -> None:
        """A point moved by its action, and an action that moves nothing: the first is found, the second is not."""
        spec = Spec(observations=(Channel(name="place", kind="vector", shape=(1,)),), action=ACTION)
        torch.manual_seed(0)
        made = Objective(
            model(spec, block=1, latent=4, features=32, width=32), ObjectiveConfig(slices=8, prediction=0.0)
        ).train()
        optimizer = torch.optim.Adam(made.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(250):
            acts = torch.rand(64, 3, 2, generator=generator) * 2 - 1
            start = torch.randn(64, 1, 1, generator=generator)
            places = torch.cat([start, start + acts[..., :1].cumsum(1)], dim=1)
            found = made(Batch({"place": places}, {}, acts), generator, step)
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
        assert made.inverse is not None
        latents = made.model.encode({"place": places})
        error = (made.inverse(latents[:, :-1], latents[:, 1:]) - acts).square().mean((0, 1))
        moved, still = error.tolist()
        assert moved < 0.05
        assert 0.25 < still < 0.45


class TestTarget:
    def test_follows_by_the_decay_and_gets_no_gradient(self) -> None:
        made = objective(ema=0.9)
        assert made.target is not None
        before = {n: p.clone() for n, p in made.target.named_parameters()}
        scores(made, batch_of())["loss"].backward()
        assert all(p.grad is None and not p.requires_grad for p in made.target.parameters())
        assert any(p.grad is not None for p in made.model.parameters())
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        made.after_step()
        now = dict(made.model.named_parameters())
        for name, parameter in made.target.named_parameters():
            torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * now[name])
        for _ in range(200):
            made.after_step()
        for name, parameter in made.target.named_parameters():
            torch.testing.assert_close(parameter, now[name], atol=1e-4, rtol=1e-4)

    def test_is_what_predictions_are_compared_with(self) -> None:
        made, batch = objective(ema=0.5), batch_of()
        assert made.target is not None
        with torch.no_grad():
            for parameter in made.target.parameters():
                parameter += 0.1
        latents = made.model.encode(batch.observations, batch.valid)
        targets = made.target.encode(batch.observations, batch.valid)
        expected = open_loop(made.model, latents, targets, batch.actions, "first")
        torch.testing.assert_close(scores(made, batch)["prediction"], expected)
        assert not torch.allclose(expected, open_loop(made.model, latents, latents, batch.actions, "first"))

    def test_without_it_nothing_follows(self) -> None:
        made = objective()
        assert made.target is None
        kept = {n: p.clone() for n, p in made.named_parameters()}
        made.after_step()
        assert all(torch.equal(p, kept[n]) for n, p in made.named_parameters())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prediction", -1.0),
        ("sigreg", float("nan")),
        ("inverse", float("inf")),
        ("straight", -0.1),
        ("ema", 1.0),
        ("ema", -0.1),
        ("slices", 0),
        ("starts", "last"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(SpecError, match=f"^objective: [^\n]*{setting}[^\n]*$"):
        ObjectiveConfig(**{setting: value})
