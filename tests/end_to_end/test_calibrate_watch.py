"""Calibrating a run and watching streams with it, as a user does; and what a user gets wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foretell.cli.main import main
from foretell.episodes.store import EpisodeStore
from foretell.evaluation import trust
from foretell.model.checkpoint import load
from foretell.model.readout import Readout
from foretell.trust import calibration
from foretell.trust.calibration import see
from foretell.trust.intervals import Intervals, errors_ahead
from foretell.trust.support import Support
from tests.end_to_end.runs import content, refused, rooms, tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, calibrated, its store, and others."""
    folder = tmp_path_factory.mktemp("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "fit", lambda *a, **k: calibration.fit(*a, **k, steps=40))
        rooms(folder / "rooms", 12)
        rooms(folder / "more", 40, "--seed", "1")
        assert main(["train", str(folder / "rooms"), "--out", str(folder / "run"), "--no-calibrate", *tiny()]) == 0
        assert main(["calibrate", str(folder / "run"), str(folder / "more")]) == 0
    return folder


def say(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    assert main([*map(str, arguments), "--json"]) == code
    return capsys.readouterr()


def test_a_calibrated_run_watches_what_it_was_calibrated_for(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rooms(made / "today", 20, "--seed", "2")
    rooms(made / "dark", 20, "--seed", "2", "--set", "brightness=0.5")
    capsys.readouterr()
    found = {n: json.loads(say(capsys, "watch", made / "run", made / n)[0]) for n in ("today", "dark")}
    assert (found["today"]["episodes"], found["today"]["steps"]) == (20, 20 * 25)
    assert found["today"]["alarmed"] <= 8
    assert found["dark"]["alarmed"] == 20
    first = found["dark"]["events"][0]
    assert first["step"] <= 5
    assert (first["kind"], first["alarm"], first["trusted"]) == ("novelty", True, False)
    assert first["reasons"][0].startswith("camera: unlike training (p = ")


def test_a_calibrated_run_knows_which_plans_it_was_trained_for(made: Path) -> None:
    found, store = load(made / "run"), EpisodeStore(made / "more")
    support = found.parts["support"]
    assert isinstance(support, Support)
    assert support.plans == len(store) == 40
    seen = see(found.model, store.read(0))
    now, acts = seen.latents[0], seen.actions[: 5 * found.model.config.block].reshape(5, -1)
    far = {}
    for name, plan in (("ordinary", acts), ("not allowed", acts + 20.0)):
        imagined = found.model.rollout(now[None, None], plan[None, :0], plan[None, None])[0, 0]
        far[name] = support.leaves(torch.cat([now[None], imagined]), plan, level=0.1)
    assert far["ordinary"] == ()
    assert ("actions", 1) in [(f.what, f.step) for f in far["not allowed"]]


def test_a_calibrated_run_carries_intervals_for_every_horizon(made: Path) -> None:
    found = load(made / "run")
    readout, intervals = found.parts["readout.position"], found.parts["intervals.position"]
    assert isinstance(readout, Readout)
    assert isinstance(intervals, Intervals)
    # Of episodes of 24 steps with blocks of 2.
    assert intervals.horizons == tuple(range(1, 23))
    assert intervals.units == ("px", "px")
    rooms(made / "later", 40, "--seed", "5")
    store, inside = EpisodeStore(made / "later"), []
    for number in range(len(store)):
        seen, episode = see(found.model, store.read(number)), store.read(number, ["position"])
        truth = torch.from_numpy(episode.observations["position"].copy())
        errors = errors_ahead(found.model, readout, seen.latents, seen.actions, truth, intervals.horizons)
        known = ~errors.isnan()
        inside.append(((errors.abs() <= intervals.half_width(0.9)) & known).sum((0, 2)) / known.sum((0, 2)))
    share = torch.stack(inside).nanmean(0)
    assert bool((share > 0.8).all())


def test_a_report_shows_p_values_events_and_where(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rooms(made / "dim", 3, "--seed", "2", "--set", "brightness=0.5")
    capsys.readouterr()
    page = made / "dim.html"
    out, _ = say(capsys, "watch", made / "run", made / "dim", "--report", page)
    text = page.read_text()
    assert json.loads(out)["report"] == str(page)
    for said in ("3 of 3", "p-values", "novelty: camera", "what the score depends on", "camera: unlike training (p = "):
        assert said in text
    _, err = say(capsys, "watch", made / "run", made / "dim", "--report", page, code=2)
    assert "dim.html exists; name another file" in err
    assert page.read_text() == text


def test_events_are_told_as_they_occur(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rooms(made / "night", 2, "--seed", "3", "--set", "brightness=0.5")
    capsys.readouterr()
    assert main(["watch", str(made / "run"), str(made / "night")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^episode 0, step \d: camera: unlike training \(p = ", err)
    assert "2 of 2 episodes alarmed" in out


@pytest.mark.slow
def test_a_store_that_is_still_being_written_is_followed(made: Path) -> None:
    out = made / "growing"
    watching = subprocess.Popen(
        [sys.executable, "-m", "foretell", "watch", made / "run", out, "--follow", "--idle", "12", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    rooms(out, 5, "--seed", "4")
    found = json.loads(watching.communicate(timeout=120)[0])
    assert watching.returncode == 0
    assert found["episodes"] == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "run", "nowhere"), "nowhere: no such folder"),
        (("calibrate", "nowhere", "more"), "a run folder expected, there is none"),
        (("calibrate", "run", "same"), "episodes that .*run was not trained on expected, got 11 that it was: "),
        (("calibrate", "run", "rooms"), "calibration: at least 3 episodes expected, there are 1"),
        (("calibrate", "run", "more", "--level", "0.01"), "need at least 499 calibration episodes, there are 40"),
        (("calibrate", "run", "more", "--level", "1"), "--level: a share between 0 and 1 expected, got 1"),
        (("calibrate", "run", "faster"), "action low .* expected, got"),
        (("watch", "run", "nowhere"), "nowhere: no such folder"),
        (("watch", "bare", "more"), "not calibrated; `foretell calibrate .*bare STORE` does it"),
        (("watch", "run", "more", "--level", "0.001"), "needs at least 3333 calibration episodes, there are 27"),
        (("watch", "run", "more", "--level", "0"), "--level: a share between 0 and 1 expected"),
        (("watch", "run", "faster"), "action low .* expected, got"),
    ],
)
def test_mistakes_get_one_line_and_change_nothing(
    made: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    for name, options in {"same": ("12",), "faster": ("4", "--set", "step=1.0")}.items():
        if not (made / name).exists():
            rooms(made / name, int(options[0]) + (name == "same"), *options[1:])
    if not (made / "bare").exists():
        assert main(["train", str(made / "rooms"), "--out", str(made / "bare"), "--no-calibrate", *tiny()]) == 0
    before = content(made / "run")
    capsys.readouterr()
    command, *places = [made / a if i in (1, 2) else a for i, a in enumerate(arguments)]
    out, err = say(capsys, command, *places, code=2)
    assert re.search(words, refused(err, out))
    assert content(made / "run") == before


def test_training_calibrates_on_what_it_holds_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "fit", lambda *a, **k: calibration.fit(*a, **k, steps=5))
    rooms(tmp_path / "rooms", 10)
    capsys.readouterr()
    out, _ = say(capsys, "train", tmp_path / "rooms", "--out", tmp_path / "run", *tiny(holdout=0.4))
    told = json.loads(out)
    # A third of them gives the steps' scores, the others the alarms.
    alarms = told["held_out"] - max(1, told["held_out"] // 3)
    assert told["lowest_level"] == pytest.approx(1 / (alarms + 1) / calibration.NEW[1])
    assert json.loads(say(capsys, "watch", tmp_path / "run", tmp_path / "rooms")[0])["episodes"] == 10
