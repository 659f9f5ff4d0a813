"""`foretell demo glucose`, much reduced: every answer is given, and what is left behind can be asked further."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from foretell.cli.demo import Demo
from foretell.cli.main import main
from foretell.evaluation import glucose_demo, glucose_watch
from foretell.evaluation.glucose_demo import TRAINING_SETTINGS, GlucoseDemo
from foretell.model.world_model import ModelConfig
from foretell.worlds.glucose import TRAINING
from tests.evaluation.test_report import Page

QUICK = GlucoseDemo(
    training=replace(
        TRAINING_SETTINGS,
        model=ModelConfig(latent=4, block=6, look=24, grounded=("glucose",), features=8, width=8, depth=1),
        steps=20,
        batch=8,
        length=9,
        warmup=1,
        log_steps=1,
    ),
    patients=("adolescent#008", "adult#008"),
    patient="adult#008",
    episodes=28,
    others=14,
    judged=4,
    fitted=3,
    law_steps=5,
    lives=1,
    asked=2,
    days=1,
    each=1,
    # Of so few days nothing is rarer.
    level=0.4,
    shown=("dead",),
)
NOTICE = "For research. Not a medical device."


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    made = partial(glucose_demo.run_glucose_demo, settings=QUICK)
    monkeypatch.setattr(glucose_demo, "run_glucose_demo", made)
    monkeypatch.setattr(glucose_watch, "FAULTS", {"dead": glucose_watch.FAULTS["dead"]})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("glucose") / "runs" / "demo"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_four_answers_about_a_patient_and_beside_them_those_of_all(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a demo that was killed leaves.
    place.mkdir(parents=True)
    (place / "demo.json").write_text('{"kind": "foretell demo"}')
    (place / "run.partial").write_text("killed here")
    capsys.readouterr()
    assert main(["demo", "glucose", "--out", str(place), "--json"]) == 0
    printed, said = capsys.readouterr()
    assert "replacing the earlier demo" in said
    assert not (place / "run.partial").exists()
    result = json.loads(printed)
    assert json.loads((place / "report.json").read_text()) == result
    assert (result["notice"], result["patient"]) == (NOTICE, "adult#008")
    assert result["patients"] == ["adolescent#008", "adult#008"]
    for part in ("forecast", "treatment"):
        assert result[part].keys() == {"patient", "all"}
    assert result["forecast"]["patient"]["minutes"] == [30, 60, 120, 240]
    assert all(x > 0 for who in result["forecast"].values() for x in (*who["rmse"], *who["last_reading"]))
    assert result["coverage_90"].keys() == {"patient", "all", "adult", "adolescent"}
    asked = result["what_if"]["questions"]
    assert [q["asked"] for q in asked][2:5] == [
        "no basal rate for two hours",
        "30 U instead, all that the pump can give",
        "40 U instead",
    ]
    for q in asked:
        assert q["answered"] == (not q["reasons"])
        assert (q["effect"] is not None) == q["answered"]
        assert len(q["true_effect"]) == 49
    assert not asked[3]["answered"]
    assert asked[4]["reasons"] == ["what-if: other plan: action bolus must be within [0, 30], got [0, 40]"]
    # A forgotten bolus leaves glucose higher, in the simulator at least.
    assert asked[0]["true_effect"][48] > 5
    for who in result["treatment"].values():
        for treatment in ("planned", "usual"):
            assert who[treatment]["tir"] + who[treatment]["below_70"] + who[treatment]["above_180"] == pytest.approx(1)
    trust = result["trust"]
    assert trust["all"]["ordinary"]["n"] == 2
    assert trust["all"].keys() == {"ordinary", "dead"}
    assert trust["patient"].keys() == {"ordinary", "dead"}
    assert any(d["kind"] == "stuck" and d["step"] > 432 for d in trust["patient"]["dead"]["departures"])
    assert {"record", "train", "calibrate", "forecast", "what_if", "treat", "watch", "total"} == set(result["seconds"])


def test_the_page_says_whom_it_is_about_and_what_it_is_not_for(place: Path) -> None:
    source = (place / "report.html").read_text()
    page = Page(source)
    text = " ".join(page.texts)
    assert source.index(NOTICE) < source.index("<h1>")
    for words in (
        "1. Forecast",
        "A day of adult#008",
        "Calibration by subgroup",
        "Overlap: where the logs varied treatment",
        "2. What if",
        "action bolus must be within [0, 30], got [0, 40]",
        "3. Treatment",
        "as prescribed",
        "4. May it say so",
        "a sensor stuck on its last reading from noon on",
        "departure: stuck",
        "goes wrong",
    ):
        assert words in text
    described = [v for tag, k, v in page.attributes if tag == "svg" and k == "aria-label"]
    assert any("A day of adult#008. glucose (mg/dL): true glucose" in (v or "") for v in described)


def test_the_run_that_is_left_can_be_asked_and_watched_with(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, later = str(place / "run"), str(tmp_path / "later")
    options = ("--set", "patients=adult#008", "--set", "days=1", "--seed", "7")
    assert main(["record", "glucose", "--episodes", "1", "--out", later, *options]) == 0
    for command in (
        ["what-if", run, later, "--at", "200", "--set", "basal=0"],
        ["watch", run, later, "--level", "0.5", "--report", str(tmp_path / "watched.html")],
        ["overlap", run],
        ["info", run],
        ["info", later],
    ):
        assert shown(capsys, *command)["notice"] == NOTICE
        if "--report" in command:
            (tmp_path / "watched.html").unlink()
        assert main(command) == 0
        assert capsys.readouterr().out.startswith(NOTICE)
    source = (tmp_path / "watched.html").read_text()
    assert source.index(NOTICE) < source.index("<h1>")
    card = (place / "run" / "card.md").read_text()
    assert f"**{NOTICE}**" in card
    assert "Calibrated on 14 other days of the patients" in card
    assert f"| groups (patients, machines) | {len(TRAINING)}, all or none" in card
    assert not [name for name in TRAINING if name in card]


def test_people_are_shown_a_table_and_other_folders_are_left_alone(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = io.StringIO()
    Demo(world="glucose", out=place).show(
        json.loads((place / "report.json").read_text()), Console(file=text, width=120)
    )
    printed = text.getvalue()
    assert printed.startswith(NOTICE)
    for words in ("forecast error, 240 min ahead", "what-ifs answered", "time below 70, planned", "alarmed: ordinary"):
        assert words in printed
    assert f"wrote {place / 'report.html'} and {place / 'report.json'}" in printed
    assert Demo(world="glucose").folder == Path("runs/demo-glucose")
    assert Demo().folder == Path("runs/demo")
    (tmp_path / "mine").write_text("mine")
    assert main(["demo", "glucose", "--out", str(tmp_path)]) == 2
    assert "a new folder or an earlier demo expected" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_an_unknown_world_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "glucos"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "demo: a world of two_rooms, glucose, " in line
    assert line.endswith("expected, got 'glucos'")
