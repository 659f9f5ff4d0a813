"""Local features told from latents: targets stay as they are, missing images count for nothing, pictures are told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foretell.model.world_model import ModelConfig, WorldModel
from foretell.objective.places import Places
from foretell.spec import ActionSpec, Channel, Spec

SPEC = Spec(
    observations=(
        Channel(name="camera", kind="image", shape=(32, 48, 3)),
        Channel(name="state", kind="vector", shape=(2,), fields=("x", "y"), units=("", "")),
    ),
    action=ActionSpec(names=("push",), units=("",), low=(-1.0,), high=(1.0,)),
    hz=10.0,
)


def made(seed: int = 0) -> tuple[WorldModel, Places]:
    torch.manual_seed(seed)
    model = WorldModel(SPEC, ModelConfig(latent=6, stem=4, features=16, width=16))
    return model, Places(model, width=32)


def squares(at: Tensor) -> Tensor:
    """(M, 3, 32, 48): a bright square at each of `at` (M, 2), pixels."""
    pictures = torch.zeros(len(at), 3, 32, 48)
    for picture, (row, column) in zip(pictures, at.tolist(), strict=True):
        picture[:, row : row + 8, column : column + 8] = 2.0
    return pictures


def seen(pictures: Tensor, valid: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    count = len(pictures)
    there = torch.ones(count, dtype=torch.bool) if valid is None else valid
    return [(pictures, there), (torch.zeros(count, 2), torch.ones(count, 2, dtype=torch.bool))]


def places_of(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (count,), generator=generator) for n in (24, 40)], dim=1)


def silent(places: Places) -> Places:
    for parameter in places.heads.parameters():
        nn.init.zeros_(parameter)
    return places


def test_a_head_that_tells_nothing_is_wrong_by_one() -> None:
    _, places = made()
    error = silent(places)(seen(squares(places_of(64))), torch.zeros(64, 6))
    assert error.item() == pytest.approx(1.0, abs=1e-3)


def test_targets_are_not_trained_and_do_not_follow_the_encoder() -> None:
    model, places = made()
    assert not any(p.requires_grad for p in places.early.parameters())
    latents = torch.randn(16, 6, requires_grad=True)
    pictures = squares(places_of(16))
    before = places(seen(pictures), latents)
    before.backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert torch.equal(places(seen(pictures), latents), before)


def test_missing_images_count_for_nothing() -> None:
    _, places = made()
    pictures, latents = squares(places_of(12)), torch.randn(12, 6)
    valid = torch.arange(12) % 3 > 0
    alone = places(seen(pictures[valid]), latents[valid])
    other = torch.where(valid[:, None, None, None], pictures, torch.randn_like(pictures))
    assert places(seen(other, valid), latents).item() == pytest.approx(alone.item(), rel=1e-4)
    assert places(seen(pictures, torch.zeros(12, dtype=torch.bool)), latents).item() == 0


def test_pictures_that_never_change_ask_for_nothing() -> None:
    _, places = made()
    error = silent(places)(seen(squares(torch.tensor([[3, 5]] * 8))), torch.zeros(8, 6))
    assert error.item() == 0


def test_a_latent_that_holds_where_things_are_tells_more_than_another() -> None:
    _, places = made()
    at = places_of(256)
    holds = torch.cat([at / 20.0 - 1.0, torch.zeros(256, 4)], dim=1)
    optimiser = torch.optim.Adam(places.heads.parameters(), lr=1e-2)
    for _ in range(400):
        optimiser.zero_grad()
        places(seen(squares(at)), holds).backward()
        optimiser.step()
    fresh = places_of(128, seed=1)
    there = torch.cat([fresh / 20.0 - 1.0, torch.zeros(128, 4)], dim=1)
    told = places(seen(squares(fresh)), there).item()
    assert told < 0.75
    assert places(seen(squares(fresh)), there[torch.randperm(128)]).item() > 1.5 * told
