"""Patients from the command line: recorded, learned from, and kept apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.end_to_end.runs import tiny

from foretell.cli.main import main
from foretell.episodes.store import EpisodeStore
from foretell.evaluation import trust
from foretell.training import TrainRecord
from foretell.trust import calibration
from foretell.worlds.glucose import HELD_OUT, TRAINING


def record(path: Path, episodes: int, *options: str) -> None:
    assert (
        main(["record", "glucose", "--episodes", str(episodes), "--out", str(path), "--set", "days=1", *options]) == 0
    )


def test_a_patient_is_trained_on_or_held_out_and_refused_where_both_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "fit", lambda *a, **k: calibration.fit(*a, **k, steps=5))
    record(tmp_path / "logs", 28)
    record(tmp_path / "later", 14, "--seed", "1")
    record(tmp_path / "others", 12, "--set", f"patients={','.join(HELD_OUT)}")
    store = EpisodeStore(tmp_path / "logs")
    assert store.groups == TRAINING * 2
    out = str(tmp_path / "run")
    looking = ("--model.look", "24", "--model.block", "3", "--no-calibrate")
    assert main(["train", str(store.path), "--out", out, *looking, *tiny(holdout=0.3)]) == 0
    made = TrainRecord.read(tmp_path / "run")
    held_out = {store.groups[i] for i in made.held_out}
    assert made.groups == sorted({store.groups[i] for i in made.training})
    assert held_out == set(TRAINING) - set(made.groups)
    assert main(["calibrate", out, str(tmp_path / "later")]) == 2
    words = r"others than .*run was trained on expected, got episodes of adolescent#00\d, .*, of whom it has learned"
    assert re.search(words, capsys.readouterr().err)
    assert main(["calibrate", out, str(tmp_path / "others")]) == 0
    capsys.readouterr()
    assert main(["watch", out, str(tmp_path / "others"), "--json", "--level", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 12


def test_unknown_options_and_patients_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for setting, words in (("day=3", "glucose has no option 'day'; it has"), ("patients=adult#011", "adult#011")):
        arguments = ["record", "glucose", "--episodes", "1", "--out", str(tmp_path / "x"), "--set", setting]
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "x").exists()
