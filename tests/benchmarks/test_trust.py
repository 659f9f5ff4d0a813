"""The trust benchmark runs: one row, small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_row_is_printed_under_its_id() -> None:
    pytest.importorskip("sklearn", reason="pip install -e '.[dev]'")
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.trust", "--quick", "--only", "trust.fixed.step_ms", "--json", "-"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert [row["id"] for row in result["rows"]] == ["trust.fixed.step_ms"]
    assert result["rows"][0]["value"] > 0
