"""The two-rooms benchmark runs, and prints the rows that it promises."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick import quick


@pytest.mark.slow
def test_quick_run_prints_success_beside_its_floors() -> None:
    found = quick("two_rooms", "--only", "two_rooms.fixed")
    assert found["quick"] is True
    (row,) = found["rows"]
    assert (row["id"], row["n"]) == ("two_rooms.fixed.success", 3)
    assert 0 <= row["interval"][0] <= row["value"] <= row["interval"][1] <= 1
    assert {"random", "straight", "inverse_dynamics", "training_seconds"} <= row["baselines"].keys()
