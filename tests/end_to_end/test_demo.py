"""`foretell demo`, much reduced: every stage runs, and the reports hold what they promise."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from foretell.cli.main import main
from foretell.evaluation import demo
from foretell.evaluation.experiment import Experiment
from foretell.evaluation.suite import EvaluationConfig
from tests.end_to_end.quick import CONFIG, make_quick
from tests.training.samples import SMALL


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Experiment(
        world="two_rooms",
        options={"episode_steps": 24},
        episodes=8,
        training=replace(SMALL, holdout=0.5),
        evaluation=EvaluationConfig(episodes=2, **CONFIG),  # type: ignore[arg-type]
    )
    make_quick(monkeypatch)
    monkeypatch.setattr(demo, "run_demo", partial(demo.run_demo, settings=settings))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_reports_for_programs_and_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs/demo"
    assert main(["demo", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((out / "report.json").read_text()) == result
    promised = {
        "planning": {"success", "interval", "episodes", "random", "straight", "inverse_dynamics", "replan_ms"},
        "forecast": {"horizon", "rmse_px", "no_change_px"},
        "train": {"seconds", "frames_per_second", "parameters"},
        "seconds": {"record", "train", "calibrate", "evaluate", "total"},
    }
    for part, names in promised.items():
        assert names <= result[part].keys()
    assert result["peak_memory_mb"] > 0
    assert result["seconds"]["total"] >= result["seconds"]["train"]
    page = (out / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "<link" not in page
    assert main(["info", str(out / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["training_episodes"] > 0
    assert main(["demo", "--out", str(out), "--seed", "1"]) == 0
    printed, said = capsys.readouterr()
    assert "goals reached, 2 held out" in printed
    assert f"wrote {out / 'report.html'} and {out / 'report.json'}" in printed
    assert "replacing the earlier demo" in said


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}: a new folder or an earlier demo expected, it holds something else" in said
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert main(["demo", "--out", str(tmp_path / "mine")]) == 2
    assert f"{tmp_path / 'mine'}: a folder expected" in capsys.readouterr().err
