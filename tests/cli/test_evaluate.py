"""`foretell evaluate`: figures beside their floors, into the run, for people and for programs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from foretell.cli.main import main
from tests.end_to_end.quick import make_quick
from tests.end_to_end.runs import rooms, trained


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rooms, a store, and run, trained on it."""
    folder = tmp_path_factory.mktemp("kept")
    trained(rooms(folder / "rooms"), folder / "run")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_figures_for_programs_and_for_people(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept / "run", run)
    weights = (run / "model.safetensors").read_bytes()
    assert main(["evaluate", str(run), "--episodes", "2", "--seed", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((run / "evaluation.json").read_text()) == result
    assert (result["run"], result["world"], result["seed"]) == (str(run), "two_rooms", 3)
    planning = result["planning"]
    assert planning["episodes"] == 2
    low, high = planning["interval"]
    assert 0 <= low <= planning["success"] <= high <= 1
    assert {"random", "straight", "inverse_dynamics"} <= planning.keys()
    assert planning["replan_ms"] > 0
    forecast = result["forecast"]
    assert forecast["horizon"] >= 8
    assert forecast["rmse"] > 0
    assert forecast["no_change"] > 0
    page = (run / "report.html").read_text()
    assert "two rooms: evaluation of run" in page
    assert not re.search(r'(?:src|href)="?http', page)
    assert (run / "model.safetensors").read_bytes() == weights
    assert main(["evaluate", str(run), "--episodes", "2", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    for part in (
        "goals reached, 2 held out",
        "random actions",
        "straight at the goal",
        "inverse dynamics, same episodes",
        "nothing changes",
        "replanning, median",
        f"wrote {run}/evaluation.json and {run}/report.html",
    ):
        assert part in out


def test_episodes_that_have_moved_are_found_by_store(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(kept / "run", run)
    shutil.copytree(kept / "rooms", moved)
    note = json.loads((run / "train.json").read_text())
    (run / "train.json").write_text(json.dumps(note | {"store": str(tmp_path / "rooms")}))
    assert main(["evaluate", str(run), "--episodes", "1"]) == 2
    assert f"{tmp_path / 'rooms'}: the episodes that {run} learned from are gone" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--episodes", "1", "--store", str(moved)]) == 0


def test_far_goals_need_a_world_that_has_them(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(kept / "run", run)
    assert main(["evaluate", str(run), "--episodes", "1", "--set", "distance=far"]) == 2
    assert "no goals 60 to 120 steps away with a step of 2" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()
