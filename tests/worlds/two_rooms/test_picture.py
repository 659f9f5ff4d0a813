"""Two rooms: what the camera shows, and that each factor of variation changes what it says and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foretell.worlds.two_rooms import Options, Simulator
from foretell.worlds.two_rooms.simulator import FACTORS

DOT, WALL, GROUND = (220, 40, 40), (40, 60, 110), (245, 245, 240)


def rooms(count: int = 1, *, seed: int = 0, **options: Any) -> Simulator:
    made = Simulator(Options(**options), count)
    for i in range(count):
        made.reset(i, np.random.default_rng([seed, i]))
    return made


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def coverage(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, 64, 64) the dot's share of each pixel of black dots on white ground without walls."""
    return 1 - frames.mean(-1) / 255.0


@given(x=st.floats(10.0, 20.0), y=st.floats(10.0, 54.0), radius=st.floats(1.5, 5.0), other=st.floats(1.5, 5.0))
@settings(max_examples=60, deadline=None)
def test_dot_lies_at_its_position_and_covers_its_disc(x: float, y: float, radius: float, other: float) -> None:
    plain = rooms(2, radius=radius, dot=(0, 0, 0), wall=(255, 255, 255), background=(255, 255, 255))
    plain.position = np.array([[x, y], [50.0, 40.0]])
    plain.radius[1] = other
    covered = coverage(plain.render())
    centres = np.arange(64) + 0.5
    for i in range(2):
        total = covered[i].sum()
        centroid = (covered[i].sum(0) @ centres / total, covered[i].sum(1) @ centres / total)
        np.testing.assert_allclose(centroid, plain.position[i], atol=0.1)
        assert total == pytest.approx(np.pi * plain.radius[i] ** 2, rel=0.06)


def test_colours_of_dot_wall_border_door_and_ground() -> None:
    made = rooms()
    made.position = np.array([[12.0, 40.0]])
    (frame,) = made.render()
    assert tuple(frame[40, 12]) == DOT
    for y, x in ((0, 30), (63, 5), (5, 63), (30, 0), (40, 30), (40, 33), (10, 31), (13, 32), (26, 32)):
        assert tuple(frame[y, x]) == WALL
    for y, x in ((2, 2), (61, 61), (40, 29), (40, 34), (14, 31), (25, 32), (20, 32)):
        assert tuple(frame[y, x]) == GROUND


@given(wall=st.floats(20.0, 44.0), door=st.floats(12.0, 52.0))
@settings(max_examples=30, deadline=None)
def test_wall_and_door_lie_where_the_layout_says(wall: float, door: float) -> None:
    made = Simulator(Options(dot=(0, 0, 0), wall=(255, 255, 255), background=(0, 0, 0)), 1)
    made.reset(0, np.random.default_rng(0), layout=(wall, door))
    inner = made.render()[0, 2:62, 2:62, 0] / 255.0
    centres = np.arange(2, 62) + 0.5
    row = inner[int(door + 20 if door < 32 else door - 20)]
    assert row.sum() == pytest.approx(4.0, abs=0.02)
    assert row @ centres / row.sum() == pytest.approx(wall, abs=0.01)
    gap = 1 - inner[:, int(wall) - 2]
    assert gap.sum() == pytest.approx(12.0, abs=0.02)
    assert gap @ centres / gap.sum() == pytest.approx(door, abs=0.02)


@pytest.mark.parametrize("brightness", [0.3, 0.8, 1.0, 1.5, 2.0])
def test_brightness_scales_every_colour_up_to_white(brightness: float) -> None:
    base, lit = rooms(), rooms(brightness=brightness)
    scaled = np.minimum(base.render().astype(float) * brightness, 255)
    # Where the dot's rim is blended, a cut at white before or after blending makes a difference.
    rim = ~np.isin(base.render()[..., 0], (DOT[0], WALL[0], GROUND[0]))
    error = np.abs(lit.render() - scaled)
    assert error[~rim].max() <= 0.5 + brightness / 2
    assert brightness > 1 or error.max() <= 1 + brightness
    assert rim.mean() < 0.02


def test_noise_has_its_spread_and_no_mean() -> None:
    grey = {"dot": (128, 128, 128), "wall": (128, 128, 128), "background": (128, 128, 128)}
    noisy = rooms(4, noise=10.0, **grey)
    away = noisy.render(generators(4)).astype(float) - 128
    assert abs(away.mean()) < 0.2
    assert away.std() == pytest.approx(10.0, rel=0.02)
    assert abs(np.corrcoef(away[0].ravel(), away[1].ravel())[0, 1]) < 0.05


def test_a_room_has_its_own_noise_whatever_its_neighbours() -> None:
    three, one = rooms(3, vary=("noise",)), rooms(1, vary=("noise",))
    assert np.array_equal(three.render(generators(3))[:1], one.render(generators(1)))


def test_noise_without_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="one generator each"):
        rooms(2, noise=1.0).render(generators(1))


def test_rendering_changes_nothing() -> None:
    made = rooms(3, layout="random")
    first = made.render()
    assert np.array_equal(first, made.render())
    first[:] = 0
    assert made.render().max() > 0


class TestFactors:
    """Each factor alone, beside the same rooms with nothing varied."""

    COUNT = 12

    def pair(self, factor: str) -> tuple[Simulator, Simulator]:
        base = rooms(self.COUNT, layout="random", seed=3)
        varied = rooms(self.COUNT, layout="random", seed=3, vary=(factor,))
        assert np.array_equal(base.layout, varied.layout)
        if factor != "dot_size":
            assert np.array_equal(base.position, varied.position)
            assert np.array_equal(base.radius, varied.radius)
        if factor != "gain":
            assert np.array_equal(base.gain, varied.gain)
        return base, varied

    def test_colours(self) -> None:
        base, varied = self.pair("colours")
        before, after = base.render(), varied.render()
        for i in range(self.COUNT):
            picture = after[i].reshape(-1, 3)
            new = {}
            for old in (DOT, WALL, GROUND):
                here = picture[(before[i].reshape(-1, 3) == old).all(1)]
                assert len(here) >= 3
                new[old] = np.median(here, axis=0)
                # A rim of less than half a level looks like what it blends with.
                assert np.abs(here - new[old]).max() <= 3
            gaps = [np.linalg.norm(new[a] - new[b]) for a, b in ((DOT, WALL), (DOT, GROUND), (WALL, GROUND))]
            assert min(gaps) >= 119
        assert len({tuple(f[32, 4]) for f in after}) == self.COUNT

    def test_dot_size(self) -> None:
        base, varied = self.pair("dot_size")
        assert np.unique(varied.radius).size == self.COUNT
        assert varied.radius.min() >= 1.5
        assert varied.radius.max() <= 3.0
        # The same place, up to what the larger dot leaves free.
        assert np.abs(base.position - varied.position).max() <= 3.0
        varied.position = base.position
        before, after = base.render(), varied.render()
        centres = np.arange(64) + 0.5
        for i, (x, y) in enumerate(base.position):
            near = np.hypot(centres[:, None] - y, centres - x) <= 3.6
            assert np.array_equal(before[i][~near], after[i][~near])
            assert not np.array_equal(before[i][near], after[i][near])

    def test_brightness(self) -> None:
        base, varied = self.pair("brightness")
        before, after = base.render().astype(float), varied.render().astype(float)
        factors = after.sum((1, 2, 3)) / before.sum((1, 2, 3))
        assert factors.min() > 0.59
        assert factors.max() < 1.01
        assert np.ptp(factors) > 0.1
        assert np.abs(after - before * factors[:, None, None, None]).max() <= 1.5

    def test_noise(self) -> None:
        base, varied = self.pair("noise")
        clean, noisy = base.render(), varied.render(generators(self.COUNT))
        spreads = (noisy.astype(float) - clean)[:, 40:60, 2:16].std((1, 2, 3))
        assert spreads.max() <= 12.5
        assert np.ptp(spreads) > 3
        assert np.abs((noisy.astype(float) - clean).mean((1, 2, 3))).max() < 2

    def test_gain(self) -> None:
        base, varied = self.pair("gain")
        assert np.array_equal(base.render(), varied.render())
        assert np.unique(varied.gain).size == self.COUNT
        assert varied.gain.min() >= 0.5
        assert varied.gain.max() <= 1.0
        start = np.tile([12.0, 40.0], (self.COUNT, 1))
        for made in (base, varied):
            made.layout[:] = 32.0, 20.0
            made.position = start
            made.step(np.full((self.COUNT, 2), 1.5))
        np.testing.assert_allclose(varied.position - start, (base.position - start) * varied.gain[:, None])

    @pytest.mark.parametrize("factor", FACTORS)
    def test_switching_on_others_leaves_a_factor_as_it_is(self, factor: str) -> None:
        alone = rooms(3, seed=5, vary=(factor,))
        all_ = rooms(3, seed=5, vary=FACTORS)
        for name in {"dot_size": ["radius"], "gain": ["gain"]}.get(factor, [f"_{factor}"]):
            assert np.array_equal(getattr(alone, name), getattr(all_, name))
