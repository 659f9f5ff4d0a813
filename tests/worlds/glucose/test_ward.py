"""Everyday life on the ward: meals, what is told of them, the sensor, the usual treatment."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import SpecError
from foretell.worlds.glucose.behaviour import CHILDREN, HELD_OUT, TRAINING, BasalBolus, Options, logged
from foretell.worlds.glucose.patients import names, patients
from foretell.worlds.glucose.sensor import HIGHEST, LOWEST, Sensor
from foretell.worlds.glucose.ward import DAY, Habits, Ward

SHORT = Options(patients=("adult#001", "adolescent#002", "adult#003"), days=1)


def streams(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(count)]


def test_noise_is_correlated_over_a_quarter_of_an_hour_and_scales() -> None:
    noise = Sensor(noise=1.0).noises(streams(200), 4 * DAY, 5)
    assert noise.shape == (200, 4 * DAY)
    every = noise[:, ::3]
    lag = np.corrcoef(every[:, :-1].ravel(), every[:, 1:].ravel())[0, 1]
    assert lag == pytest.approx(0.7, abs=0.03)
    # Johnson's unbounded distribution: a standard normal through asinh.
    normal = -0.5444 + 1.6898 * np.arcsinh((every + 5.47) / 15.9574)
    assert normal.mean() == pytest.approx(0, abs=0.05)
    assert normal.std() == pytest.approx(np.sqrt(0.49 / 0.51), rel=0.05)
    half = Sensor(noise=0.5).noises(streams(200), 4 * DAY, 5)
    assert np.allclose(half, noise / 2)
    # Between the quarters of an hour it runs straight.
    assert np.allclose(noise[:, 1], noise[:, 0] + (noise[:, 3] - noise[:, 0]) / 3)


def test_readings_get_lost_in_stretches_and_stay_within_what_a_sensor_shows() -> None:
    there = Sensor(lost=0.01, stretch=5.0).there(streams(100), 3000)
    assert there[:, 0].all()
    lost = 1 - there.mean()
    # Stretches of mean 5 begin at 1% of the readings and may overlap.
    assert lost == pytest.approx(1 - (1 - 0.01) ** 5, abs=0.01)
    assert Sensor(lost=0.0).there(streams(3), 100).all()
    assert Sensor(bias=20.0).reads(np.array([100.0]), np.array([5.0])).tolist() == [125.0]
    assert Sensor().reads(np.array([0.0, 1e4]), np.zeros(2)).tolist() == [LOWEST, HIGHEST]


@pytest.mark.parametrize("wrong", [{"noise": -1}, {"lost": 1.5}, {"stretch": 0.5}, {"bias": float("nan")}])
def test_a_sensor_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="glucose: "):
        Sensor(**wrong)  # type: ignore[arg-type]


def test_meals_are_told_of_with_errors_and_boluses_asked_for_late_or_not_at_all() -> None:
    who = names("adult") * 20
    days = 5
    ward = Ward(patients(who), streams(len(who)), days * DAY)
    eaten, told = ward.meals, ward.told
    # Three main meals of 95% and three snacks of 30%.
    assert (eaten > 0).sum() / len(who) / days == pytest.approx(3.75, rel=0.05)
    weight = np.mean((patients(who)["BW"] / 70) ** 0.75)
    assert eaten.sum() / len(who) / days == pytest.approx(0.95 * 195 * weight + 0.3 * 30 * weight, rel=0.06)
    asked = ward.asked
    assert (told > 0).sum() / (eaten > 0).sum() == pytest.approx(0.95, abs=0.02)
    assert not told[eaten == 0].any()
    both = told > 0
    assert np.std(told[both] / eaten[both] - 1) == pytest.approx(0.2, abs=0.02)
    # A tenth of the boluses are missed, 15% of the others late: for what was told then.
    assert (asked > 0).sum() / (eaten > 0).sum() == pytest.approx(0.9, abs=0.02)
    on_time = both & (asked > 0)
    assert on_time.sum() / (asked > 0).sum() == pytest.approx(0.85, abs=0.02)
    # Seldom a late one comes with another's.
    assert np.mean(asked[on_time] == told[on_time]) > 0.99
    late = np.argwhere((asked > 0) & ~both)
    assert np.mean([asked[i, t] in told[i, t - 9 : t - 2] for i, t in late]) > 0.99
    honest = Ward(patients(who), streams(len(who)), DAY, habits=Habits(counting=0, untold=0, missed=0, late=0))
    assert np.array_equal(honest.meals, honest.told)
    assert np.array_equal(honest.meals, honest.asked)
    # Habits change what is told, not what is eaten.
    assert np.array_equal(honest.meals[:, :DAY], Ward(patients(who), streams(len(who)), DAY).meals[:, :DAY])


def test_life_is_the_same_whatever_treatment_is_given() -> None:
    who = ("adult#001", "adult#004")
    one, other = (Ward(patients(who), streams(2), 50) for _ in range(2))
    for t in range(50):
        one.step(np.array([[1.0, 0.0], [1.0, 0.0]]))
        other.step(np.array([[0.0, 2.0 * (t == 3)], [3.0, 0.0]]))
    assert np.array_equal(one.meals, other.meals)
    assert one.observed()[1]["glucose"].tolist() == other.observed()[1]["glucose"].tolist()
    assert not np.allclose(one.glucose, other.glucose)
    branch = one.copied()
    assert np.array_equal(branch.glucose, one.glucose)


def test_the_pump_gives_what_it_can_and_what_it_gave_is_seen() -> None:
    ward = Ward(patients(["adult#001"]), streams(1), 10)
    ward.step(np.array([[1.2, 3.0]]))
    assert ward.observed()[0]["insulin"].item() == pytest.approx(1.2 / 12 + 3.0)
    ward.step(np.array([[-5.0, 1e6]]))
    assert ward.observed()[0]["insulin"].item() == pytest.approx(30.0)


def test_episodes_fit_the_spec_and_depend_on_seed_and_number_alone() -> None:
    few, more = list(logged(SHORT, 3, seed=4)), list(logged(SHORT, 5, seed=4))
    for one, other in zip(few, more, strict=False):
        one.check(SHORT.spec, "glucose")
        assert len(one) == DAY + 1
        for name in one.observations:
            assert np.allclose(one.observations[name], other.observations[name], atol=1e-4)
    other_seed = next(logged(SHORT, 1, seed=5))
    assert not np.array_equal(other_seed.observations["meal"], few[0].observations["meal"])


def test_confounded_logs_keep_the_basal_rate_and_cover_what_is_told() -> None:
    for i, episode in enumerate(logged(SHORT, 3, seed=1)):
        person = patients([SHORT.patients[i]])
        basal, bolus, told = episode.actions.T
        known = episode.observations["glucose"][:-1, 0]
        seen = episode.valid["glucose"][:-1]
        assert set(np.round(basal / person.basal, 4)) <= {0.0, 1.0}
        assert (basal[seen & (known < 80)] == 0).all()
        assert (basal[seen & (known >= 80)] > 0).all()
        assert np.array_equal(told, episode.observations["meal"][:-1, 0])
        on_time = (bolus > 0) & (told > 0)
        assert on_time.any()
        ratio = person["carb_ratio"].item()
        assert (bolus[on_time] >= told[on_time] / ratio - 1e-4).all()


def test_randomised_logs_multiply_the_basal_rate_every_two_hours_whatever_is_seen() -> None:
    options = Options(patients=("adult#005",), logs="randomised", days=2)
    factors = []
    for episode in logged(options, 6, seed=2):
        basal = episode.actions[:, 0] / patients(["adult#005"]).basal
        for stretch in basal.reshape(-1, 24):
            given = {float(np.round(x, 3)) for x in stretch}
            # Suspended or the stretch's own factor.
            assert len(given - {0.0}) <= 1
            factors += sorted(given - {0.0})
    assert set(factors) == {0.5, 1.0, 1.5, 2.0}


def test_the_usual_treatment_keeps_most_readings_in_range() -> None:
    episodes = list(logged(Options(days=2), 42, seed=0))
    glucose = np.concatenate([e.observations["plasma"][:, 0] for e in episodes])
    assert 0.6 < ((glucose >= 70) & (glucose <= 180)).mean() < 0.95
    assert (glucose < 70).mean() < 0.1


def test_patients_are_split_into_groups_that_share_none() -> None:
    assert (len(TRAINING), len(HELD_OUT), len(CHILDREN)) == (14, 6, 10)
    assert not set(TRAINING) & set(HELD_OUT)
    assert set(TRAINING) | set(HELD_OUT) | set(CHILDREN) == set(names())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"patients": ()}, "at least one patient"),
        ({"patients": ("adult#099",)}, "no patient 'adult#099'"),
        ({"logs": "both"}, "logs must be"),
        ({"days": 0}, "days must be"),
        ({"untold": 1.2}, "untold must be a share"),
        ({"sensitivity": 0.0}, "sensitivity must be above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Options(**wrong)  # type: ignore[arg-type]


def test_corrections_wait_for_insulin_that_still_works() -> None:
    ward = Ward(patients(["adult#001"]), streams(1), 10)
    ward.asked[:] = 30.0
    policy = BasalBolus(ward)
    high = {"glucose": np.array([[300.0]]), "meal": np.array([[30.0]])}
    there = {"glucose": np.array([True])}
    ratio, factor = (ward.patients[k].item() for k in ("carb_ratio", "correction_factor"))
    first, second = (policy.act(high, there, np.ones(1))[0, 1] for _ in range(2))
    assert first == pytest.approx(30 / ratio + 160 / factor)
    assert second == pytest.approx(30 / ratio)
