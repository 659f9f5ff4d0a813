"""Treatment: doctors do as they say, and a planner tries nothing that logs do not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretell.evaluation.treatment import ERRORS, FACTORS, PID, SHARES, Nothing, Planned, Usual, groups, treat
from foretell.model.world_model import ModelConfig, WorldModel
from foretell.worlds.glucose import Options, Ward, shares
from foretell.worlds.glucose.behaviour import SPEC
from foretell.worlds.glucose.ward import DAY

WHO = ("adult#001", "adolescent#001")


def ward(seed: int = 0, steps: int = DAY) -> Ward:
    care = Options(patients=WHO, missed=0.0, late=0.0)
    return care.ward(list(WHO), [np.random.default_rng([seed, i]) for i in range(2)], steps)


class Linear(WorldModel):
    """Glucose stays, but for what is given over a plan: `per_unit` mg/dL for each unit of insulin, basal or not."""

    per_unit, basal = 0.0, 1.0

    def rollout(self, context: torch.Tensor, past: torch.Tensor, plan: torch.Tensor) -> torch.Tensor:
        raw = plan.view(*plan.shape[:3], self.config.block, 3)
        units = (self.basal * raw[..., 0] * 5 / 60 + raw[..., 1]).sum(-1).cumsum(-1)
        latents = context[:, -1, None, None].expand(*plan.shape[:3], -1, -1).clone()
        latents[..., 0, 0] += self.per_unit * units / float(self.get_buffer("scale_glucose"))
        return latents


def linear(per_unit: float, basal: float = 1.0) -> Linear:
    torch.manual_seed(0)
    sizes = ModelConfig(latent=3, block=6, look=1, grounded=("glucose",), features=8, width=8, depth=1)
    made = Linear(SPEC, sizes).eval()
    made.per_unit, made.basal = per_unit, basal
    return made


def test_without_insulin_glucose_rises_and_the_usual_treatment_keeps_it_lower() -> None:
    found = {d.__name__: shares(treat(ward(), d, DAY)) for d in (Nothing, Usual)}
    assert found["Nothing"]["above_180"] > 0.8
    assert found["Usual"]["tir"] > 0.5
    assert groups(WHO).tolist() == ["adult", "adolescent"]


def test_a_pid_controller_without_gains_is_the_usual_treatment() -> None:
    still = treat(ward(), lambda w: PID(w, proportional=0, integral=0, derivative=0), DAY // 2)
    assert np.array_equal(still, treat(ward(), Usual, DAY // 2))
    acting = PID(ward(), proportional=0.01, integral=0.0, derivative=0.5)
    there = {"glucose": np.ones(2, np.bool_)}
    seen = {"meal": np.zeros((2, 1))}
    one = acting.act({**seen, "glucose": np.array([[120.0], [170.0]])}, there)[:, 0]
    assert one / acting.rules.basal == pytest.approx([1.0, 1.5])
    two = acting.act({**seen, "glucose": np.array([[130.0], [160.0]])}, there)[:, 0]
    # 10 above and rising by 2 a minute; 40 above and falling as fast.
    assert two / acting.rules.basal == pytest.approx([1 + 0.1 + 1.0, 1 + 0.4 - 1.0])
    assert not acting.act({**seen, "glucose": np.full((2, 1), 79.0)}, there)[:, 0].any()


@pytest.mark.parametrize(
    ("per_unit", "glucose", "factor"), [(-20.0, 300.0, 2.0), (-20.0, 95.0, 0.0), (0.0, 300.0, 1.0)]
)
def test_the_basal_rate_is_the_multiple_that_the_model_expects_to_do_best(
    per_unit: float, glucose: float, factor: float
) -> None:
    life = ward()
    doctor = Planned(life, linear(per_unit))
    observed = {"glucose": np.full((2, 1), glucose), "meal": np.zeros((2, 1)), "insulin": np.zeros((2, 1))}
    observed["clock"] = np.zeros((2, 2))
    given = doctor.act(observed, {"glucose": np.ones(2, np.bool_)})
    assert given[:, 0] / doctor.rules.basal == pytest.approx(np.full(2, factor), abs=1e-5)
    assert factor in FACTORS


def test_a_bolus_that_would_do_harm_waits_and_is_given_when_it_no_longer_would() -> None:
    life = ward()
    doctor = Planned(life, linear(-20.0, basal=0.0))
    life.asked[:, 0] = 50.0
    there = {"glucose": np.ones(2, np.bool_)}

    def act(glucose: float) -> np.ndarray:
        rest = {"meal": np.zeros((2, 1)), "insulin": np.zeros((2, 1)), "clock": np.zeros((2, 2))}
        found = doctor.act({"glucose": np.full((2, 1), glucose), **rest}, there)
        life.time += 1
        return np.asarray(found[:, 1])

    prescribed = 50.0 / doctor.rules.ratio
    assert not act(120.0).any()
    assert not act(120.0).any()
    assert act(300.0) == pytest.approx(prescribed, rel=1e-5)
    assert not act(300.0).any()


def test_less_of_a_bolus_is_given_where_all_of_it_might_do_harm() -> None:
    life = ward()
    doctor = Planned(life, linear(-20.0, basal=0.0))
    life.asked[:, 0] = 2.4 * doctor.rules.ratio
    rest = {"meal": np.zeros((2, 1)), "insulin": np.zeros((2, 1)), "clock": np.zeros((2, 2))}
    # Below the level from which on the usual rules add a correction.
    given = doctor.act({"glucose": np.full((2, 1), 149.0), **rest}, {"glucose": np.ones(2, np.bool_)})
    # 2.4 U lower glucose by 48 mg/dL, and by half as much again where a patient answers strongly.
    surely = 149.0 - np.array(SHARES) * 48 * (1 + 1.64 * 0.3) - 1.25 * ERRORS[-1]
    assert given[:, 1] / 2.4 == pytest.approx(np.full(2, max(np.array(SHARES)[surely >= 75])), rel=1e-5)


def test_a_patient_who_answers_twice_as_strongly_is_found_out() -> None:
    life = ward()
    doctor = Planned(life, linear(-10.0))
    glucose, there = np.full((2, 1), 400.0), {"glucose": np.ones(2, np.bool_)}
    rest = {"meal": np.zeros((2, 1)), "insulin": np.zeros((2, 1)), "clock": np.zeros((2, 2))}
    usual = doctor.rules.basal * 5 / 60
    life.asked[:, 6] = 8.0 * doctor.rules.ratio
    for _ in range(60):
        given = doctor.act({"glucose": glucose, **rest}, there)
        # What the basal rate does is as expected; the second patient answers to boluses twice as strongly.
        glucose = glucose - 10.0 * (given[:, :1] * 5 / 60 + given[:, 1:] * np.array([[1.0], [2.0]]))
        life.time += 1
    assert (usual > 0).all()
    first, second = doctor.response.mean.tolist()
    assert first == pytest.approx(1.0, abs=0.05)
    assert second > 1.3
    assert (doctor.response.variance < 0.3**2).all()
    assert (doctor.margin.current[1] > doctor.margin.current[0]).any()


def test_nothing_is_given_while_glucose_is_low_whatever_is_planned() -> None:
    doctor = Planned(ward(), linear(20.0))
    rest = {"meal": np.zeros((2, 1)), "insulin": np.zeros((2, 1)), "clock": np.zeros((2, 2))}
    given = doctor.act({"glucose": np.full((2, 1), 85.0), **rest}, {"glucose": np.ones(2, np.bool_)})
    assert not given[:, 0].any()
