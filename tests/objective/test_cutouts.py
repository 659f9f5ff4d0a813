"""Cut-outs: found where things are, put where they are said to be, and told by a model that learns from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import DataError, SpecError
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.objective.cutouts import Cutouts, Things, _moves, _turned, find_things
from foretell.objective.objective import Objective, ObjectiveConfig
from foretell.spec import ActionSpec, Channel, Spec

HEIGHT, WIDTH, FINE = 48, 64, 5
CAMERA = Channel(name="camera", kind="image", shape=(HEIGHT, WIDTH, 3))
STATE = Channel(name="state", kind="vector", shape=(2,), fields=("x", "y"), units=("", ""))
ACTION = ActionSpec(names=("push",), units=("",), low=(-1.0,), high=(1.0,))
SPEC = Spec(observations=(CAMERA, STATE), action=ACTION, hz=10.0)
CORNER, DISC = (200.0, 60.0, 40.0), (20.0, 40.0, 230.0)
MIDDLE = np.full(2, (80 * 2.0 + 64 * 12.0) / (80 + 64))
"""px from the corner of the L to the middle of what it covers, 4 x 20 px and 16 x 4 px."""


def drawn(corner: np.ndarray, angle: float, disc: np.ndarray) -> np.ndarray:
    """(H, W, 3): an L whose middle is at `corner`, px, turned by `angle`, and a disc, before a wall with a pattern."""
    y, x = ((np.mgrid[0 : HEIGHT * FINE, 0 : WIDTH * FINE] + 0.5) / FINE)[:, None]
    picture = np.full((HEIGHT * FINE, WIDTH * FINE, 3), 235.0)
    picture[((x[0] > 20) & (x[0] < 30) & (y[0] > 25))] = (150.0, 220.0, 150.0)
    u, v = x[0] - corner[0], y[0] - corner[1]
    along = math.cos(angle) * u + math.sin(angle) * v + MIDDLE[0]
    across = -math.sin(angle) * u + math.cos(angle) * v + MIDDLE[1]
    upright = (along >= 0) & (along < 4) & (across >= 0) & (across < 20)
    foot = (along >= 4) & (along < 20) & (across >= 0) & (across < 4)
    picture[upright | foot] = CORNER
    picture[np.hypot(x[0] - disc[0], y[0] - disc[1]) < 3] = DISC
    return picture.reshape(HEIGHT, FINE, WIDTH, FINE, 3).mean((1, 3)).round().astype(np.uint8)


def across(places: np.ndarray) -> np.ndarray:
    """From px to -1 .. 1."""
    return places / np.array([WIDTH, HEIGHT]) * 2 - 1


def scenes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures, the L's places (px) and angles, the disc's places."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform((14, 14), (WIDTH - 14, HEIGHT - 14), (count, 2))
    disc = rng.uniform((5, 5), (WIDTH - 5, HEIGHT - 5), (count, 2))
    angle = rng.uniform(-np.pi, np.pi, count)
    pictures = [drawn(c, a, d) for c, a, d in zip(corner, angle, disc, strict=True)]
    return np.stack(pictures), corner, angle, disc


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return scenes(300)


@pytest.fixture(scope="module")
def things(seen) -> Things:
    return find_things(seen[0], where="camera")


@pytest.fixture(scope="module")
def cutouts(things) -> Cutouts:
    return Cutouts(things, "camera", batch=16)


def among(picture: np.ndarray, pictures: np.ndarray) -> int:
    return int(np.flatnonzero((pictures == picture).all((1, 2, 3)))[0])


def test_things_are_found_where_they_are(seen, things) -> None:
    pictures, corner, _, disc = seen
    which = [among(p, pictures) for p in things.pictures.numpy()]
    assert len(which) > 50
    for places, truth in zip(things.places.numpy(), (corner[which], disc[which]), strict=True):
        wrong = np.abs(places - across(truth)) * np.array([WIDTH, HEIGHT]) / 2
        # px
        assert wrong.max() < 0.6
        assert wrong.mean() < 0.15
    clean = drawn(np.array([-50.0, -50.0]), 0.0, np.array([-50.0, -50.0]))
    assert np.abs(things.background.numpy() - clean).max() <= 1


def test_only_what_is_not_round_has_a_turn(cutouts) -> None:
    assert cutouts.turning == [0]
    assert cutouts.size == 6


def test_radii_are_those_of_gyration(things) -> None:
    # Of a disc: its radius over the square root of two. Half a side is different along each axis here.
    expected = 3 / 2 * np.sqrt((2 / WIDTH) ** 2 + (2 / HEIGHT) ** 2)
    assert things.radii[1].item() == pytest.approx(expected, rel=0.1)


def test_cut_out_and_put_back_gives_the_picture(things, cutouts) -> None:
    at = torch.arange(20)
    picture = things.background.permute(2, 0, 1)
    for k in range(2):
        moved = cutouts._moved(k, at, things.places[k, at], torch.zeros(20))
        picture = picture * (1 - moved[:, -1:]) + moved[:, :-1]
    wrong = (picture.permute(0, 2, 3, 1) - things.pictures[at].float()).abs()
    assert wrong.mean() < 0.2
    assert wrong.max() < 40


def test_collages_are_the_pictures_of_what_they_say(seen, things, cutouts) -> None:
    pictures, _, angle, _ = seen
    made = cutouts.collage(things.patterns[:, None].expand(-1, 30), torch.Generator().manual_seed(0))
    pattern = angle[among(things.pictures[things.patterns[0]].numpy(), pictures)]
    apart = []
    for picture, places, turns in zip(made.pictures, made.places, made.turns, strict=True):
        (l_at, disc_at) = ((places.numpy() + 1) / 2 * np.array([WIDTH, HEIGHT])).astype(float)
        turned = pattern + math.atan2(turns[0, 1], turns[0, 0])
        truth, other = drawn(l_at, turned, disc_at), drawn(l_at, turned + 0.3, disc_at)
        wrong = [np.abs(picture.numpy().astype(float) - x).mean() for x in (truth, other)]
        apart.append(wrong)
    right, elsewhere = np.array(apart).T
    assert right.mean() < 1.5
    # Pictures in which the L was turned by 17 degrees more are told from it.
    assert (right < elsewhere).mean() > 0.9


def test_collages_of_a_seed_are_the_same(things, cutouts) -> None:
    one, other = (
        cutouts.collage(things.patterns[:, None].expand(-1, 5), torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(one.pictures, other.pictures)
    assert torch.equal(one.turns, other.turns)


def test_things_touch_in_half_of_the_collages(things, cutouts) -> None:
    made = cutouts.collage(things.patterns[:, None].expand(-1, 60), torch.Generator().manual_seed(0))
    apart = []
    for picture, places in zip(made.pictures.numpy().astype(float), made.places[:, 1].numpy(), strict=True):
        at = (places + 1) / 2 * np.array([WIDTH, HEIGHT])
        y, x = np.nonzero(np.abs(picture - CORNER).sum(-1) < 60)
        apart.append(np.hypot(x + 0.5 - at[0], y + 0.5 - at[1]).min())
    # The disc's radius is 3 px; pixels that are the L's alone begin half a pixel and more from its rim.
    touching = np.array(apart[1::2])
    assert touching.min() > 1.5
    # All but of an L that is nearly out of the picture.
    assert np.quantile(touching, 0.9) < 5
    assert np.median(apart[::2]) > 5


def test_what_touches_is_anywhere_within_a_pixel(things, cutouts) -> None:
    made = cutouts.collage(things.patterns[:, None].expand(-1, 200), torch.Generator().manual_seed(0))
    within = (made.places[1::2, 1] + 1) / 2 * torch.tensor([WIDTH, HEIGHT]) % 1
    assert within.mean().item() == pytest.approx(0.5, abs=0.1)
    assert within.std().item() == pytest.approx(12**-0.5, abs=0.05)


@given(st.floats(-3, 3), st.floats(0.5, 2), st.tuples(*[st.floats(-0.8, 0.8)] * 6))
def test_moves_turn_in_pixels_not_in_shares_of_a_side(angle: float, wide: float, numbers: tuple[float, ...]) -> None:
    before, after, about = (np.array(numbers[i : i + 2]) for i in (0, 2, 4))
    move = _moves(*(torch.tensor(np.stack([x]), dtype=torch.float64) for x in (before, after)),
                  torch.tensor([angle], dtype=torch.float64), wide)[0].numpy()  # fmt: skip
    old = move @ np.append(after + about, 1.0)
    turned = complex(*((old - before) * np.array([wide, 1.0]))) * np.exp(1j * angle)
    assert turned == pytest.approx(complex(*(about * np.array([wide, 1.0]))), abs=1e-9)


@given(st.floats(-7, 7), st.floats(-7, 7))
def test_turned_adds_angles(one: float, other: float) -> None:
    code, by = (torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64) for a in (one, other))
    expected = np.exp(1j * (one + other))
    assert complex(*_turned(code, by).tolist()) == pytest.approx(expected, abs=1e-9)


def small(latent: int = 8, spec: Spec = SPEC) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(spec, ModelConfig(latent=latent, stem=8, features=64, width=16, depth=1))
    if "camera" in [c.name for c in spec.observations]:
        model.get_buffer("mean_camera").fill_(230.0)
        model.get_buffer("scale_camera").fill_(25.0)
    return model


def test_a_model_that_learns_from_collages_knows_where_things_are_in_pictures(things) -> None:
    model, cutouts = small(), Cutouts(things, "camera", batch=32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    pictures, corner, _, _ = scenes(60, seed=1)
    truth = torch.from_numpy(across(corner)).float()

    def wrong() -> float:
        with torch.no_grad():
            places, _ = cutouts.told(model.eval(), torch.from_numpy(pictures))
        return float((places[:, 0] - truth).square().mean())

    first = wrong()
    for _ in range(80):
        loss = cutouts(model.train(), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Nothing told of it is wrong by its variance.
    assert wrong() < 0.25 * min(first, float(truth.var(0).mean()))


def test_pictures_in_which_nothing_moves_are_refused() -> None:
    still = np.full((20, 16, 16, 3), 90, np.uint8)
    with pytest.raises(DataError, match=r"^camera: things that move"):
        find_things(still, where="camera")


def test_things_that_are_never_seen_whole_are_refused() -> None:
    moving = np.full((20, 16, 16, 3), 90, np.uint8)
    for i, picture in enumerate(moving):
        picture[: 4 + i % 3, i % 12 : i % 12 + 4] = 200
    with pytest.raises(DataError, match="whole, apart"):
        find_things(moving, where="camera")


def test_an_objective_says_what_it_misses(things) -> None:
    settings = ObjectiveConfig(cutouts=1.0)
    with pytest.raises(SpecError, match=r"raise --model\.latent"):
        Objective(small(latent=5), settings, things)
    with pytest.raises(SpecError, match="things that were found"):
        Objective(small(), settings)
    blind = Spec(observations=(STATE,), action=ACTION, hz=10.0)
    with pytest.raises(SpecError, match="one image channel"):
        Objective(small(spec=blind), settings, things)
