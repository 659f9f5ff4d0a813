"""Lenses: what has changed in a picture is found from what followed, used only where it foretells more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning import CEM, Controller, ControllerConfig, State
from foretell.planning.adaptation import Adaptation
from foretell.planning.lens import Lenses, has_lens, through
from foretell.spec import ActionSpec, Channel, Spec
from foretell.worlds.simulated import moved, turned
from tests.planning.fakes import MIXED, SPEC, Sizes

SIDE, ARM = 64, 18.0
EYE = Spec(
    observations=(Channel(name="eye", kind="image", shape=(SIDE, SIDE, 3)),),
    action=ActionSpec(names=("turn",), low=(-0.3,), high=(0.3,)),
)
QUICK = CEM(samples=32, iterations=3, elites=6)


def picture(angle: float) -> np.ndarray:
    """A red spot at the end of an arm that turns about the middle."""
    seen = np.full((SIDE, SIDE, 3), 20, np.uint8)
    down, right = (round(SIDE / 2 + ARM * way) for way in (math.sin(angle), math.cos(angle)))
    seen[down - 2 : down + 3, right - 2 : right + 3] = (220, 20, 20)
    return seen


@dataclass
class Arm:
    """Latents: where what is red is, from the middle, in lengths of the arm; actions turn it about the middle."""

    spec: Spec = EYE
    config: Sizes = field(default_factory=lambda: Sizes(block=2))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode(self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None) -> Tensor:
        seen = observations["eye"].float()
        red = (seen[..., 0] - seen[..., 1:].amax(-1)).clamp_min(0)
        along = torch.arange(SIDE) - SIDE / 2
        total = red.sum((-1, -2)).clamp_min(1e-6)
        where = [(red.sum(axis) * along).sum(-1) / total for axis in (-1, -2)]
        return (torch.stack(where, -1) / ARM).unsqueeze(2)

    def looking_back(
        self, observations: Mapping[str, Tensor], valid: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        raise AssertionError("a model that takes one step is not asked")

    def rollout(self, context: Tensor, past: Tensor, plan: Tensor) -> Tensor:
        angle = plan.sum(-1).cumsum(2)
        down, right = context[:, -1, 0, :, None, None].unbind(1)
        turned = (angle.cos() * down + angle.sin() * right, angle.cos() * right - angle.sin() * down)
        return torch.stack(turned, -1).unsqueeze(3)


def lived(
    shift: int, colour: float, adaptation: Adaptation | None, *, goal: float = 1.0, steps: int = 26
) -> tuple[float, list[float], State]:
    """How far the arm ends from its goal, rad, what it did, and the controller's last state."""

    def seen(angle: float) -> dict[str, Tensor]:
        return {"eye": torch.from_numpy(turned(moved(picture(angle), shift), colour))[None]}

    made = Controller(Arm(), QUICK, ControllerConfig(horizon=4, replan_every=1), adaptation=adaptation)
    state = made.start(seen(goal), generator=torch.Generator().manual_seed(0))
    angle, done = 0.0, []
    for step in range(steps):
        action, state = made.step(seen(angle), state)
        if step < 6:
            # Nobody learns anything from an arm that rests: somebody moves it at first.
            action = torch.full((1, 1), -0.2)
            state = state.executed(action)
        done.append(float(action[0, 0]))
        angle += done[-1]
    return abs(angle - goal), done, state


@settings(max_examples=20, deadline=None)
@given(st.integers(-20, 20), st.integers(0, 11), st.integers(0, 2**32 - 1))
def test_lenses_move_and_turn_as_cameras_do(px: int, turn: int, seed: int) -> None:
    pictures = np.random.default_rng(seed).integers(0, 256, (2, 3, 24, 16, 3), np.uint8)
    found = through(
        Spec(observations=(Channel(name="eye", kind="image", shape=(24, 16, 3)),), action=EYE.action),
        {"eye": torch.from_numpy(pictures)},
        torch.tensor([[px, px, turn / 12], [0, 0, 0]]),
    )["eye"].numpy()
    expected = np.stack([turned(moved(one, px), turn / 12) for one in pictures[0]])
    # The angles are in single precision there.
    assert np.abs(found[0].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(found[1], pictures[1])


@pytest.mark.parametrize(("history", "every"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("shift", [6, -5])
def test_a_camera_that_has_moved_is_found(shift: int, history: int, every: int) -> None:
    """What turns about the middle turns about nothing else: only the right lens foretells it."""
    made = Controller(
        Arm(config=Sizes(block=2, history=history)),
        QUICK,
        ControllerConfig(horizon=4, replan_every=every),
        adaptation=Adaptation(),
    )
    angles = np.linspace(0, 5, 25)
    eye = [torch.from_numpy(np.stack([moved(picture(a), shift), picture(a)])) for a in angles]
    state = made.start({"eye": eye[-1]}, generator=torch.Generator().manual_seed(0))
    for seen in eye[:-1]:
        _, state = made.step({"eye": seen}, state)
        state = state.executed(torch.full((2, 1), float(angles[1])))
    assert state.looked is not None
    assert state.goal is not None
    assert state.looked.used[0].tolist() == [-shift, -shift, 0]
    assert state.looked.used[1].tolist() == [0, 0, 0]
    # What is wanted and what is remembered are seen through it, too.
    torch.testing.assert_close(state.goal[0], state.goal[1], atol=0.02, rtol=0)
    torch.testing.assert_close(state.latents[-1][0], state.latents[-1][1], atol=0.02, rtol=0)
    one = state.looked.selected(torch.tensor([1]))
    assert one.used.tolist() == [[0, 0, 0]]
    assert one.steps["eye"].shape[0] == one.goal[0]["eye"].shape[0] == 1  # type: ignore[index]
    # So is a goal that is told of later.
    later = made.retarget(state, {"eye": eye[5]})
    torch.testing.assert_close(later.goal[0], later.goal[1], atol=0.02, rtol=0)  # type: ignore[index]


def test_hues_that_have_turned_are_turned_back() -> None:
    """Red has become green: without a lens nothing is seen at all."""
    assert lived(0, 1 / 3, None)[0] > 0.5
    assert lived(0, 1 / 3, replace(Adaptation(), lenses=None))[0] > 0.5
    far, _, state = lived(0, 1 / 3, Adaptation())
    assert far < 0.15
    assert state.looked is not None
    # A sixth of a turn either way all is red that was.
    assert float(state.looked.used[0, 2]) == pytest.approx(2 / 3, abs=0.15)


def test_a_picture_as_it_was_is_seen_as_it_comes() -> None:
    """To the bit what is done without."""
    assert lived(0, 0.0, Adaptation())[1] == lived(0, 0.0, None)[1]


def test_a_lens_that_foretells_worse_is_dropped() -> None:
    """The camera falls back into its place in the middle of an episode."""
    made = Controller(Arm(), QUICK, ControllerConfig(horizon=4, replan_every=1), adaptation=Adaptation())
    angles = np.linspace(0, 9, 45)
    state = made.start({"eye": torch.from_numpy(picture(1.0))[None]}, generator=torch.Generator().manual_seed(0))
    used = []
    for i, angle in enumerate(angles):
        seen = moved(picture(angle), 6 if i < 15 else 0)
        _, state = made.step({"eye": torch.from_numpy(seen)[None]}, state)
        state = state.executed(torch.full((1, 1), float(angles[1])))
        assert state.looked is not None
        used.append(bool(state.looked.used.any()))
    assert used[14]
    assert not used[-1]


def test_one_picture_and_latents_of_one_step_are_asked_for() -> None:
    two = replace(EYE, observations=(*EYE.observations, replace(EYE.observations[0], name="other")))
    assert has_lens(EYE, 1)
    assert has_lens(MIXED, 1)
    assert not (has_lens(SPEC, 1))
    assert not (has_lens(EYE, 2))
    assert not (has_lens(two, 1))


@pytest.mark.parametrize("wrong", [{"reach": 0}, {"margin": 1.0}, {"forget": 0.0}, {"unexplained": 2.0}, {"least": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        Lenses(**wrong)  # type: ignore[arg-type]
