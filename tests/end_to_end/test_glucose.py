"""Patients from the command line: recorded, learned from, and kept apart."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretell.cli.main import main
from foretell.episodes.store import EpisodeStore
from foretell.episodes.writer import EpisodeWriter
from foretell.evaluation import trust
from foretell.evaluation.ledger import Ledger
from foretell.training import TrainRecord
from foretell.trust import calibration
from foretell.worlds.glucose import HELD_OUT, TRAINING, Options, logged
from foretell.worlds.glucose.behaviour import SPEC
from foretell.worlds.glucose.events import disturbed
from foretell.worlds.glucose.ward import DAY
from tests.end_to_end.runs import tiny


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


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned from randomised logs of two patients, and later days of one of them."""
    place = tmp_path_factory.mktemp("asked")
    few = ("--set", "patients=adult#001,adolescent#001")
    record(place / "logs", 16, *few, "--set", "logs=randomised")
    record(place / "plain", 16, *few)
    record(place / "later", 1, *few, "--seed", "5")
    for name in ("logs", "plain"):
        looking = ("--model.look", "24", "--model.block", "6", "--model.grounded", "glucose", "--no-calibrate")
        gains = ("--gains", "insulin+basal+bolus:0.3", "glucose:0.2@110")
        arguments = ["train", str(place / name), "--out", str(place / f"run-{name}"), *gains]
        assert main([*arguments, *tiny(holdout=0.0), *looking]) == 0
    return place


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_overlap_tells_randomised_treatment_from_such_as_follows_from_what_is_seen(
    asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, varied in (("logs", True), ("plain", False)):
        for source in (asked / name, asked / f"run-{name}"):
            basal, bolus = shown(capsys, "overlap", str(source))["actions"]
            assert (basal["action"], basal["varied"], bolus["action"]) == ("basal", varied, "bolus")
            assert (basal["often"] > 0.02) == varied
    assert main(["overlap", str(asked / "plain")]) == 0
    assert "basal: never varied but for reasons that are seen" in capsys.readouterr().out


def test_a_what_if_is_answered_where_logs_can_tell_and_else_says_why_not(
    asked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = (str(asked / "later"), "--at", "200", "--steps", "48", "--set", "basal=0")
    ledger = asked / "ledger.jsonl"
    answer = shown(capsys, "what-if", str(asked / "run-logs"), *question, "--ledger", str(ledger))
    assert answer["answered"]
    assert answer["steps"] == [6, 12, 18, 24, 30, 36, 42, 48]
    for one, other, effect in zip(answer["plan"], answer["other"], answer["effect"], strict=True):
        assert other[0] - one[0] == pytest.approx(effect[0], abs=1e-3)
    assert answer["compared"]["basal"] >= 0.01
    assert answer["ledger"] == json.loads(ledger.read_text())["hash"]
    assert "adult" not in ledger.read_text()
    doubted = shown(capsys, "what-if", str(asked / "run-plain"), *question, "--ledger", str(ledger))
    assert not doubted["answered"]
    assert doubted["effect"] is None
    assert re.search("basal: up to .* U/h less is asked about; in states like this it never", doubted["doubts"][0])
    assert Ledger(ledger).verify() == 2
    assert main(["what-if", str(asked / "run-plain"), *question]) == 0
    assert "No answer: the logs cannot tell." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "basal=-1"), "action basal must be within [0, 8], got [-1, -1]"),
        (("--set", "insulin=1"), "NAME one of basal, bolus, carbohydrates, got 'insulin=1'"),
        (("--set", "bolus=1@48"), "steps are 0 to 47, got 'bolus=1@48'"),
        (("--set", "basal=0", "--steps", "300"), "plans of fewer than 289 steps expected, got 300"),
        (("--set", "basal=0", "--steps", "7"), "plans of a multiple of 6 steps expected, got 7"),
        (("--set", "basal=0", "--at", "289"), "--at: 0 to 288 expected for episode 0, got 289"),
        (("--set", "basal=0", "--episode", "1"), "--episode: 0 to 0 expected, got 1"),
        (("--set", "basal=0", "--channel", "meal"), "glucose can be read in its latents, got 'meal'"),
        ((), "what the other plan does otherwise expected"),
    ],
)
def test_mistakes_in_a_question_get_one_line(
    asked: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    capsys.readouterr()
    assert main(["what-if", str(asked / "run-logs"), str(asked / "later"), *options]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in told


def test_glucose_in_another_unit_is_noticed(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EpisodeWriter(asked / "mmol", SPEC) as writer:
        for episode in EpisodeStore(asked / "later"):
            seen = {**episode.observations, "glucose": episode.observations["glucose"] / 18.016}
            writer.append(replace(episode, observations=seen, group="elsewhere"))
    for command in (["what-if", "--set", "basal=0"], ["calibrate"]):
        capsys.readouterr()
        assert main([command[0], str(asked / "run-logs"), str(asked / "mmol"), *command[1:]]) == 2
        told = capsys.readouterr().err
        assert "channel glucose, field glucose: values around" in told
        assert "mmol/L of glucose instead of mg/dL? Convert them first" in told


def test_once_calibrated_answers_have_intervals_and_a_dead_sensor_is_told_of(
    asked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "fit", lambda *a, **k: calibration.fit(*a, **k, steps=5))
    run, others = asked / "run-calibrated", ("adult#002", "adult#003")
    shutil.copytree(asked / "run-logs", run)
    record(asked / "calibration", 56, "--set", f"patients={','.join(others)}", "--set", "logs=randomised")
    assert main(["calibrate", str(run), str(asked / "calibration")]) == 0
    question = ("--at", "200", "--steps", "24", "--set", "basal=0")
    answer = shown(capsys, "what-if", str(run), str(asked / "later"), *question)
    for low, other, high in zip(answer["low"], answer["other"], answer["high"], strict=True):
        assert low[0] < other[0] < high[0]
    care = Options(logs="randomised", patients=("adult#004",))
    days = {"alive": next(logged(care, 1, seed=3)), "dead": next(disturbed("dead", care, 1, seed=3))[0]}
    for name, episode in days.items():
        with EpisodeWriter(asked / name, SPEC) as writer:
            writer.append(episode)
        found = shown(capsys, "watch", str(run), str(asked / name), "--level", "0.2")["departures"]
        stuck = [each for each in found if "the same value for" in each["reason"]]
        assert bool(stuck) == (name == "dead")
        assert all(each["step"] > DAY for each in stuck)
