"""A patient to treat as a Gymnasium environment, registered as foretell/Glucose-v0."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from foretell.errors import SpecError
from foretell.worlds.glucose.behaviour import SPEC, Options
from foretell.worlds.glucose.risk import risk
from foretell.worlds.glucose.sensor import HIGHEST, LOWEST
from foretell.worlds.glucose.ward import DAY, Ward

Observation = dict[str, NDArray[Any]]


class GlucoseEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Five minutes a step: actions basal in U/h and bolus in U, clipped to what the pump can give; truncated by length.

    Observations: `glucose` mg/dL as the sensor shows it, `there` 0 where it shows none (`glucose` then holds its last
    reading), `meal` g of carbohydrates told of now, `insulin` U delivered in the last step, `clock` sine and cosine of
    the time of day. The reward is minus the risk index of the true glucose. Keyword arguments are the fields of
    `Options`; each episode has the next of its patients. `info` holds `plasma`, the true glucose, and the `patient`.
    """

    metadata = {"render_modes": [], "notice": SPEC.notice}  # noqa: RUF012 - Gymnasium's own name and type

    def __init__(self, **options: Any) -> None:
        self._options = Options(**options)
        most = np.float32(1e4)
        seen: Any = spaces.Dict(
            {
                "glucose": spaces.Box(np.float32(LOWEST), np.float32(HIGHEST), (1,), np.float32),
                "there": spaces.MultiBinary(1),
                "meal": spaces.Box(np.float32(0), most, (1,), np.float32),
                "insulin": spaces.Box(np.float32(0), most, (1,), np.float32),
                "clock": spaces.Box(np.float32(-1), np.float32(1), (2,), np.float32),
            }
        )
        self.observation_space = seen
        chosen = np.array(SPEC.action.chosen)
        low, high = (np.array(bound, np.float32)[chosen] for bound in (SPEC.action.low, SPEC.action.high))
        self.action_space = spaces.Box(low, high, (2,), np.float32)
        self._number = 0
        self._ward: Ward | None = None
        self._shown = np.zeros(1, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The next patient, at rest at midnight; after a seed, the first one again."""
        super().reset(seed=seed)
        if seed is not None:
            self._number = 0
        who = self._options.patients[self._number % len(self._options.patients)]
        self._number += 1
        self._ward = self._options.ward([who], [self.np_random], self._options.days * DAY)
        return self._seen(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Treat for five minutes; SpecError where the action is not two finite numbers."""
        if self._ward is None:
            raise SpecError("glucose: reset expected before the first step")
        found = np.asarray(action, np.float64)
        if found.shape != (2,) or not np.isfinite(found).all():
            raise SpecError(f"glucose: two finite numbers (basal, bolus) expected, got {found.tolist()}")
        self._ward.step(found[None])
        truncated = self._ward.time >= self._options.days * DAY
        return self._seen(), -float(risk(self._ward.glucose)[0]), False, truncated, self._info()

    def _seen(self) -> Observation:
        assert self._ward is not None
        values, there = self._ward.observed()
        if there["glucose"][0]:
            self._shown = values["glucose"][0].astype(np.float32)
        observed = {name: value[0].astype(np.float32) for name, value in values.items()}
        return {**observed, "glucose": self._shown.copy(), "there": there["glucose"].astype(np.int8)}

    def _info(self) -> dict[str, Any]:
        assert self._ward is not None
        return {"plasma": float(self._ward.glucose[0]), "patient": self._ward.patients.names[0]}


if "foretell/Glucose-v0" not in gymnasium.registry:
    gymnasium.register(id="foretell/Glucose-v0", entry_point="foretell.worlds.glucose.environment:GlucoseEnv")
