"""Evaluations that are over in a moment: few steps of every fit, few candidates, few problems' worth of pictures."""

from __future__ import annotations

from functools import partial

import pytest

from foretell.evaluation import suite, trust
from foretell.planning import CEM

PLANNER = CEM(samples=8, iterations=1, elites=2)
CONFIG = {"planner": PLANNER, "replans": 2, "keep": 1, "horizon": 8}


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let evaluations, for the length of a test, fit and plan a little only."""
    monkeypatch.setattr(suite, "fit_inverse_dynamics", partial(suite.fit_inverse_dynamics, steps=5))
    monkeypatch.setattr(suite, "fit_readout", partial(suite.fit_readout, steps=5))
    monkeypatch.setattr(suite, "EvaluationConfig", partial(suite.EvaluationConfig, **CONFIG))
    monkeypatch.setattr(trust, "fit", partial(trust.fit, steps=5))
