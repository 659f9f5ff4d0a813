"""How dangerous a level of glucose is, and what clinicians count of a day."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LOWEST, LOW, HIGH = 54.0, 70.0, 180.0
"""mg/dL: below the first hypoglycaemia is serious, between the others is the range aimed at (Battelino et al. 2019,
"Clinical targets for continuous glucose monitoring data interpretation", Diabetes Care 42:1593)."""


def risk(glucose: Array) -> Array:
    """0 at 112.5 mg/dL, rising to 100 towards 20 and 600 (Kovatchev et al. 1997, "Symmetrization of the blood glucose
    measurement scale and its applications", Diabetes Care 20:1655). Any shape, mg/dL.
    """
    scaled = 1.509 * (np.log(np.clip(glucose, 1.0, None)) ** 1.084 - 5.381)
    return np.asarray(10 * scaled**2)


def shares(glucose: Array) -> dict[str, float]:
    """Of true or sensed levels in mg/dL, any shape: the shares of time in range (`tir`), `below_70`, `below_54` and
    `above_180`, and the mean `risk`.
    """
    return {
        "tir": float(((glucose >= LOW) & (glucose <= HIGH)).mean()),
        "below_70": float((glucose < LOW).mean()),
        "below_54": float((glucose < LOWEST).mean()),
        "above_180": float((glucose > HIGH).mean()),
        "risk": float(risk(glucose).mean()),
    }
