"""The readout head: units inside, sizes checked, the same again from its description."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foretell.errors import SpecError
from foretell.model.readout import Readout


def head(**settings: Any) -> Readout:
    torch.manual_seed(0)
    given = {"channel": "place", "fields": ("x", "y"), "units": ("m", "m"), "latent": 3, "width": 8}
    return Readout(**{**given, **settings})


def test_values_are_in_their_units() -> None:
    """The head's output times the spread plus the mean of what it was fitted on."""
    latents, values = torch.randn(50, 2, 3) * 7 + 4, torch.randn(50, 2) * torch.tensor([3.0, 900.0]) - 40
    plain, made = head(tokens=2), head(tokens=2)
    made.normalise_by(latents, values)
    flat = latents.flatten(1)
    spread, mean = flat.std(0, correction=0), flat.mean(0)
    expected = plain(((flat - mean) / spread).unflatten(1, (2, 3))) * values.std(0, correction=0) + values.mean(0)
    torch.testing.assert_close(made(latents), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(made.normalised(latents), plain(((flat - mean) / spread).unflatten(1, (2, 3))))


def test_constant_latents_and_values_do_not_explode() -> None:
    made = head()
    made.normalise_by(torch.ones(9, 1, 3), torch.full((9, 2), 5.0))
    torch.testing.assert_close(made(torch.ones(4, 1, 3)), torch.full((4, 2), 5.0))


@pytest.mark.parametrize("shape", [(1, 3), (7, 1, 3), (2, 4, 5, 1, 3)])
def test_reads_out_any_number_of_latents(shape: tuple[int, ...]) -> None:
    made, latents = head(), torch.randn(shape)
    found = made(latents)
    assert found.shape == (*shape[:-2], 2)
    torch.testing.assert_close(found.reshape(-1, 2), made(latents.reshape(-1, 1, 3)))


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 4), (4, 2, 3)])
def test_latents_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=rf"^readout place: latents \(\.\.\., 1, 3\) expected, got \({shape[0]}, "):
        head()(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong", [{"fields": ()}, {"units": ("m",)}, {"latent": 0}, {"tokens": 1.5}, {"width": "8"}, {"width": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^readout place: [^\n]+$"):
        head(**wrong)
    description = {**head().to_json(), **{k: list(v) if isinstance(v, tuple) else v for k, v in wrong.items()}}
    with pytest.raises(SpecError, match=r"^readout place: [^\n]+$"):
        Readout.from_json(description)


@pytest.mark.parametrize("name", ["channel", "fields", "units", "latent", "tokens", "width"])
def test_an_incomplete_description_is_refused(name: str) -> None:
    description = head().to_json()
    del description[name]
    with pytest.raises(SpecError, match=f"not a readout: KeyError.*{name}"):
        Readout.from_json(description)
