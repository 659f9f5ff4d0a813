"""The controller that is evaluated."""

from __future__ import annotations

import torch

from foretell.evaluation.suite import IMITATION, EvaluationConfig, controller_for
from foretell.model.imitation import Imitation, ImitationConfig
from tests.model.samples import ACTION, SPEC, model, observed


def test_its_search_begins_among_actions_as_large_as_recorded_ones_or_its_bounds() -> None:
    made = model(SPEC)
    half = (torch.tensor(ACTION.high) - torch.tensor(ACTION.low)) / 2
    assert half.isfinite().any()
    goal = {n: x[:, 0] for n, x in observed(SPEC, batch=1, steps=1, seed=0).items()}
    for share in (0.1, 3.0):
        spread = share * torch.where(half.isfinite(), half, 1.0)
        made.get_buffer("scale_action").copy_(spread)
        state = controller_for(made, {}, EvaluationConfig()).start(goal, generator=torch.Generator())
        torch.testing.assert_close(state.search.scale, torch.minimum(2 * spread, half).repeat(made.config.block))


def test_it_begins_with_what_is_imitated_if_it_is_to_and_there_is_something() -> None:
    made = model(SPEC)
    sizes = {"latent": made.config.latent, "action": SPEC.action.size, "width": 8}
    parts = {f"{IMITATION}.inverse_dynamics": Imitation(ImitationConfig(ahead=made.config.block, **sizes))}
    assert controller_for(made, parts, EvaluationConfig()).propose is None
    assert controller_for(made, {}, EvaluationConfig(imitate=True)).propose is None
    assert controller_for(made, parts, EvaluationConfig(imitate=True)).propose is not None
