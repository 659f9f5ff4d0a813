"""The benchmark of robots prints the rows that it promises, of every model that ships."""

from __future__ import annotations

import importlib.util

import pytest

from tests.benchmarks.quick import quick

# Looked for, not imported: whoever imports it first decides what it draws with.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="pip install 'foretell[robots]'")


@pytest.mark.slow
def test_quick_run_of_a_model_that_ships() -> None:
    found = quick("robots", "--world", "two_rooms_random")
    rows = {row["id"]: row for row in found["rows"]}
    assert set(rows) == {
        *(f"robots.two_rooms_random.o{offset}.success" for offset in (25, 50, 100)),
        "robots.two_rooms_random.plan_ms",
        "robots.two_rooms_random.per_second",
        "robots.recover.two_rooms_random",
    }
    row = rows["robots.two_rooms_random.o100.success"]
    assert row["n"] == 3
    assert {"random", "straight", "inverse_dynamics", "cloning"} <= row["baselines"].keys()
    assert rows["robots.recover.two_rooms_random"]["baselines"].keys() == {"undisturbed", "push", "goal"}
    assert rows["robots.two_rooms_random.per_second"]["baselines"]["lewm_planner_plan_ms"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "prefix", "expected"),
    [
        ("reacher", "robots.adapt.shift", {"frozen", "online", "few_episodes"}),
        ("pointmaze_medium", "robots.realtime", {"misses"}),
    ],
)
def test_quick_rows_of_adaptation_and_real_time(world: str, prefix: str, expected: set[str]) -> None:
    found = quick("robots", "--world", world, "--only", prefix)
    assert {row["id"] for row in found["rows"]} == {f"{prefix}.{what}" for what in expected}
