"""Abstention: verdicts become advice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foretell.errors import SpecError
from foretell.trust.monitor import Kind, Verdict, Watched
from foretell.trust.policy import Abstention


class Script:
    """A monitor that finds what it is told to, step by step."""

    def __init__(self, *kinds: Kind | None) -> None:
        self.kinds = kinds

    def judge(self, state: Watched, *shown: Any) -> tuple[Verdict, Watched]:
        kind = self.kinds[state.step]
        verdict = Verdict(
            step=state.step,
            surprise=0.5,
            novelty={},
            trusted=kind is None,
            alarm=False,
            kind=kind,
            reasons=(kind,) if kind else (),
        )
        return verdict, Watched(step=state.step + 1)


def modes(policy: Abstention) -> list[str]:
    state, found = policy.start(), []
    for t in range(len(policy.monitor.kinds)):  # type: ignore[attr-defined]
        advice, state = policy.advise({"x": torch.zeros(1)}, {}, torch.zeros(1) if t else None, state)
        found.append(advice.mode)
    return found


def test_hands_over_at_once_and_for_some_steps_after() -> None:
    script = Script(None, "surprise", None, None, None, "missing", None)
    assert modes(Abstention(script, rest=2)) == [  # type: ignore[arg-type]
        "carry_on",
        "hand_over",
        "hand_over",
        "carry_on",
        "carry_on",
        "slow_down",
        "carry_on",
    ]


def test_patience_slows_down_first() -> None:
    script = Script("novelty", "novelty", "novelty", None, "surprise")
    found = modes(Abstention(script, patience=2, rest=0))  # type: ignore[arg-type]
    assert found == ["slow_down", "slow_down", "hand_over", "carry_on", "slow_down"]


@pytest.mark.parametrize("wrong", [{"patience": -1}, {"rest": -1}])
def test_numbers_below_zero_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=f"abstention: {next(iter(wrong))} of at least 0"):
        Abstention(Script(None), **wrong)  # type: ignore[arg-type]
