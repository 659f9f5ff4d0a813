"""Abstention: verdicts become advice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foretell.errors import SpecError
from foretell.planning.guard import Planned
from foretell.trust.monitor import Kind, Verdict, Watched
from foretell.trust.policy import Abstention
from foretell.trust.support import Leaves


class Script:
    """A monitor that finds what it is told to, step by step."""

    reach, level = 3, 0.03

    def __init__(self, *kinds: Kind | None, p: float = 0.5) -> None:
        self.kinds, self.p = kinds, p

    def judge(self, state: Watched, *shown: Any) -> tuple[Verdict, Watched]:
        kind = self.kinds[state.step]
        verdict = Verdict(
            step=state.step,
            surprise=self.p,
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
        advice, state = policy.advise({"x": torch.zeros(1)}, {}, torch.zeros(1) if t else None, None, state)
        found.append(advice.mode)
    return found


def test_hands_over_at_once_and_for_some_steps_after() -> None:
    script = Script(None, "surprise", None, None, None, "missing", None)
    assert modes(Abstention(script, careful=1, rest=2)) == [  # type: ignore[arg-type]
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
    found = modes(Abstention(script, careful=1, patience=2, rest=0))  # type: ignore[arg-type]
    assert found == ["slow_down", "slow_down", "hand_over", "carry_on", "slow_down"]


def test_it_begins_with_care_and_again_after_handing_over_for_twice_as_long() -> None:
    surprised = {4, 10}
    script = Script(*("surprise" if t in surprised else None for t in range(23)))
    policy = Abstention(script, careful=0.25, rest=2)  # type: ignore[arg-type]
    state, shares = policy.start(), []
    for t in range(23):
        advice, state = policy.advise({"x": torch.zeros(1)}, {}, torch.zeros(1) if t else None, None, state)
        shares.append({"carry_on": 1.0, "hand_over": 0.0}.get(advice.mode, advice.share))
        if advice.share is not None:
            assert advice.reasons == ("what the first actions lead to has not been judged yet",)
    ready, over, care = [1.0], [0.0], [0.25] * Script.reach
    assert shares == care + ready + over * 2 + care + ready + over * 4 + care + ready * 6


@pytest.mark.parametrize("kind", ["surprise", "novelty"])
@pytest.mark.parametrize("when", range(1, Script.reach + 2))
def test_it_stays_handed_over_where_what_careful_actions_led_to_surprises(kind: Kind, when: int) -> None:
    script = Script(*(kind if t == when else None for t in range(20)))
    policy = Abstention(script, careful=0.25, rest=2)  # type: ignore[arg-type]
    state, found = policy.start(), []
    for t in range(20):
        advice, state = policy.advise({"x": torch.zeros(1)}, {}, torch.zeros(1) if t else None, None, state)
        found.append(advice)
    assert found[when].mode == "hand_over"
    stays = kind == "surprise" and when <= Script.reach
    assert all(a.mode == "hand_over" for a in found[when:]) == stays
    if stays:
        assert found[-1].reasons == ("careful actions did not do what was predicted",)


@pytest.mark.parametrize(("p", "fails"), [(0.0099, True), (0.0101, False)])
def test_careful_actions_are_judged_at_the_level_for_each_trial(p: float, fails: bool) -> None:
    script = Script(*[None] * 6, p=p)
    expected = ["slow_down"] + ["hand_over"] * 5 if fails else ["slow_down"] * 3 + ["carry_on"] * 3
    assert modes(Abstention(script, careful=0.25, rest=2)) == expected  # type: ignore[arg-type]
    assert modes(Abstention(script, careful=1, rest=2)) == ["carry_on"] * 6  # type: ignore[arg-type]


class Scripted:
    """Plan support that finds plans of positive actions to leave at step 3."""

    def limits(self, level: float) -> None:
        pass

    def leaves(self, latents: Tensor, plan: Tensor, *, level: float) -> tuple[Leaves, ...]:
        return (Leaves(3, "actions", 0.004),) if float(plan.max()) > 0 else ()


def test_a_plan_that_leaves_training_is_followed_with_care_until_the_next() -> None:
    plans = [Planned(torch.zeros(2, 1, 1), torch.full((1, 1), a)) for a in (0.0, 1.0, 0.0)]
    for leaving in ("slow_down", "hand_over", "carry_on"):
        script = Script(None, None, None, None, "missing")
        policy = Abstention(script, careful=1, support=Scripted(), leaving=leaving)  # type: ignore[arg-type]
        state, found = policy.start(), []
        for t, plan in enumerate((plans[0], plans[1], None, plans[2], plans[1])):
            shown = {"x": torch.zeros(1)}
            advice, state = policy.advise(shown, {}, torch.zeros(1) if t else None, plan, state)
            found.append(advice)
        worst = "slow_down" if leaving == "carry_on" else leaving
        assert [a.mode for a in found] == ["carry_on", leaving, leaving, "carry_on", worst]
        assert found[2].reasons == ("plan leaves the actions seen in training at step 3 (p = 0.004)",)
        assert found[3].reasons == ()
        assert found[4].reasons[0] == "missing"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(SpecError, match="leaving must be one of carry_on, slow_down, hand_over, got 'stop'"):
        Abstention(Script(None), leaving="stop")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"patience": -1}, {"rest": -1}])
def test_numbers_below_zero_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=f"abstention: {next(iter(wrong))} of at least 0"):
        Abstention(Script(None), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SpecError, match="abstention: careful must be a share above 0, at most 1"):
        Abstention(Script(None), careful=share)  # type: ignore[arg-type]
