"""The trust benchmark runs: one row, small."""

from __future__ import annotations

import pytest

from tests.benchmarks.quick import quick


@pytest.mark.slow
def test_a_row_is_printed_under_its_id() -> None:
    pytest.importorskip("sklearn", reason="pip install -e '.[dev]'")
    (row,) = quick("trust", "--only", "trust.fixed.step_ms")["rows"]
    assert row["id"] == "trust.fixed.step_ms"
    assert row["value"] > 0
