"""The commands around models that ship: a demo of one, adapting one, and what is said where something does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foretell.cli.main import main
from foretell.evaluation import pretrained_demo
from tests.end_to_end.quick import make_quick
from tests.end_to_end.runs import content, refused, rooms, trained

QUICK = ("--steps", "2", "--batch", "8", "--refine", "2", "--distance", "2")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_the_demo_of_a_model_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_quick(monkeypatch)
    for name, value in (("PROBLEMS", 3), ("SHOWN", 1), ("PICTURES", 2)):
        monkeypatch.setattr(pretrained_demo, name, value)
    out = tmp_path / "demo"
    assert main(["demo", "two_rooms_random", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["planning"]["episodes"] == 3
    assert {"random", "straight", "inverse_dynamics", "cloning"} <= result["planning"].keys()
    assert result["seconds"].keys() == {"floors", "replanning", "planning", "total"}
    page = (out / "report.html").read_text()
    assert "foretell demo two_rooms_random" in page
    assert "behaviour cloning, same episodes" in page
    # Again, in place of the first, and as a table.
    assert main(["demo", "two_rooms_random", "--out", str(out)]) == 0
    assert "goals reached, 3 held out" in capsys.readouterr().out


def test_a_run_is_adapted_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_quick(monkeypatch)
    run = trained(rooms(tmp_path / "before"), tmp_path / "run")
    before = content(run)
    now = rooms(tmp_path / "now", 4, "--set", "gain=0.5", "--seed", "3")
    assert main(["adapt", str(run), str(now), "--out", str(tmp_path / "adapted"), *QUICK, "--holdout", "0.25"]) == 0
    said = capsys.readouterr().out
    assert f"Adapted {run} to 3 episodes, 1 held out" in said.replace("\n", " ")
    assert content(run) == before
    assert main(["evaluate", str(tmp_path / "adapted"), "--episodes", "2"]) == 0


def test_mistakes_are_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = rooms(tmp_path / "rooms", 2)
    capsys.readouterr()
    for arguments, message in (
        (["adapt", "moon", str(store), "--out", str(tmp_path / "a")], "moon: a run folder, or one of "),
        (["adapt", "two_rooms_random", str(tmp_path / "no"), "--out", str(tmp_path / "a")], str(tmp_path / "no")),
        (["adapt", "reacher", str(store), "--out", str(tmp_path / "a")], "expected, got"),
        (["adapt", "two_rooms_random", str(store), "--out", str(tmp_path / "a"), "--steps", "0"], "steps"),
        (["demo", "moon"], "demo: a world of two_rooms, glucose, "),
    ):
        assert main([*arguments, "--json"]) == 2, arguments
        captured = capsys.readouterr()
        assert message in refused(captured.err, captured.out)
    assert not (tmp_path / "a").exists()
