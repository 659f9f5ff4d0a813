"""The world model: shapes, what missing values may not do, and that its three ways to predict agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.episodes.statistics import Statistics
from foretell.errors import SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.spec import ActionSpec, Channel, Spec
from tests.model.samples import ACTION, CAMERA, SPEC, STATE, STILL, WAVE, actions, masks, model, observed, statistics

CHANNELS = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4)).map(
        lambda s: Channel(name="image", kind="image", shape=s)
    ),
    st.integers(1, 5).map(lambda f: Channel(name="vector", kind="vector", shape=(f,))),
    st.tuples(st.integers(1, 3), st.integers(1, 100)).map(lambda s: Channel(name="waveform", kind="waveform", shape=s)),
)
SPECS = st.builds(
    Spec,
    observations=st.lists(CHANNELS, min_size=1, max_size=3, unique_by=lambda c: c.name).map(tuple),
    action=st.integers(0, 3).map(lambda n: ActionSpec(names=tuple("abc"[:n]))),
)


def randomised(world: WorldModel) -> WorldModel:
    """The same with every weight moved, so that nothing stays at a start that hides a mistake."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in world.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return world


def latents_of(world: WorldModel, *shape: int, seed: int = 5) -> Tensor:
    return torch.randn((*shape, 1, world.config.latent), generator=torch.Generator().manual_seed(seed))


@given(
    spec=SPECS,
    batch=st.integers(1, 3),
    steps=st.integers(1, 3),
    latent=st.integers(1, 5),
    block=st.integers(1, 3),
    history=st.integers(1, 3),
    samples=st.integers(1, 3),
    ahead=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_shapes(
    spec: Spec,
    batch: int,
    steps: int,
    latent: int,
    block: int,
    history: int,
    samples: int,
    ahead: int,
    share: float,
) -> None:
    world = model(spec, latent=latent, block=block, history=history, features=3, width=4, stem=2)
    acts = block * spec.action.size
    z = world.encode(observed(spec, batch=batch, steps=steps), masks(spec, batch=batch, steps=steps, share=share))
    assert z.shape == (batch, steps, 1, latent)
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert world.predict(z, torch.zeros(batch, steps, acts)).shape == z.shape
    assert world.predict_each(z, torch.zeros(batch, steps, acts)).shape == z.shape
    found = world.rollout(z, torch.zeros(batch, steps - 1, acts), torch.zeros(batch, samples, ahead, acts))
    assert found.shape == (batch, samples, ahead, 1, latent)
    assert found.isfinite().all()


class TestMissingValues:
    @given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.2, 0.8]))
    @settings(max_examples=20, deadline=None)
    def test_never_influence_latents_nor_gradients(self, seed: int, share: float) -> None:
        world, seen = model(), masks(seed=seed, share=share)
        found, gradients = [], []
        for fill in (0.0, float("nan"), float("inf"), 1e30):
            given_ = observed()
            for channel in SPEC.observations:
                mask = seen[channel.name]
                mask = mask.reshape(mask.shape + (1,) * (given_[channel.name].dim() - mask.dim()))
                value = 77 if channel.kind == "image" and fill else fill
                given_[channel.name] = torch.where(
                    mask, given_[channel.name], torch.tensor(value).to(given_[channel.name])
                )
            world.zero_grad()
            z = world.encode(given_, seen)
            z.square().sum().backward()
            found.append(z.detach())
            gradients.append([p.grad.clone() for p in world.parameters() if p.grad is not None])
        assert found[0].isfinite().all()
        for z, gradient in zip(found[1:], gradients[1:], strict=True):
            assert torch.equal(z, found[0])
            assert all(torch.equal(a, b) for a, b in zip(gradient, gradients[0], strict=True))

    @pytest.mark.parametrize("name", ["camera", "state", "wave"])
    def test_differ_from_every_value_that_could_stand_for_them(self, name: str) -> None:
        """A model can tell a missing value from zero and from the mean."""
        world, shown = model(), observed()
        shown[name] = torch.zeros_like(shown[name])
        assert not torch.allclose(world.encode(shown, {name: torch.zeros(2, 3, dtype=torch.bool)}), world.encode(shown))

    @pytest.mark.parametrize("name", ["camera", "state", "wave"])
    def test_touch_only_their_own_step(self, name: str) -> None:
        world, shown = model(), observed()
        seen = torch.ones(2, 3, dtype=torch.bool)
        seen[1, 2] = False
        changed = (world.encode(shown, {name: seen}) - world.encode(shown)).abs().sum((2, 3)) > 0
        assert torch.equal(changed, ~seen)

    def test_masks_of_steps_are_masks_of_all_their_fields(self) -> None:
        world, shown = model(), observed()
        steps = torch.tensor([[True, False, True], [False, True, True]])
        whole = {"state": steps[..., None].expand(2, 3, 3), "wave": steps[..., None].expand(2, 3, 2)}
        assert torch.equal(world.encode(shown, {"state": steps, "wave": steps}), world.encode(shown, whole))

    def test_channels_without_a_mask_are_valid(self) -> None:
        world, shown = model(), observed()
        whole = masks(share=2.0)
        assert torch.equal(world.encode(shown, whole), world.encode(shown))
        assert torch.equal(world.encode(shown, {}), world.encode(shown))


@pytest.mark.parametrize("name", ["camera", "state", "wave"])
def test_every_channel_reaches_the_latent(name: str) -> None:
    world, shown = model(), observed()
    other = shown | {name: observed(seed=1)[name]}
    assert ((world.encode(shown) - world.encode(other)).abs().sum((2, 3)) > 0).all()


def test_steps_and_episodes_are_encoded_each_for_itself() -> None:
    world, shown, seen = model(), observed(), masks()
    whole = world.encode(shown, seen)
    for b in range(2):
        for t in range(3):
            one = world.encode(
                {n: x[b : b + 1, t : t + 1] for n, x in shown.items()},
                {n: x[b : b + 1, t : t + 1] for n, x in seen.items()},
            )
            torch.testing.assert_close(one[0, 0], whole[b, t], atol=1e-5, rtol=1e-4)


def test_encoding_leaves_observations_as_they_are() -> None:
    shown, seen = observed(), masks()
    kept = {n: x.clone() for n, x in shown.items()}
    model(statistics=statistics()).encode(shown, seen)
    assert all(torch.equal(x, kept[n]) for n, x in shown.items())


class TestBorder:
    @pytest.mark.parametrize("name", ["camera", "state", "wave"])
    def test_a_missing_channel_is_named(self, name: str) -> None:
        shown = observed()
        del shown[name]
        with pytest.raises(SpecError, match=f"^channel {name} is missing[^\n]*$"):
            model().encode(shown)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [("camera", (2, 3, 12, 9, 1)), ("camera", (2, 3, 9, 12, 3)), ("state", (2, 3, 4)), ("wave", (2, 3, 2, 21))],
    )
    def test_another_shape_is_named(self, name: str, shape: tuple[int, ...]) -> None:
        shown = observed()
        shown[name] = torch.zeros(shape, dtype=shown[name].dtype)
        with pytest.raises(SpecError) as caught:
            model().encode(shown)
        expected = ", ".join(map(str, SPEC.channel(name).shape))
        assert str(caught.value) == f"channel {name}: (batch, steps, {expected}) expected, got {shape}"

    def test_another_type_is_named(self) -> None:
        shown = observed()
        shown["camera"] = shown["camera"] / 255
        with pytest.raises(SpecError, match=r"^channel camera: uint8 expected, got torch.float32$"):
            model().encode(shown)

    def test_quantities_beside_the_observations_are_not_looked_at(self) -> None:
        world = model(replace(SPEC, quantities=(Channel(name="level", kind="vector", shape=(1,)),)))
        shown = observed()
        expected = world.encode(shown)
        assert torch.equal(world.encode(shown | {"level": torch.full((2, 3, 1), float("nan"))}), expected)


class TestNormalisation:
    def test_observations_and_actions_go_in_raw(self) -> None:
        """A model with statistics sees x as one without sees (x - mean) / std."""
        spec = replace(SPEC, observations=(STATE, WAVE))
        of = statistics(spec)
        plain, aware = model(spec), model(spec, statistics=of)
        raw = {n: x * 40 for n, x in observed(spec).items()}
        normal = {}
        for name, x in raw.items():
            shape = (-1, 1) if name == "wave" else (-1,)
            mean, std = (torch.tensor(part[name]).view(shape) for part in (of.mean, of.std))
            normal[name] = ((x - mean) / std).float()
        torch.testing.assert_close(aware.encode(raw), plain.encode(normal), atol=1e-5, rtol=1e-4)
        acts = actions(spec, 2, 3) * 100
        mean, std = (torch.tensor(np.tile(part["action"], 2)) for part in (of.mean, of.std))
        z = latents_of(plain, 2, 3)
        torch.testing.assert_close(
            aware.predict(z, acts), plain.predict(z, ((acts - mean) / std).float()), atol=1e-5, rtol=1e-4
        )

    def test_images_go_in_as_they_are_recorded(self) -> None:
        """Shifting the pixels and the mean by the same amount changes nothing."""
        spec = Spec(observations=(CAMERA,))
        of = statistics(spec)
        shifted = replace(of, mean={**of.mean, "camera": of.mean["camera"] + 20})
        image = observed(spec)["camera"] // 2
        here = model(spec, statistics=of).encode({"camera": image})
        there = model(spec, statistics=shifted).encode({"camera": image + 20})
        torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(here, model(spec, statistics=shifted).encode({"camera": image}), atol=1e-3)

    def test_constants_do_not_explode(self) -> None:
        spec = replace(SPEC, observations=(STATE,))
        of = Statistics(
            mean={"state": np.array([1e6, 0.0, 5.0]), "action": np.array([3.0, 0.0])},
            std={"state": np.array([1e-3, 0.0, 2.0]), "action": np.array([0.0, 1.0])},
            count={"state": np.full(3, 9), "action": np.full(2, 9)},
        )
        world = model(spec, statistics=of)
        acts = world.normalise_actions(torch.tensor([[4.0, 2.0, 3.0, -1.0]]))
        assert acts.tolist() == [[1.0, 2.0, 0.0, -1.0]]
        z = world.encode({"state": torch.tensor([[[1e6 + 1, 1.0, 5.0]]])})
        assert z.abs().max() < 10

    @pytest.mark.parametrize("names", [("a.b", "a_b"), ("a-b", "a.b"), ("mean_x", "x")])
    def test_channels_of_similar_names_keep_their_own(self, names: tuple[str, str]) -> None:
        spec = Spec(observations=tuple(Channel(name=n, kind="vector", shape=(1,)) for n in names))
        of = Statistics(
            mean={names[0]: np.array([5.0]), names[1]: np.array([-7.0]), "action": np.zeros(0)},
            std={names[0]: np.array([2.0]), names[1]: np.array([3.0]), "action": np.zeros(0)},
            count={names[0]: np.array([9]), names[1]: np.array([9]), "action": np.zeros(0, np.int64)},
        )
        raw = {names[0]: torch.tensor([[[9.0]]]), names[1]: torch.tensor([[[-1.0]]])}
        twos = {n: torch.tensor([[[2.0]]]) for n in names}
        torch.testing.assert_close(model(spec, statistics=of).encode(raw), model(spec).encode(twos))


class TestPrediction:
    @pytest.mark.parametrize("spec", [SPEC, STILL], ids=["acting", "still"])
    @pytest.mark.parametrize("history", [1, 3])
    def test_a_rollout_is_one_prediction_after_another(self, spec: Spec, history: int) -> None:
        world = randomised(model(spec, history=history, statistics=statistics(spec)))
        for known in (1, 2, 3, 5):
            context, past = latents_of(world, 2, known), actions(spec, 2, known - 1)
            plan = actions(spec, 2, 4, 6, seed=1)
            found = world.rollout(context, past, plan)
            for s in range(4):
                path, acts = context, past
                for k in range(6):
                    acts = torch.cat([acts, plan[:, s, k : k + 1]], dim=1)
                    following = world.predict(path, acts)[:, -1:]
                    torch.testing.assert_close(found[:, s, k], following[:, 0], atol=1e-5, rtol=1e-4)
                    path = torch.cat([path, following], dim=1)

    @pytest.mark.parametrize("history", [1, 3])
    def test_a_step_is_predicted_from_no_more_than_its_history(self, history: int) -> None:
        world = randomised(model(history=history))
        z, acts = latents_of(world, 2, 6), actions(SPEC, 2, 6)
        whole = world.predict(z, acts)
        for t in range(6):
            first = max(0, t - history + 1)
            part = world.predict(z[:, first : t + 1], acts[:, first : t + 1])
            torch.testing.assert_close(part[:, -1], whole[:, t], atol=1e-5, rtol=1e-4)
        for t in range(6):
            for changed in ("latents", "actions"):
                other = [z.clone(), acts.clone()]
                other[changed == "actions"][:, t] += 1
                moved = (world.predict(*other) - whole).abs().sum((0, 2, 3)) > 1e-6
                assert moved.tolist() == [t <= u < t + history for u in range(6)]

    @pytest.mark.parametrize("history", [1, 3])
    def test_each_is_predicted_from_itself_alone(self, history: int) -> None:
        world = randomised(model(history=history))
        z, acts = latents_of(world, 2, 3, 4), actions(SPEC, 2, 3, 4)
        found = world.predict_each(z, acts)
        single = world.predict(z.flatten(0, 2)[:, None], acts.flatten(0, 2)[:, None])
        torch.testing.assert_close(found.flatten(0, 2), single[:, 0], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("history", [1, 3])
    def test_candidates_do_not_depend_on_their_neighbours(self, history: int) -> None:
        world = randomised(model(history=history))
        context, past, plan = latents_of(world, 2, 3), actions(SPEC, 2, 2), actions(SPEC, 2, 5, 4, seed=1)
        whole = world.rollout(context, past, plan)
        order = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(world.rollout(context, past, plan[:, order]), whole[:, order])
        for b in range(2):
            one = world.rollout(context[b : b + 1], past[b : b + 1], plan[b : b + 1, 2:3])
            torch.testing.assert_close(one[0, 0], whole[b, 2], atol=1e-5, rtol=1e-4)

    def test_later_actions_do_not_change_earlier_states(self) -> None:
        world = randomised(model(history=3))
        context, past, plan = latents_of(world, 1, 3), actions(SPEC, 1, 2), actions(SPEC, 1, 1, 5)
        other = plan.clone()
        other[:, :, 3:] += 1
        found = (world.rollout(context, past, plan) - world.rollout(context, past, other)).abs().sum((0, 1, 3, 4))
        assert (found > 1e-6).tolist() == [False, False, False, True, True]

    @pytest.mark.parametrize("history", [1, 3])
    def test_a_silent_last_layer_leaves_the_latent(self, history: int) -> None:
        world = randomised(model(history=history))
        last = [m for m in world.predictor.modules() if isinstance(m, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
        z, plan = latents_of(world, 2, 3), actions(SPEC, 2, 4, 5)
        torch.testing.assert_close(world.predict(z, actions(SPEC, 2, 3)), z)
        still = z[:, None, -1:].expand(2, 4, 5, 1, 6)
        torch.testing.assert_close(world.rollout(z, actions(SPEC, 2, 2), plan), still)

    def test_a_plan_has_a_gradient_through_the_whole_rollout(self) -> None:
        world = randomised(model())
        plan = actions(SPEC, 1, 2, 4).requires_grad_()
        world.rollout(latents_of(world, 1, 1), actions(SPEC, 1, 0), plan)[:, :, -1].square().sum().backward()
        assert plan.grad is not None
        assert (plan.grad.abs().sum(-1) > 0).all()


def test_the_same_seed_makes_the_same_model() -> None:
    shown = observed()
    assert torch.equal(model(seed=3).encode(shown), model(seed=3).encode(shown))
    assert not torch.equal(model(seed=3).encode(shown), model(seed=4).encode(shown))


@pytest.mark.parametrize("name", ["latent", "block", "history", "features", "width", "stem", "depth"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None])
def test_sizes_that_make_no_sense_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"^model: {name} [^\n]*{value!r}$"):
        ModelConfig(**{name: value})


def test_a_model_of_one_kind_of_channel_has_no_other_encoder() -> None:
    """Domains differ in their spec and nowhere else: the same class, with as many encoders as channels."""
    for channel in (CAMERA, STATE, WAVE):
        world = model(Spec(observations=(channel,), action=ACTION))
        assert len(world.encoders) == 1
        assert world.encode(observed(world.spec)).shape == (2, 3, 1, 6)


def test_encoding_with_first_features_is_both_at_once() -> None:
    made = model()
    given = list(made.normalised(observed(), masks()))
    latents, early = made.encode_with_early(given)
    assert torch.equal(latents, made.encode_normalised(given))
    assert all(torch.equal(one, other) for one, other in zip(early, made.early(given), strict=True))
    assert [x.shape[1] for x in early] == [4, 3, 8]
