"""Pictures of another size or order are refused, and what to do is said."""

from __future__ import annotations

import pytest
import torch

from foretell.errors import SpecError
from foretell.planning.live import checked
from foretell.spec import Channel, Spec

SPEC = Spec(
    observations=(
        Channel(name="camera", kind="image", shape=(64, 48, 3)),
        Channel(name="arm", kind="vector", shape=(2,)),
    ),
    hz=10.0,
)
ARM = torch.zeros(1, 2)


def picture(*shape: int) -> torch.Tensor:
    return torch.zeros(1, *shape, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((3, 64, 48), "; colours stand last: move that axis to the end"),
        ((96, 96, 3), "; resize it to 64 x 48, as the model was trained with"),
        ((48, 64, 3), "; resize it to 64 x 48, as the model was trained with"),
        ((64, 48, 1), ""),
        ((64, 48), ""),
    ],
)
def test_a_picture_of_another_shape(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        checked(SPEC, {"camera": picture(*shape), "arm": ARM})
    text = (
        f"observations: channel camera of shape (episodes, 64, 48, 3) expected, got (1, {', '.join(map(str, shape))})"
    )
    assert str(caught.value) == text + hint


def test_a_vector_of_another_shape_is_told_plainly() -> None:
    with pytest.raises(SpecError, match=r"channel arm of shape \(1, 2\) expected, got \(1, 3\)$"):
        checked(SPEC, {"camera": picture(64, 48, 3), "arm": torch.zeros(1, 3)})
