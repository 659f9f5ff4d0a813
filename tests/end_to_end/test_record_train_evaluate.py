"""The commands as a user runs them: record, train, evaluate, info; each a process of its own, none of them patched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foretell.spec import Spec
from tests.end_to_end.runs import WORLD, tiny


def foretell(*arguments: object) -> dict[str, Any]:
    """Run a command; what it prints with --json, the only thing on its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "foretell", *map(str, arguments), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_from_nothing_to_figures(tmp_path: Path) -> None:
    rooms, run = tmp_path / "rooms", tmp_path / "run"
    recorded = foretell("record", "two_rooms", "--episodes", 8, "--out", rooms, "--seed", 1, *WORLD)
    trained = foretell("train", rooms, "--out", run, "--seed", 2, *tiny(steps=20))
    assert trained["fingerprint"] == recorded["fingerprint"]
    assert trained["episodes"] + trained["held_out"] == 8
    evaluated = foretell("evaluate", run, "--episodes", 2, "--seed", 3)
    assert (evaluated["world"], evaluated["planning"]["episodes"]) == ("two_rooms", 2)
    assert evaluated["options"]["episode_steps"] == 24
    assert (run / "report.html").stat().st_size > 10_000
    found = foretell("info", run)
    assert found["kind"] == "run"
    assert Spec.from_json(found["spec"]) == Spec.from_json(foretell("info", rooms)["spec"])
    training = found["training"]
    assert (training["finished"], training["seed"], training["fingerprint"]) == (True, 2, recorded["fingerprint"])
    assert (training["training_episodes"], training["held_out_episodes"]) == (trained["episodes"], trained["held_out"])
    assert found["logs"]["log.jsonl"]["last"] == trained["last"]
