"""The two-rooms benchmark runs, and prints the rows that it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick_run_prints_success_beside_its_floors() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.two_rooms", "--quick", "--only", "two_rooms.fixed", "--json", "-"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["quick"] is True
    (row,) = found["rows"]
    assert (row["id"], row["n"]) == ("two_rooms.fixed.success", 3)
    assert 0 <= row["interval"][0] <= row["value"] <= row["interval"][1] <= 1
    assert {"random", "straight", "inverse_dynamics", "training_seconds"} <= row["baselines"].keys()
